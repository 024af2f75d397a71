"""Proves a language model's graphs, with ragged prompts, several batch sizes and extra padding.

    prefill      what a whole prompt leaves, in company and padded, against the module alone with it
    step         the logits after every token, fed one by one, against the module given all at once
    forced       the states after a prompt in one run, against the same prompt fed step by step
    rows         any number of rows of one step, against the same rows among 128: bit for bit
    at once      the logits at every place of a padded batch, against those of the step graph, one by one

The first two need the module; the others hold the graphs against themselves.
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
COMPANY = (1, 2, 3, 4, 5, 8, 16, 31, 32, 64, 100, 127)  # rows that are compared with the same among MOST
MOST = 128
DRIFT = 1e-4  # two ways to sum, each fed back hundreds of times: their rounding is fed back too

Rows = list[list[int]]
Pairs = Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def check(
    recipe: LanguageModelRecipe,
    vocabulary: int,
    prefill: OnnxGraph | None,
    step: OnnxGraph,
    module: nn.Module | None = None,
) -> list[Difference]:
    """All comparisons that there are graphs for; those with PyTorch only where there is a module."""
    differences = check_rows(recipe, vocabulary, step)
    for rows in prompts(vocabulary):
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
    """Every place of ragged and padded texts at once, against the steps that lead there."""
    differences = []
    for rows in prompts(vocabulary):
        walked = walk(recipe, step, rows)
        for extra in EXTRA_PADDING:
            logits = oneshot.run({"tokens": padded(rows, extra)[0]})["logits"]
            differences += gaps("at once", len(rows), _places(rows, logits, walked), DRIFT)
    return differences


def prompts(vocabulary: int, seed: int = 7) -> Iterator[Rows]:
    """Made-up ids in [0, vocabulary): one batch of each size, the largest with one long prompt in it."""
    chance = random.Random(seed)
    for rows in BATCHES:
        lengths = [chance.randint(1, TYPICAL_PROMPT) for _ in range(rows)]
        if rows == BATCHES[-1]:
            lengths[rows // 2] = LONG_PROMPT
        yield [[chance.randrange(vocabulary) for _ in range(length)] for length in lengths]


def check_rows(recipe: LanguageModelRecipe, vocabulary: int, step: OnnxGraph) -> list[Difference]:
    """One step of the first so many rows, against the same rows of one step of 128."""
    tokens = torch.arange(MOST) % vocabulary
    states = zeros(recipe, step, MOST)
    for _ in range(WARM_STEPS):
        states = following(recipe, step.run({"token": tokens, **states}))
        tokens = (tokens * 7 + 3) % vocabulary
    whole = step.run({"token": tokens, **states})
    differences = []
    for rows in COMPANY:
        part = step.run({"token": tokens[:rows], **{name: state[:, :rows] for name, state in states.items()}})
        pairs = ((name, part[name], _first(whole[name], name, rows)) for name in part)
        differences += gaps("rows", rows, pairs, EXACT)
    return differences


def zeros(recipe: LanguageModelRecipe, step: OnnxGraph, rows: int) -> dict[str, Tensor]:
    """The states before anything was read."""
    shapes = {tensor.name: tensor.shape for tensor in step.session.get_inputs()}
    names = [f"{name}_in" for name in recipe.states]
    return {name: torch.zeros(shapes[name][0], rows, shapes[name][2]) for name in names}


def following(recipe: LanguageModelRecipe, given: Arrays) -> dict[str, Tensor]:
    """A step's outputs as the next one's inputs."""
    return {f"{name}_in": from_numpy(given[f"{name}_out"]) for name in recipe.states}


def _first(array: np.ndarray[Any, Any], name: str, rows: int) -> np.ndarray[Any, Any]:
    return array[:rows] if name == "logits" else array[:, :rows]


def _forced(recipe: LanguageModelRecipe, prefill: OnnxGraph, step: OnnxGraph, rows: Rows) -> list[Difference]:
    tokens, lengths = padded(rows)
    at_once = prefill.run({"tokens": tokens, "lengths": lengths})
    walked = walk(recipe, step, rows)

    def pairs() -> Pairs:
        for index, row in enumerate(rows):
            last = walked[len(row) - 1]
            yield "logits", at_once["logits"][index], last["logits"][index]
            for name in recipe.states:
                yield f"{name}0", at_once[f"{name}0"][:, index], last[f"{name}_out"][:, index]

    return gaps("forced", len(rows), pairs(), DRIFT)


def walk(recipe: LanguageModelRecipe, step: OnnxGraph, rows: Rows) -> list[Arrays]:
    """The step graph's answers after each token; a row that has ended is fed on, and not looked at."""
    states, found = zeros(recipe, step, len(rows)), []
    for place in range(max(map(len, rows))):
        token = torch.tensor([row[min(place, len(row) - 1)] for row in rows])
        found.append(step.run({"token": token, **states}))
        states = following(recipe, found[-1])
    return found


def _places(rows: Rows, logits: np.ndarray[Any, Any], walked: list[Arrays]) -> Pairs:
    for index, row in enumerate(rows):
        for place in range(len(row)):
            yield "logits", logits[index, place], walked[place]["logits"][index]


def _prefill(
    recipe: LanguageModelRecipe, graph: OnnxGraph, module: nn.Module, rows: Rows
) -> list[Difference]:
    differences = []
    for extra in EXTRA_PADDING:
        tokens, lengths = padded(rows, extra)
        given = graph.run({"tokens": tokens, "lengths": lengths})
        differences += gaps("prefill", len(rows), _alone(recipe, given, module, rows))
    return differences


@torch.no_grad()
def _alone(recipe: LanguageModelRecipe, given: Arrays, module: nn.Module, rows: Rows) -> Pairs:
    for index, row in enumerate(rows):
        logits, states = module(*padded([row]))
        yield "logits", given["logits"][index], logits[-1, 0].numpy()
        for name, state in zip(recipe.states, states, strict=True):
            yield f"{name}0", given[f"{name}0"][:, index], state[:, 0].numpy()


@torch.no_grad()
def _stepped(recipe: LanguageModelRecipe, step: OnnxGraph, module: nn.Module, rows: Rows) -> Pairs:
    walked = walk(recipe, step, rows)
    for index, row in enumerate(rows):
        logits, _ = module(*padded([row]))
        stepped = np.stack([walked[place]["logits"][index] for place in range(len(row))])
        yield "logits", stepped, logits[:, 0].numpy()
