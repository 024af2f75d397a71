"""The size of a request: its rows and named lengths, measured from its tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ..errors import bad_input

if TYPE_CHECKING:
    from .datatypes import Arrays
    from .spec import ModelSpec


class RequestSize(NamedTuple):
    rows: int
    lengths: tuple[int, ...]  # in the order of `ModelSpec.length_names`
    size: int  # elements per row, which cost and padding depend on

    @property
    def elements(self) -> int:
        return self.rows * self.size


def measure_request(spec: ModelSpec, inputs: Arrays) -> RequestSize:
    """Measure a request whose tensors each fit the spec.

    Without named lengths, the size of a row is that of its largest tensor.

    Raises:
        ServingError: BAD_INPUT: tensors disagree on a size, there are no rows, or a length is 0 or
            above its maximum.
    """
    rows, lengths = -1, dict.fromkeys(spec.manifest.lengths, -1)
    found_in: dict[str, str] = {}
    for tensor in spec.inputs:
        array = inputs.get(tensor.name)
        if array is None:
            continue
        section = tensor.spec
        if section.batch_axis is not None and section.batch_axis < array.ndim:
            rows = _check_equal(
                rows, array.shape[section.batch_axis], tensor.name, section.batch_axis, "rows"
            )
        for axis, name in section.lengths.items():
            lengths[name] = _check_equal(lengths[name], array.shape[axis], tensor.name, axis, name)
            found_in.setdefault(name, tensor.name)
    if not lengths:
        return RequestSize(max(rows, 0) if rows >= 0 else 1, (), _largest_row(inputs, max(rows, 1)))
    return _check_bounds(spec, 1 if rows < 0 else rows, lengths, found_in)


def _check_equal(known: int, size: int, tensor: str, axis: int, name: str) -> int:
    if known not in (-1, size):
        raise bad_input(
            tensor, f"{size} {name} on axis {axis}, but another input has {known} {name}; make them equal"
        )
    return size


def _check_bounds(
    spec: ModelSpec, rows: int, lengths: dict[str, int], found_in: dict[str, str]
) -> RequestSize:
    if rows == 0:
        raise bad_input(spec.inputs[0].name, "no rows; send at least one")
    for name, length in lengths.items():
        longest = spec.manifest.lengths[name].max
        if length == 0:
            raise bad_input(found_in[name], f"no {name}; send at least one")
        if length > longest:
            raise bad_input(
                found_in[name],
                f"length {name!r} is {length}, more than the model's limit of {longest}; shorten the input",
            )
    known_lengths = tuple(max(length, 0) for length in lengths.values())
    return RequestSize(rows, known_lengths, max(sum(known_lengths), 1))


def _largest_row(inputs: Arrays, rows: int) -> int:
    return max((math.ceil(array.size / rows) for array in inputs.values()), default=1) or 1
