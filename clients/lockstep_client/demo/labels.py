"""The first act: the same sentences to every classifier, side by side."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lockstep_client.demo.telling import say
from lockstep_client.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_client import AsyncClient

SENTENCES = (
    "I am happy",
    "I am not happy",
    "a warm , funny and moving film",
    "a dull , lifeless mess that never finds its story",
    "it is funny , not sad",
    "it is sad , not funny",
)
"""The first pair differs by one word, the last holds the same words in another order."""


async def show(client: AsyncClient, names: Sequence[str]) -> None:
    """A column for each model."""
    answers = await asyncio.gather(*(client.classify(name, SENTENCES) for name in names))
    say("\nThe same sentences, each model:\n")
    columns = [[f"{a.best.name} {a.best.probability:.0%}" for a in column] for column in answers]
    table(("sentence", *names), list(zip(SENTENCES, *columns, strict=True)))
    say("\nThe last two hold the same words in another order: a bag of words cannot tell them apart.")
