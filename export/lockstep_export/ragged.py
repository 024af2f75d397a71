"""Pads ids of different lengths and groups them into batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

POOL = 50  # batches that are sorted by length together: little padding, and still a new order each epoch

Rows = Sequence[Sequence[int]]


def padded(rows: Rows, extra: int = 0, pad: int = 0) -> tuple[Tensor, Tensor]:
    """ids [rows, longest + extra], and the length of each row [rows]."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max()) + extra), pad)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    return ids, lengths


def real(lengths: Tensor, longest: int) -> Tensor:
    """The mask [rows, longest]: true on real elements."""
    return torch.arange(longest) < lengths[:, None]


def shuffled(
    count: int, rows: int, length: Callable[[int], Any], rng: torch.Generator
) -> Iterator[list[int]]:
    """Batches of indices for one epoch, in random order, of similar `length`: each of `count` once."""
    order = torch.randperm(count, generator=rng).tolist()
    batches = []
    for start in range(0, count, rows * POOL):
        pool = sorted(order[start : start + rows * POOL], key=length)
        batches += [pool[at : at + rows] for at in range(0, len(pool), rows)]
    for at in torch.randperm(len(batches), generator=rng).tolist():
        yield batches[at]


def by_length(count: int, rows: int, length: Callable[[int], Any]) -> Iterator[list[int]]:
    """Batches of indices for one deterministic pass, shortest first."""
    order = sorted(range(count), key=length)
    for start in range(0, count, rows):
        yield order[start : start + rows]
