"""Proves an exported graph: the same answers as PyTorch, and the same in company as alone.

Two comparisons over several batch sizes, ragged lengths, extra padding and one long text:

    as PyTorch   a padded batch through the graph, against the same batch through the module
    alone        each row of a padded batch through the graph, against the same text alone and unpadded,
                 through the module where there is one and else through the graph itself

The second finds what the first cannot: a backward direction that starts in the padding, or a mean over
padding, can be "right" on both sides of the first and is still wrong.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lockstep_export.batches import inputs_for
from lockstep_export.errors import ParityError
from lockstep_export.graph import Arrays, Graph
from lockstep_export.tokenizer import UNKNOWN_ID
from lockstep_export.zoo.recipe import Output, Recipe

TOLERANCE = 1e-5  # of the largest value where that is above one, else absolute
BATCHES = (1, 2, 3, 8, 17)
EXTRA_PADDING = (0, 5)
TYPICAL_WORDS, LONG_WORDS = 40, 300

Rows = list[list[int]]


@dataclass(frozen=True)
class Difference:
    """The largest gap found by one comparison for one output, as a share of the tolerance's unit."""

    comparison: str
    output: str
    rows: int
    largest: float
    note: str = ""

    @property
    def within(self) -> bool:
        """False for a gap above the tolerance, and for anything that is not a number."""
        return self.largest <= TOLERANCE

    def __str__(self) -> str:
        verdict = "ok" if self.within else "DIFFERS"
        text = f"{self.comparison:<10} {self.output:<10} rows {self.rows:>3}  {self.largest:.1e}  {verdict}"
        return f"{text}  {self.note}".rstrip()


@dataclass(frozen=True)
class Parity:
    """Every comparison made for one model."""

    model: str
    differences: list[Difference]

    @property
    def worst(self) -> float:
        """The largest gap of all; infinite where a run failed or a shape was wrong."""
        return max((gap.largest if gap.largest == gap.largest else np.inf) for gap in self.differences)

    def require(self) -> None:
        """Raises ParityError with the failed comparisons when there is one."""
        failed = [str(gap) for gap in self.differences if not gap.within]
        if failed:
            many = f"{len(failed)} of {len(self.differences)} comparisons differ by more than {TOLERANCE:g}"
            raise ParityError("\n  ".join([f"{self.model}: the exported graph is refused, {many}", *failed]))


def check_parity(recipe: Recipe, vocabulary: int, graph: Graph, module: nn.Module | None = None) -> Parity:
    """Compares `graph` with `module`, or with itself row by row where no module is at hand."""
    differences = []
    for rows in texts(vocabulary, recipe.max_words):
        for extra in EXTRA_PADDING:
            differences += _compare(recipe, graph, module, rows, extra)
    return Parity(recipe.name, differences)


def texts(vocabulary: int, max_words: int, seed: int = 7) -> Iterator[Rows]:
    """Made-up batches of ids in [1, vocabulary): one of each size, the largest with one long text in it."""
    chance = random.Random(seed)
    for rows in BATCHES:
        lengths = [chance.randint(1, TYPICAL_WORDS) for _ in range(rows)]
        if rows == BATCHES[-1]:
            lengths[rows // 2] = min(LONG_WORDS, max_words - max(EXTRA_PADDING))
        yield [[chance.randrange(UNKNOWN_ID, vocabulary) for _ in range(length)] for length in lengths]


def _compare(
    recipe: Recipe, graph: Graph, module: nn.Module | None, rows: Rows, extra: int
) -> list[Difference]:
    inputs = inputs_for(recipe, rows, extra)
    try:
        batch = graph.run(inputs)
    except Exception as error:  # what ONNX Runtime raises where an axis was frozen has no one type
        return [Difference("run", "any", len(rows), np.inf, " ".join(str(error).split())[:200])]
    alone = [_answer(recipe, graph, module, row) for row in rows]
    differences = _gaps("alone", recipe, batch, alone, rows)
    if module is not None:
        together = _run(module, inputs)
        parts = [_part(recipe, together, index, len(row)) for index, row in enumerate(rows)]
        differences += _gaps("as PyTorch", recipe, batch, parts, rows)
    return differences


def _answer(recipe: Recipe, graph: Graph, module: nn.Module | None, row: list[int]) -> Arrays:
    inputs = inputs_for(recipe, [row])
    return graph.run(inputs) if module is None else _run(module, inputs)


@torch.no_grad()
def _run(module: nn.Module, inputs: dict[str, torch.Tensor]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in module(**inputs).items()}


def _gaps(
    comparison: str, recipe: Recipe, batch: Arrays, expected: list[Arrays], rows: Rows
) -> list[Difference]:
    differences = []
    for output in recipe.outputs:
        gaps = [
            _gap(_cut(output, batch[output.name], index, len(row)), alone[output.name])
            for index, (row, alone) in enumerate(zip(rows, expected, strict=True))
        ]
        differences.append(Difference(comparison, output.name, len(rows), float(np.max(gaps))))
    return differences


def _part(recipe: Recipe, arrays: Arrays, index: int, words: int) -> Arrays:
    return {output.name: _cut(output, arrays[output.name], index, words) for output in recipe.outputs}


def _cut(output: Output, array: np.ndarray[Any, Any], index: int, words: int) -> np.ndarray[Any, Any]:
    """Row `index`, [1, …], cut back to its own words."""
    row = array[index : index + 1]
    for axis in output.word_axes:
        row = row.take(range(min(words, row.shape[axis])), axis=axis)
    return row


def _gap(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    if found.shape != expected.shape:
        return np.inf
    return float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
