"""Generates rows for a contract and batches them as the server does.

All tensors are as the graph takes them: batch axis first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lockstep_export.axes import BATCH
from lockstep_export.contract import InputContract, ModuleInput

EVEN, RAGGED = 4, (1, 2, 3, 8, 17)  # rows of a batch
TYPICAL, LONG = 40, 300  # elements of a row
LONG_AMONG = 2  # rows in the batch with the long one: enough to pad another row to its length


@dataclass(frozen=True)
class SampleRow:
    """The client's inputs of one sequence, each tensor [1, …], and its named lengths."""

    inputs: Mapping[str, Tensor]
    lengths: Mapping[str, int]


def draw(contract: InputContract, lengths: Mapping[str, int], rng: torch.Generator) -> SampleRow:
    """A random row: ids other than the padding value, numbers around 0."""
    return SampleRow(
        {input_.name: _draw(input_, shape(input_, 1, lengths), rng) for input_ in contract.client_inputs},
        lengths,
    )


def batches(contract: InputContract, seed: int = 7) -> Iterator[list[SampleRow]]:
    """Batches of each size, first of equal, then of different lengths; one of them has a long row."""
    rng = torch.Generator().manual_seed(seed)
    if contract.options.max_rows == 1:
        for length in (1, 2, 7, TYPICAL, LONG):
            yield [draw(contract, _lengths(contract, length), rng)]
        return
    yield [draw(contract, _lengths(contract, 6), rng) for _ in range(EVEN)]
    for rows in RAGGED:
        sizes = torch.randint(1, TYPICAL, (rows,), generator=rng).tolist()
        if rows == LONG_AMONG:
            sizes[0] = LONG
        yield [draw(contract, _lengths(contract, size), rng) for size in sizes]


def stack(contract: InputContract, rows: Sequence[SampleRow], extra: int = 0) -> dict[str, Tensor]:
    """One batch of `rows`, padded to the longest of each length plus `extra`, with generated inputs."""
    longest = {
        name: min(max(row.lengths[name] for row in rows) + extra, most)
        for name, most in contract.max_lengths.items()
    }
    return {input_.name: _stack(input_, rows, longest) for input_ in contract.inputs}


def shape(input_: ModuleInput, rows: int, lengths: Mapping[str, int]) -> list[int]:
    """The shape of an input in the graph."""
    fixed = input_.example.movedim(input_.axes.batch, 0).shape
    known = {BATCH: rows, **lengths}
    return [known.get(name, size) for name, size in zip(input_.axes.graph_axes, fixed, strict=True)]


def _lengths(contract: InputContract, size: int) -> dict[str, int]:
    """A different size for each named length, so that they cannot be confused."""
    return {name: min(size + k, most) for k, (name, most) in enumerate(contract.max_lengths.items())}


def _draw(input_: ModuleInput, sizes: list[int], rng: torch.Generator) -> Tensor:
    if input_.ids is not None:
        drawn = torch.randint(input_.ids, sizes, generator=rng)
        other = 1 if input_.pad == 0 else 0
        return torch.where(drawn == input_.pad, min(other, input_.ids - 1), drawn).to(input_.example.dtype)
    if input_.example.dtype == torch.bool:
        return torch.rand(sizes, generator=rng) < 0.5
    return torch.randn(sizes, generator=rng).to(input_.example.dtype)


def _stack(input_: ModuleInput, rows: Sequence[SampleRow], longest: Mapping[str, int]) -> Tensor:
    if input_.generated is not None:
        return fill(input_, torch.tensor([row.lengths[input_.generated.of] for row in rows]), longest)
    whole = torch.full(shape(input_, len(rows), longest), input_.pad, dtype=input_.example.dtype)
    for index, row in enumerate(rows):
        tensor = row.inputs[input_.name]
        whole[(slice(index, index + 1), *(slice(size) for size in tensor.shape[1:]))] = tensor
    return whole


def fill(input_: ModuleInput, lengths: Tensor, longest: Mapping[str, int]) -> Tensor:
    """A generated input of rows with these `lengths`."""
    assert input_.generated is not None
    if input_.generated.kind == "lengths":
        return lengths.to(input_.example.dtype)
    real = torch.arange(longest[input_.generated.of]) < lengths[:, None]
    return (real if input_.generated.real else ~real).to(input_.example.dtype)
