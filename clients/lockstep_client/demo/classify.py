"""Part 1: pairs of texts that differ in one respect, classified by every classifier."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lockstep_client.demo.output import emit
from lockstep_client.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_client import AsyncClient, Classification

PAIRS = (
    ("I am happy", "I am not happy"),
    ("it is sad , not funny", "it is funny , not sad"),
    ("a warm , funny and moving film", "a dull , lifeless mess"),
)
"""The first pair differs in one word, the second in word order; the third is an easy case."""


async def show(client: AsyncClient, names: Sequence[str]) -> None:
    """Print a row per model and a column per pair."""
    texts = [text for pair in PAIRS for text in pair]
    answers = await asyncio.gather(*(client.classify(name, texts) for name in names))
    emit("\nPairs of sentences to every classifier:\n")
    letters = [chr(ord("A") + n) for n in range(len(PAIRS))]
    for letter, (one, other) in zip(letters, PAIRS, strict=True):
        emit(f"  {letter}  {one:<32} {other}")
    emit("")
    table(("model", *letters), [(name, *_row(found)) for name, found in zip(names, answers, strict=True)])
    emit("\nBoth texts of B have the same words: a model that only counts words gives one answer to both.")


def _row(found: Sequence[Classification]) -> list[str]:
    shown = [f"{one.best.name[:8]} {one.best.probability:4.0%}" for one in found]
    return [f"{one}, {other}" for one, other in zip(shown[::2], shown[1::2], strict=True)]
