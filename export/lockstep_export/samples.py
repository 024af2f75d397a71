"""Made-up rows that fit a contract, and how the server would put them into one run.

Everything here is as the graph takes it: rows in front.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lockstep_export.axes import BATCH
from lockstep_export.contract import InputContract, ModuleInput

EVEN, RAGGED = 4, (1, 2, 3, 8, 17)  # rows of a run
TYPICAL, LONG = 40, 300  # elements of a row
LONG_AMONG = 2  # rows in a run with the long one: enough to pad another to its length


@dataclass(frozen=True)
class SampleRow:
    """What a caller sends of one sequence, each tensor [1, …], and its named lengths."""

    inputs: Mapping[str, Tensor]
    lengths: Mapping[str, int]


def draw(contract: InputContract, lengths: Mapping[str, int], chance: torch.Generator) -> SampleRow:
    """A row by chance: ids other than the padding's, numbers around 0."""
    return SampleRow(
        {one.name: _draw(one, shape(one, 1, lengths), chance) for one in contract.given}, lengths
    )


def batches(contract: InputContract, seed: int = 7) -> Iterator[list[SampleRow]]:
    """Rows of one length, then ragged ones: a batch of each size, one of them with a long row in it."""
    chance = torch.Generator().manual_seed(seed)
    if contract.choices.max_rows == 1:
        for length in (1, 2, 7, TYPICAL, LONG):
            yield [draw(contract, _lengths(contract, length), chance)]
        return
    yield [draw(contract, _lengths(contract, 6), chance) for _ in range(EVEN)]
    for rows in RAGGED:
        sizes = torch.randint(1, TYPICAL, (rows,), generator=chance).tolist()
        if rows == LONG_AMONG:
            sizes[0] = LONG
        yield [draw(contract, _lengths(contract, size), chance) for size in sizes]


def stack(contract: InputContract, rows: Sequence[SampleRow], extra: int = 0) -> dict[str, Tensor]:
    """One run of `rows`, padded to the longest of each length and `extra` more, filled in as served."""
    longest = {
        name: min(max(row.lengths[name] for row in rows) + extra, most)
        for name, most in contract.longest.items()
    }
    return {one.name: _stack(one, rows, longest) for one in contract.inputs}


def shape(one: ModuleInput, rows: int, lengths: Mapping[str, int]) -> list[int]:
    """The graph's shape of an input."""
    fixed = one.example.movedim(one.axes.batch, 0).shape
    known = {BATCH: rows, **lengths}
    return [known.get(name, size) for name, size in zip(one.axes.in_front, fixed, strict=True)]


def _lengths(contract: InputContract, size: int) -> dict[str, int]:
    """Every named length has one of its own, so that none is taken for another."""
    return {name: min(size + k, most) for k, (name, most) in enumerate(contract.longest.items())}


def _draw(one: ModuleInput, sizes: list[int], chance: torch.Generator) -> Tensor:
    if one.ids is not None:
        drawn = torch.randint(one.ids, sizes, generator=chance)
        other = 1 if one.pad == 0 else 0
        return torch.where(drawn == one.pad, min(other, one.ids - 1), drawn).to(one.example.dtype)
    if one.example.dtype == torch.bool:
        return torch.rand(sizes, generator=chance) < 0.5
    return torch.randn(sizes, generator=chance).to(one.example.dtype)


def _stack(one: ModuleInput, rows: Sequence[SampleRow], longest: Mapping[str, int]) -> Tensor:
    if one.filled is not None:
        return _fill(one, torch.tensor([row.lengths[one.filled.of] for row in rows]), longest)
    whole = torch.full(shape(one, len(rows), longest), one.pad, dtype=one.example.dtype)
    for index, row in enumerate(rows):
        tensor = row.inputs[one.name]
        whole[(slice(index, index + 1), *(slice(size) for size in tensor.shape[1:]))] = tensor
    return whole


def _fill(one: ModuleInput, lengths: Tensor, longest: Mapping[str, int]) -> Tensor:
    assert one.filled is not None
    if one.filled.kind == "lengths":
        return lengths.to(one.example.dtype)
    real = torch.arange(longest[one.filled.of]) < lengths[:, None]
    return (real if one.filled.real else ~real).to(one.example.dtype)
