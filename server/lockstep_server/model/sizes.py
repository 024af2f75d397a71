"""How big a request is: its rows and its named lengths, and whether its tensors agree on them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ..errors import bad_input

if TYPE_CHECKING:
    from .datatypes import Arrays
    from .spec import ModelSpec


class RequestSize(NamedTuple):
    rows: int
    lengths: tuple[int, ...]  # in the order of the card's length_names
    size: int  # elements a row: what costs and padding count

    @property
    def elements(self) -> int:
        return self.rows * self.size


def measure_request(spec: ModelSpec, inputs: Arrays) -> RequestSize:
    """The rows and lengths of a request whose tensors fit the card one by one.

    Without named lengths a row's size is that of its largest tensor.

    Raises:
        ServingError: BAD_INPUT, tensors that disagree, no rows, or a length of 0 or above its max.
    """
    rows, lengths = -1, dict.fromkeys(spec.manifest.lengths, -1)
    found_in: dict[str, str] = {}
    for tensor in spec.inputs:
        array = inputs.get(tensor.name)
        if array is None:
            continue
        section = tensor.spec
        if section.batch_axis is not None and section.batch_axis < array.ndim:
            rows = _agree(rows, array.shape[section.batch_axis], tensor.name, section.batch_axis, "rows")
        for axis, name in section.lengths.items():
            lengths[name] = _agree(lengths[name], array.shape[axis], tensor.name, axis, name)
            found_in.setdefault(name, tensor.name)
    if not lengths:
        return RequestSize(max(rows, 0) if rows >= 0 else 1, (), _largest_row(inputs, max(rows, 1)))
    return _bounded(spec, 1 if rows < 0 else rows, lengths, found_in)


def _agree(known: int, found: int, tensor: str, axis: int, what: str) -> int:
    if known not in (-1, found):
        raise bad_input(
            tensor, f"axis {axis} has {found} {what} where another input has {known}; make them equal"
        )
    return found


def _bounded(spec: ModelSpec, rows: int, lengths: dict[str, int], found_in: dict[str, str]) -> RequestSize:
    if rows == 0:
        raise bad_input(spec.inputs[0].name, "it has no rows; send at least one")
    for name, length in lengths.items():
        longest = spec.manifest.lengths[name].max
        if length == 0:
            raise bad_input(found_in[name], f"it has no {name}; send at least one")
        if length > longest:
            raise bad_input(
                found_in[name],
                f"it has {length} elements, the model takes {longest} at most (of {name!r}); shorten it",
            )
    given = tuple(max(length, 0) for length in lengths.values())
    return RequestSize(rows, given, max(sum(given), 1))


def _largest_row(inputs: Arrays, rows: int) -> int:
    return max((math.ceil(array.size / rows) for array in inputs.values()), default=1) or 1
