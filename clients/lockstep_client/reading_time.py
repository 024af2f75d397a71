"""One text, read once in one way: how long it took, and what it cost.

Seconds to a prediction are this client's; compute is the server's. Runs are shared: of a run with several
rows a prediction is charged its share, so that the charges of one text add up to what it cost.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from lockstep_client.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from lockstep_client.client import AsyncClient
    from lockstep_client.results import Classification, Label
    from lockstep_client.stream_results import Prediction


@dataclass(frozen=True)
class ReadingTime:
    """What one reading took."""

    first_s: float
    """To the first prediction."""
    last_s: float
    """To the last one, which has read the whole text."""
    compute_s: float
    """In the session: the share of its runs that was this text's."""
    steps: int
    """Predictions: one for each element, or one in all."""
    computed_elements: int
    answer: Label
    """Of the last prediction, the most probable label."""

    @property
    def compute_per_step_s(self) -> float:
        """Of one prediction, the mean."""
        return self.compute_s / self.steps


async def run(
    client: AsyncClient, model: str, text: str, *, follow: bool, moved: Callable[[int], None] | None = None
) -> ReadingTime:
    """Read the text, with a prediction after each element or with one in all.

    `moved` is told after each prediction how many there are.
    """
    begun, first_s = time.perf_counter(), 0.0
    seen: list[Prediction | Classification] = []
    async for prediction in _predictions(client, model, text, follow=follow):
        seen.append(prediction)
        first_s = first_s or time.perf_counter() - begun
        if moved:
            moved(len(seen))
    last_s = time.perf_counter() - begun
    if not seen:
        raise InvalidRequest(f"model {model!r} predicted nothing after {text!r}")
    return ReadingTime(
        first_s,
        last_s,
        compute_s=sum(p.timings.compute_s / max(p.timings.batch_rows, 1.0) for p in seen),
        steps=len(seen),
        computed_elements=sum(_computed(p) for p in seen),
        answer=seen[-1].best,
    )


def median_lap(laps: Sequence[ReadingTime]) -> ReadingTime | None:
    """The median of each time; None where there is no lap."""
    if not laps:
        return None
    return replace(
        laps[-1],
        first_s=median(one.first_s for one in laps),
        last_s=median(one.last_s for one in laps),
        compute_s=median(one.compute_s for one in laps),
    )


async def _predictions(
    client: AsyncClient, model: str, text: str, *, follow: bool
) -> AsyncIterator[Prediction | Classification]:
    if not follow:
        yield (await client.classify(model, text, top_k=1))[0]
        return
    async with client.follow(model, text, top_k=1) as stream:
        async for prediction in stream:
            yield prediction


def _computed(prediction: Prediction | Classification) -> int:
    """Elements that the model computed for it: of a whole text, all."""
    return getattr(prediction, "computed_elements", 0) or getattr(prediction, "length", 0)
