"""The common part of the language model tasks: what their graphs take, return and carry.

The task of each corpus (`shakespeare`, `captions`) adds the data, the tokenizer and the measure.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, from_numpy, nn

from lockstep_export import Generate, State, Whole
from lockstep_export.forms import ModelForms
from lockstep_export.onnx_graph import Arrays, OnnxGraph
from lockstep_export.parity import TOLERANCE
from lockstep_export.ragged import padded
from lockstep_export.stepwise import stepwise_forms
from lockstep_zoo.recipe import LanguageModelRecipe
from lockstep_zoo.task import Task

T = TypeVar("T")  # the texts of the data folder
C = TypeVar("C")  # the corpus: the texts as ids

EXAMPLE = [[3, 4, 5, 6, 7], [8, 9, 10], [11, 12, 13, 14]]  # any ids: both axes are dynamic
PAST = "past"
MAX_POSITIONS = 1024  # of a batch with a score for every word at each of them


class LanguageTask(Task[LanguageModelRecipe, T, C]):
    """The continuation of a text."""

    name = "generate"
    tokenizers = ("tokenizer.json",)

    @abstractmethod
    def task(self, tokenizer: Tokenizer) -> Generate:
        """The task, with the ids that begin a text without a prompt and end a text."""

    def forms(
        self, recipe: LanguageModelRecipe, module: nn.Module, tokenizers: list[Tokenizer]
    ) -> ModelForms:
        [tokenizer] = tokenizers
        vocabulary = tokenizer.get_vocab_size()
        tokens, lengths = padded(EXAMPLE)
        text: dict[str, Any] = {"axes": {"tokens": "batch prompt"}, "ids": {"tokens": vocabulary}}
        time = PAST if recipe.caches else "prompt"
        prompt = text | {"axes": {"tokens": f"batch {time}", "lengths": "batch"}, "lengths": "lengths"}
        serving: dict[str, Any] = {
            "task": replace(self.task(tokenizer), max_tokens=recipe.max_tokens),
            "tokenizer": tokenizer,
            "longest": recipe.max_prompt,
            "tolerance": TOLERANCE,
            "exact": not recipe.caches,  # sums over a cache depend on its padding, by rounding
            "about": recipe.about,
        }
        if recipe.oneshot:  # a score for every word at every position: few positions share a batch
            serving["max_padded_elements"] = MAX_POSITIONS
        if recipe.caches:  # of their real elements
            serving["lengths"] = "lengths"
        example, axes = _example(recipe, tokens)
        return stepwise_forms(
            recipe.step(module),
            example,
            axes=axes,
            ids={"token": vocabulary},
            states={
                f"{name}_in": State(
                    f"{name}_new" if name in recipe.caches else f"{name}_out",
                    prefill=f"{name}0" if recipe.prefill else "",
                    name=name,
                    grows=name in recipe.caches,
                )
                for name in (*recipe.states, *recipe.caches)
            },
            prefill=Whole(recipe.prefill(module), {"tokens": tokens, "lengths": lengths}, **prompt)
            if recipe.prefill
            else None,
            oneshot=Whole(recipe.oneshot(module), {"tokens": tokens}, **text) if recipe.oneshot else None,
            **serving,
        )


def _example(recipe: LanguageModelRecipe, tokens: Tensor) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The inputs of a step of each row's first token, and their axes; caches have as many elements as
    `tokens` has columns."""
    rows, past = tokens.shape
    example, axes = {"token": tokens[:, 0]}, {"token": "batch"}
    for name, (first, last) in recipe.states.items():
        example[f"{name}_in"] = torch.zeros(first, rows, last)
        axes[f"{name}_in"] = f"{first} batch {last}"
    if recipe.caches:
        example["lengths"], axes["lengths"] = torch.full((rows,), past), "batch"
    for name, (first, last) in recipe.caches.items():
        example[f"{name}_in"] = torch.zeros(rows, first, past, last)
        axes[f"{name}_in"] = f"batch {first} {PAST} {last}"
    return example, axes


def run_steps(recipe: LanguageModelRecipe, step: OnnxGraph, row: Sequence[int]) -> Arrays:
    """The step graph's results after the last token of a text."""
    states, outputs = initial_states(recipe, step, 1), {}
    for token in row:
        outputs = step.run({"token": torch.tensor([token]), **states})
        states = next_states(recipe, states, outputs)
    return outputs


def initial_states(recipe: LanguageModelRecipe, step: OnnxGraph, rows: int) -> dict[str, Tensor]:
    """The states before the first token: zeros, and caches without elements."""
    shapes = {tensor.name: tensor.shape for tensor in step.session.get_inputs()}
    names = [f"{name}_in" for name in recipe.states]
    states = {name: torch.zeros(shapes[name][0], rows, shapes[name][2]) for name in names}
    if recipe.caches:
        states["lengths"] = torch.zeros(rows, dtype=torch.int64)
    return states | {
        f"{name}_in": torch.zeros(rows, first, 0, last) for name, (first, last) in recipe.caches.items()
    }


def next_states(
    recipe: LanguageModelRecipe, states: Mapping[str, Tensor], outputs: Arrays
) -> dict[str, Tensor]:
    """The state inputs of the next step, from those of a step and its outputs."""
    after = {f"{name}_in": from_numpy(outputs[f"{name}_out"]) for name in recipe.states}
    for name in recipe.caches:
        cache = torch.cat((states[f"{name}_in"], from_numpy(outputs[f"{name}_new"])), dim=2)
        after[f"{name}_in"] = cache
        after["lengths"] = torch.full((cache.shape[0],), cache.shape[2])
    return after
