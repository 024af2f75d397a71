"""Proves a classifier's graphs: the same answers as PyTorch, in company as alone, step by step as at once.

Comparisons over several batch sizes, ragged lengths, extra padding and one long text:

    as PyTorch   a padded batch through the graph, against the same batch through the module
    alone        each row of a padded batch through the graph, against the same text alone and unpadded,
                 through the module where there is one and else through the graph itself
    step         each row after each of its words through the step graph, against the words so far at once,
                 through the one-shot graph; and through the module where there is one

The second finds what the first cannot: a backward direction that starts in the padding, or a mean over
padding, can be "right" on both sides of the first and is still wrong.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lockstep_export.onnx_graph import Arrays, OnnxGraph
from lockstep_export.parity import Difference, answers, failed_run, gaps
from lockstep_zoo.classify.batches import inputs_for
from lockstep_zoo.classify.tokenizer import UNKNOWN_ID
from lockstep_zoo.recipe import ClassifierRecipe, RecipeOutput

BATCHES = (1, 2, 3, 8, 17)
STEP_BATCHES = (1, 3, 8)
EXTRA_PADDING = (0, 5)
TYPICAL_WORDS, LONG_WORDS = 40, 300
ONESHOT, STEP = "model.onnx", "step.onnx"

Rows = list[list[int]]
Answer = Callable[[dict[str, Tensor]], Arrays]


def check_oneshot(
    recipe: ClassifierRecipe, vocabulary: int, graph: OnnxGraph, module: nn.Module | None = None
) -> list[Difference]:
    """Compares `graph` with `module`, or with itself row by row where no module is at hand."""
    differences = []
    for rows in texts(vocabulary, recipe.max_words):
        for extra in EXTRA_PADDING:
            differences += _compare(recipe, graph, module, rows, extra)
    return differences


def check_steps(
    recipe: ClassifierRecipe,
    vocabulary: int,
    step: OnnxGraph,
    graph: OnnxGraph,
    module: nn.Module | None = None,
) -> list[Difference]:
    """Compares the step graph after every word with the whole beginning at once."""
    sides: list[tuple[str, Answer]] = [("step", graph.run)]
    if module is not None:
        sides.append(("as PyTorch", lambda inputs: answers(module, inputs)))
    differences = []
    for rows in texts(vocabulary, recipe.max_words):
        if len(rows) in STEP_BATCHES:
            found = walk(recipe, step, rows)
            for comparison, answer in sides:
                differences += gaps(comparison, len(rows), _prefixes(recipe, rows, found, answer))
    return differences


def texts(vocabulary: int, max_words: int, seed: int = 7) -> Iterator[Rows]:
    """Made-up batches of ids in [1, vocabulary): one of each size, the largest with one long text in it."""
    chance = random.Random(seed)
    for rows in BATCHES:
        lengths = [chance.randint(1, TYPICAL_WORDS) for _ in range(rows)]
        if rows == BATCHES[-1]:
            lengths[rows // 2] = min(LONG_WORDS, max_words - max(EXTRA_PADDING))
        yield [[chance.randrange(UNKNOWN_ID, vocabulary) for _ in range(length)] for length in lengths]


def walk(recipe: ClassifierRecipe, step: OnnxGraph, rows: Rows) -> list[Arrays]:
    """The step graph's answers after each word; a row that has ended is fed on, and not looked at."""
    states = {f"{name}_in": torch.zeros(1, len(rows), step.width(f"{name}_in")) for name in recipe.states}
    found = []
    for place in range(max(map(len, rows))):
        token = torch.tensor([row[min(place, len(row) - 1)] for row in rows])
        given = step.run({"token": token, **states})
        states = {f"{name}_in": torch.from_numpy(given[f"{name}_out"]) for name in recipe.states}
        found.append(given)
    return found


def _prefixes(
    recipe: ClassifierRecipe, rows: Rows, found: list[Arrays], answer: Answer
) -> Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    for index, row in enumerate(rows):
        at_once = answer(inputs_for(recipe, [row[: end + 1] for end in range(len(row))]))
        for output in recipe.outputs:
            stepped = np.stack([found[place][output.name][index] for place in range(len(row))])
            yield output.name, stepped, at_once[output.name]


def _compare(
    recipe: ClassifierRecipe, graph: OnnxGraph, module: nn.Module | None, rows: Rows, extra: int
) -> list[Difference]:
    inputs = inputs_for(recipe, rows, extra)
    try:
        batch = graph.run(inputs)
    except Exception as error:
        return [failed_run(len(rows), error)]
    alone = [_answer(recipe, graph, module, row) for row in rows]
    differences = _gaps("alone", recipe, batch, alone, rows)
    if module is not None:
        together = answers(module, inputs)
        parts = [_part(recipe, together, index, len(row)) for index, row in enumerate(rows)]
        differences += _gaps("as PyTorch", recipe, batch, parts, rows)
    return differences


def _answer(recipe: ClassifierRecipe, graph: OnnxGraph, module: nn.Module | None, row: list[int]) -> Arrays:
    inputs = inputs_for(recipe, [row])
    return graph.run(inputs) if module is None else answers(module, inputs)


def _gaps(
    comparison: str, recipe: ClassifierRecipe, batch: Arrays, expected: list[Arrays], rows: Rows
) -> list[Difference]:
    found = [_part(recipe, batch, index, len(row)) for index, row in enumerate(rows)]
    pairs = (
        (output.name, one[output.name], other[output.name])
        for one, other in zip(found, expected, strict=True)
        for output in recipe.outputs
    )
    return gaps(comparison, len(rows), pairs)


def _part(recipe: ClassifierRecipe, arrays: Arrays, index: int, words: int) -> Arrays:
    return {output.name: _cut(output, arrays[output.name], index, words) for output in recipe.outputs}


def _cut(output: RecipeOutput, array: np.ndarray[Any, Any], index: int, words: int) -> np.ndarray[Any, Any]:
    """Row `index`, [1, …], cut back to its own words."""
    row = array[index : index + 1]
    for axis in output.word_axes:
        row = row.take(range(min(words, row.shape[axis])), axis=axis)
    return row
