"""The fifth act: a sentence word by word, the prediction moving with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockstep_client.demo.output import emit
from lockstep_client.tables import table

if TYPE_CHECKING:
    from lockstep_client import AsyncClient

SENTENCE = "a dull start , but then a wonderful and moving film"
HEADER = ("word", "so far", "", "computed", "ms")
BAR = 20


async def show(client: AsyncClient, model: str) -> None:
    """A row for each word."""
    emit(f"\n{model} reads a sentence word by word, one step each:\n")
    rows = []
    async for one in client.follow(model, SENTENCE):
        bar = "#" * round(BAR * one.best.probability)
        told = f"{one.best.name} {one.best.probability:.0%}"
        took = f"{one.timings.compute_s * 1e3:.2f}"
        rows.append((one.element, told, bar.ljust(BAR), str(one.computed_elements), took))
    table(HEADER, rows, left=3)
