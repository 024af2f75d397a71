"""Compares a language model's graphs, with prompts of different lengths, several batch sizes and padding.

    prefill      logits and states after a whole prompt, batched and padded, against the module unbatched
    step         the logits after each token, step by step, against the module on the whole prompt
    forced       the states after a prompt in one run, against the same prompt step by step
    rows         one step with any number of rows, against the same rows in a batch of 128: bit for bit
    one-shot     the logits at every position of a padded batch, against those of the step graph

The first two need the module; the others compare the graphs with each other.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, from_numpy, nn

from lockstep_export.onnx_graph import Arrays, OnnxGraph
from lockstep_export.parity import EXACT, Difference, failed_run, gaps
from lockstep_export.ragged import padded
from lockstep_zoo.recipe import LanguageModelRecipe

PREFILL, STEP, ONESHOT = "prefill.onnx", "step.onnx", "model.onnx"
BATCHES = (1, 2, 3, 8, 17)
EXTRA_PADDING = (0, 5)
TYPICAL_PROMPT, LONG_PROMPT, WARM_STEPS = 60, 400, 10
ROW_COUNTS = (1, 2, 3, 4, 5, 8, 16, 31, 32, 64, 100, 127)  # compared with the same rows in a batch of MOST
MOST = 128
DRIFT = 1e-4  # two orders of summation over hundreds of steps: rounding errors accumulate

Rows = list[list[int]]
Pairs = Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def check(
    recipe: LanguageModelRecipe,
    vocabulary: int,
    prefill: OnnxGraph | None,
    step: OnnxGraph,
    module: nn.Module | None = None,
) -> list[Difference]:
    """All comparisons for which there are graphs; those with PyTorch only if `module` is given."""
    differences = check_rows(recipe, vocabulary, step)
    for rows in sample_prompts(vocabulary):
        try:
            if prefill is not None:
                differences += _forced(recipe, prefill, step, rows)
                if module is not None:
                    differences += _prefill(recipe, prefill, module, rows)
            if module is not None:
                differences += gaps("step", len(rows), _stepped(recipe, step, module, rows))
        except Exception as error:
            differences.append(failed_run(len(rows), error))
    return differences


def check_oneshot(
    recipe: LanguageModelRecipe, vocabulary: int, oneshot: OnnxGraph, step: OnnxGraph
) -> list[Difference]:
    """Every position of padded texts in one run, against the step graph."""
    differences = []
    for rows in sample_prompts(vocabulary):
        steps = run_steps(recipe, step, rows)
        for extra in EXTRA_PADDING:
            logits = oneshot.run({"tokens": padded(rows, extra)[0]})["logits"]
            differences += gaps("one-shot", len(rows), _positions(rows, logits, steps), DRIFT)
    return differences


def sample_prompts(vocabulary: int, seed: int = 7) -> Iterator[Rows]:
    """Random ids in [0, vocabulary), one batch of each size; the largest has one long prompt."""
    rng = random.Random(seed)
    for rows in BATCHES:
        lengths = [rng.randint(1, TYPICAL_PROMPT) for _ in range(rows)]
        if rows == BATCHES[-1]:
            lengths[rows // 2] = LONG_PROMPT
        yield [[rng.randrange(vocabulary) for _ in range(length)] for length in lengths]


def check_rows(recipe: LanguageModelRecipe, vocabulary: int, step: OnnxGraph) -> list[Difference]:
    """One step of the first rows of a batch, against the same rows of one step with all 128."""
    tokens = torch.arange(MOST) % vocabulary
    states = initial_states(recipe, step, MOST)
    for _ in range(WARM_STEPS):
        states = next_states(recipe, step.run({"token": tokens, **states}))
        tokens = (tokens * 7 + 3) % vocabulary
    whole = step.run({"token": tokens, **states})
    differences = []
    for rows in ROW_COUNTS:
        part = step.run({"token": tokens[:rows], **{name: state[:, :rows] for name, state in states.items()}})
        pairs = ((name, part[name], _first(whole[name], name, rows)) for name in part)
        differences += gaps("rows", rows, pairs, EXACT)
    return differences


def initial_states(recipe: LanguageModelRecipe, step: OnnxGraph, rows: int) -> dict[str, Tensor]:
    """The states before the first token: zeros."""
    shapes = {tensor.name: tensor.shape for tensor in step.session.get_inputs()}
    names = [f"{name}_in" for name in recipe.states]
    return {name: torch.zeros(shapes[name][0], rows, shapes[name][2]) for name in names}


def next_states(recipe: LanguageModelRecipe, outputs: Arrays) -> dict[str, Tensor]:
    """The state inputs of the next step, from the outputs of a step."""
    return {f"{name}_in": from_numpy(outputs[f"{name}_out"]) for name in recipe.states}


def _first(array: np.ndarray[Any, Any], name: str, rows: int) -> np.ndarray[Any, Any]:
    return array[:rows] if name == "logits" else array[:, :rows]


def _forced(recipe: LanguageModelRecipe, prefill: OnnxGraph, step: OnnxGraph, rows: Rows) -> list[Difference]:
    tokens, lengths = padded(rows)
    prefilled = prefill.run({"tokens": tokens, "lengths": lengths})
    steps = run_steps(recipe, step, rows)

    def pairs() -> Pairs:
        for index, row in enumerate(rows):
            last = steps[len(row) - 1]
            yield "logits", prefilled["logits"][index], last["logits"][index]
            for name in recipe.states:
                yield f"{name}0", prefilled[f"{name}0"][:, index], last[f"{name}_out"][:, index]

    return gaps("forced", len(rows), pairs(), DRIFT)


def run_steps(recipe: LanguageModelRecipe, step: OnnxGraph, rows: Rows) -> list[Arrays]:
    """The step graph's results after each token; a row that has ended repeats its last token."""
    states, results = initial_states(recipe, step, len(rows)), []
    for position in range(max(map(len, rows))):
        token = torch.tensor([row[min(position, len(row) - 1)] for row in rows])
        results.append(step.run({"token": token, **states}))
        states = next_states(recipe, results[-1])
    return results


def _positions(rows: Rows, logits: np.ndarray[Any, Any], steps: list[Arrays]) -> Pairs:
    for index, row in enumerate(rows):
        for position in range(len(row)):
            yield "logits", logits[index, position], steps[position]["logits"][index]


def _prefill(
    recipe: LanguageModelRecipe, graph: OnnxGraph, module: nn.Module, rows: Rows
) -> list[Difference]:
    differences = []
    for extra in EXTRA_PADDING:
        tokens, lengths = padded(rows, extra)
        outputs = graph.run({"tokens": tokens, "lengths": lengths})
        differences += gaps("prefill", len(rows), _unbatched(recipe, outputs, module, rows))
    return differences


@torch.no_grad()
def _unbatched(recipe: LanguageModelRecipe, outputs: Arrays, module: nn.Module, rows: Rows) -> Pairs:
    for index, row in enumerate(rows):
        logits, states = module(*padded([row]))
        yield "logits", outputs["logits"][index], logits[-1, 0].numpy()
        for name, state in zip(recipe.states, states, strict=True):
            yield f"{name}0", outputs[f"{name}0"][:, index], state[:, 0].numpy()


@torch.no_grad()
def _stepped(recipe: LanguageModelRecipe, step: OnnxGraph, module: nn.Module, rows: Rows) -> Pairs:
    steps = run_steps(recipe, step, rows)
    for index, row in enumerate(rows):
        logits, _ = module(*padded([row]))
        stepped = np.stack([steps[position]["logits"][index] for position in range(len(row))])
        yield "logits", stepped, logits[:, 0].numpy()
