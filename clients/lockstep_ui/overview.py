"""What the view Models shows: counts of each model, what its runs cost, and how much of them was padding."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from lockstep_client.errors import LockstepError
from lockstep_ui import problems

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from lockstep_client.client import AsyncClient
    from lockstep_client.operations import Run

PADDING = (0.0, 0.1, 0.25, 0.5, 1.0)
"""The largest shares of padding that are counted together."""


def padding(runs: Iterable[Run], names: Collection[str]) -> dict[str, list[int]]:
    """The number of runs with each share of padding, by the name and version of the model's form.

    `names` are those of all forms: the steps of a model that has a form NAME.step count as that form's.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(PADDING))
    for run in runs:
        step = f"{run.model}.step"
        name = step if run.kind != "ONE_SHOT" and step in names else run.model
        counts[f"{name} {run.version}"][bisect_left(PADDING, run.padding)] += 1
    return counts


async def overview(client: AsyncClient, address: str) -> dict[str, Any]:
    """All of it. The record of runs may be for other callers only: then there is a problem in its place."""
    counted, forms = await asyncio.gather(client.model_statistics(), client.describe())
    try:
        runs = await client.runs().result()
    except LockstepError as error:
        recorded: Any = {"problem": problems.of_error(error, address)}
    else:
        recorded = padding(runs, {form.name for form in forms})
    return {"counted": counted, "forms": forms, "padding": recorded}
