"""Part 5: the prediction after each word of a sentence."""

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
    """Print a row per word."""
    emit(f"\n{model} reads a sentence word by word, one step each:\n")
    rows = []
    async for prediction in client.follow(model, SENTENCE):
        bar = "#" * round(BAR * prediction.best.probability)
        label = f"{prediction.best.name} {prediction.best.probability:.0%}"
        compute_ms = f"{prediction.timings.compute_s * 1e3:.2f}"
        computed = str(prediction.computed_elements)
        rows.append((prediction.element, label, bar.ljust(BAR), computed, compute_ms))
    table(HEADER, rows, left=3)
