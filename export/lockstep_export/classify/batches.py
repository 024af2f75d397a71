"""Ragged ids to padded tensors, and back to where they came from.

A batch is what a graph takes: tokens [batch, words] padded with id 0, and beside it the lengths [batch] or
the mask [batch, words] that the recipe asks for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lockstep_export.tokenizer import PAD_ID
from lockstep_export.zoo.recipe import Recipe

POOL = 50  # batches that are sorted by length together: little padding, and still a fresh order each epoch


@dataclass(frozen=True)
class Encoded:
    """Sentences as ids with their labels."""

    ids: list[list[int]]
    labels: list[int]


def inputs_for(recipe: Recipe, rows: list[list[int]], extra: int = 0) -> dict[str, Tensor]:
    """The graph's inputs for `rows`, padded to the longest of them plus `extra`."""
    lengths = torch.tensor([len(row) for row in rows])
    words = int(lengths.max()) + extra
    tokens = torch.full((len(rows), words), PAD_ID)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
    inputs = {"tokens": tokens}
    if recipe.companion == "lengths":
        inputs["lengths"] = lengths
    elif recipe.companion == "mask":
        inputs["mask"] = torch.arange(words) < lengths[:, None]
    return inputs


def shuffled(encoded: Encoded, rows: int, generator: torch.Generator) -> Iterator[list[int]]:
    """The indices of each training batch of one epoch: every sentence once, neighbours of like length."""
    order = torch.randperm(len(encoded.ids), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), rows * POOL):
        pool = sorted(order[start : start + rows * POOL], key=lambda index: len(encoded.ids[index]))
        batches += [pool[at : at + rows] for at in range(0, len(pool), rows)]
    for at in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[at]


def by_length(encoded: Encoded, rows: int) -> Iterator[list[int]]:
    """The indices of each batch of one pass without chance, shortest first."""
    order = sorted(range(len(encoded.ids)), key=lambda index: len(encoded.ids[index]))
    for start in range(0, len(order), rows):
        yield order[start : start + rows]
