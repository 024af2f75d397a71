"""The common part of the language model tasks: a prefill graph, a step graph, and their comparisons.

The task of each corpus (`shakespeare`, `captions`) adds the data, the tokenizer and the measure.
"""

from abc import abstractmethod
from typing import TypeVar

import torch
from tokenizers import Tokenizer
from torch import nn

from lockstep_export.graph_spec import GraphSpec
from lockstep_export.manifest import Table, ids, lengths_of, tensor
from lockstep_export.parity import Difference
from lockstep_export.ragged import padded
from lockstep_zoo.language.parity import ONESHOT, PREFILL, STEP, check, check_oneshot
from lockstep_zoo.recipe import LanguageModelRecipe
from lockstep_zoo.task import Graphs, Task

T = TypeVar("T")  # the texts of the data folder
C = TypeVar("C")  # the corpus: the texts as ids

EXAMPLE = [[3, 4, 5, 6, 7], [8, 9, 10], [11, 12, 13, 14]]  # any ids: both axes are dynamic
MAX_POSITIONS = 1024  # of a batch with a score for every word at each of them
PROMPT = (1, "prompt")  # the axis that varies, and its length


class LanguageTask(Task[LanguageModelRecipe, T, C]):
    """The continuation of a text."""

    name = "generate"
    tokenizers = ("tokenizer.json",)

    @abstractmethod
    def ends(self, tokenizer: Tokenizer) -> Table:
        """`begin`, the id that a text without a prompt starts from; `end`, the id that ends a text."""

    def graph_specs(self, recipe: LanguageModelRecipe, module: nn.Module) -> list[GraphSpec]:
        tokens, lengths = padded(EXAMPLE)
        names = recipe.states
        rows = len(tokens)
        states = {f"{name}_in": torch.zeros(first, rows, last) for name, (first, last) in names.items()}
        step = GraphSpec(
            STEP,
            recipe.step(module),
            {"token": tokens[:, 0], **states},
            {"token": ("batch",), **dict.fromkeys(states, ("", "batch", ""))},
            ("logits", *(f"{name}_out" for name in names)),
        )
        texts: dict[str, tuple[str, ...]] = {"tokens": ("batch", "prompt")}
        graph_specs = []
        if recipe.prefill:
            inputs, axes = {"tokens": tokens, "lengths": lengths}, {**texts, "lengths": ("batch",)}
            outputs = ("logits", *(f"{name}0" for name in names))
            graph_specs.append(GraphSpec(PREFILL, recipe.prefill(module), inputs, axes, outputs))
        if recipe.oneshot:
            graph_specs.append(
                GraphSpec(ONESHOT, recipe.oneshot(module), {"tokens": tokens}, texts, ("logits",))
            )
        return [*graph_specs, step]

    def manifest(self, recipe: LanguageModelRecipe, tokenizers: list[Tokenizer]) -> Table:
        vocabulary = tokenizers[0].get_vocab_size()
        limit = {} if recipe.max_tokens is None else {"max_tokens": recipe.max_tokens}
        text = {"source": self.tokenizers[0], **self.ends(tokenizers[0])}
        table: Table = {"task": self.name, "text": text}
        if recipe.prefill or recipe.oneshot:
            table["lengths"] = {"prompt": {"max": recipe.max_prompt}}
        if recipe.oneshot:
            table |= _oneshot(vocabulary)
        table["roles"] = {"scores": "logits"}
        if recipe.prefill:
            table["prefill"] = _prefill(recipe, vocabulary)
        table["stepwise"] = {
            "graph": STEP,
            **limit,
            "inputs": {"token": ids(vocabulary)},
            "outputs": {"logits": tensor()},
            "state": [_state(name, bool(recipe.prefill)) for name in recipe.states],
        }
        return table

    def compare(
        self,
        recipe: LanguageModelRecipe,
        tokenizers: list[Tokenizer],
        graphs: Graphs,
        module: nn.Module | None,
    ) -> list[Difference]:
        vocabulary = tokenizers[0].get_vocab_size()
        differences = check(recipe, vocabulary, graphs.get(PREFILL), graphs[STEP], module)
        if recipe.oneshot:
            differences += check_oneshot(recipe, vocabulary, graphs[ONESHOT], graphs[STEP])
        return differences


def _oneshot(vocabulary: int) -> Table:
    """Outputs have a score for every word at every position and are large: few positions share a batch."""
    return {
        "inputs": {"tokens": ids(vocabulary, PROMPT)},
        "outputs": {"logits": tensor(PROMPT)},
        "batching": {"max_padded_elements": MAX_POSITIONS},
    }


def _prefill(recipe: LanguageModelRecipe, vocabulary: int) -> Table:
    states = {f"{name}0": tensor(batch_axis=1) for name in recipe.states}
    return {
        "graph": PREFILL,
        "inputs": {"tokens": ids(vocabulary, PROMPT), "lengths": lengths_of("prompt")},
        "outputs": {"logits": tensor(), **states},
    }


def _state(name: str, prefilled: bool) -> Table:
    start = {"prefill": f"{name}0"} if prefilled else {}
    return {"name": name, "input": f"{name}_in", "output": f"{name}_out", **start, "batch_axis": 1}
