"""Compares a classifier's graphs with PyTorch, batched with unbatched, and step-wise with one-shot.

Comparisons use several batch sizes, rows of different lengths, extra padding and one long text:

    as PyTorch   a padded batch through the graph and through the module
    unbatched    each row of a padded batch through the graph, against the same text unbatched and unpadded
                 through the module, or through the graph if there is no module
    step         each row after each word through the step graph, against its prefix through the one-shot
                 graph, and through the module if there is one

The second finds errors that the first cannot: a backward direction that starts in the padding, or a mean over
padding, is the same in the graph and in the module, and still wrong.
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
    """Compares `graph` with `module`, or batched with unbatched if there is no module."""
    differences = []
    for rows in sample_texts(vocabulary, recipe.max_words):
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
    """Compares the step graph after every word with the one-shot graph on the whole prefix."""
    sides: list[tuple[str, Answer]] = [("step", graph.run)]
    if module is not None:
        sides.append(("as PyTorch", lambda inputs: answers(module, inputs)))
    differences = []
    for rows in sample_texts(vocabulary, recipe.max_words):
        if len(rows) in STEP_BATCHES:
            results = run_steps(recipe, step, rows)
            for comparison, answer in sides:
                differences += gaps(comparison, len(rows), _prefix_pairs(recipe, rows, results, answer))
    return differences


def sample_texts(vocabulary: int, max_words: int, seed: int = 7) -> Iterator[Rows]:
    """Random batches of ids in [1, vocabulary), one of each size; the largest has one long text."""
    rng = random.Random(seed)
    for rows in BATCHES:
        lengths = [rng.randint(1, TYPICAL_WORDS) for _ in range(rows)]
        if rows == BATCHES[-1]:
            lengths[rows // 2] = min(LONG_WORDS, max_words - max(EXTRA_PADDING))
        yield [[rng.randrange(UNKNOWN_ID, vocabulary) for _ in range(length)] for length in lengths]


def run_steps(recipe: ClassifierRecipe, step: OnnxGraph, rows: Rows) -> list[Arrays]:
    """The step graph's results after each word; a row that has ended repeats its last word."""
    states = {f"{name}_in": torch.zeros(1, len(rows), step.width(f"{name}_in")) for name in recipe.states}
    results = []
    for position in range(max(map(len, rows))):
        token = torch.tensor([row[min(position, len(row) - 1)] for row in rows])
        outputs = step.run({"token": token, **states})
        states = {f"{name}_in": torch.from_numpy(outputs[f"{name}_out"]) for name in recipe.states}
        results.append(outputs)
    return results


def _prefix_pairs(
    recipe: ClassifierRecipe, rows: Rows, results: list[Arrays], answer: Answer
) -> Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    for index, row in enumerate(rows):
        expected = answer(inputs_for(recipe, [row[: end + 1] for end in range(len(row))]))
        for output in recipe.outputs:
            stepped = np.stack([results[position][output.name][index] for position in range(len(row))])
            yield output.name, stepped, expected[output.name]


def _compare(
    recipe: ClassifierRecipe, graph: OnnxGraph, module: nn.Module | None, rows: Rows, extra: int
) -> list[Difference]:
    inputs = inputs_for(recipe, rows, extra)
    try:
        batch = graph.run(inputs)
    except Exception as error:
        return [failed_run(len(rows), error)]
    unbatched = [_answer(recipe, graph, module, row) for row in rows]
    differences = _gaps("unbatched", recipe, batch, unbatched, rows)
    if module is not None:
        batched = answers(module, inputs)
        parts = [_part(recipe, batched, index, len(row)) for index, row in enumerate(rows)]
        differences += _gaps("as PyTorch", recipe, batch, parts, rows)
    return differences


def _answer(recipe: ClassifierRecipe, graph: OnnxGraph, module: nn.Module | None, row: list[int]) -> Arrays:
    inputs = inputs_for(recipe, [row])
    return graph.run(inputs) if module is None else answers(module, inputs)


def _gaps(
    comparison: str, recipe: ClassifierRecipe, batch: Arrays, expected: list[Arrays], rows: Rows
) -> list[Difference]:
    results = [_part(recipe, batch, index, len(row)) for index, row in enumerate(rows)]
    pairs = (
        (output.name, one[output.name], other[output.name])
        for one, other in zip(results, expected, strict=True)
        for output in recipe.outputs
    )
    return gaps(comparison, len(rows), pairs)


def _part(recipe: ClassifierRecipe, arrays: Arrays, index: int, words: int) -> Arrays:
    return {output.name: _cut(output, arrays[output.name], index, words) for output in recipe.outputs}


def _cut(output: RecipeOutput, array: np.ndarray[Any, Any], index: int, words: int) -> np.ndarray[Any, Any]:
    """Row `index`, [1, …], cut to its own words."""
    row = array[index : index + 1]
    for axis in output.word_axes:
        row = row.take(range(min(words, row.shape[axis])), axis=axis)
    return row
