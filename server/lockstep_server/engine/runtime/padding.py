"""Batches requests into one run and splits its outputs again.

rows of several requests → `stack`: padded, concatenated, masks and lengths generated → the graph's inputs
the graph's outputs → `cut`: split by request, padding removed → one answer per request

Pure. The manifest defines what is padded and with which value.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...model import datatypes
from .batching import check_rows

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, ModelTensor

    Array = np.ndarray[Any, Any]


_SMALL_BYTES = 256
"""An input up to this size is compared by its content, a larger one by its hash."""


class RowGroup(Protocol):
    """`rows` rows of one request, all with the same named lengths."""

    @property
    def inputs(self) -> Arrays: ...
    @property
    def rows(self) -> int: ...
    @property
    def lengths(self) -> tuple[int, ...]: ...


def stack(spec: ModelSpec, parts: Sequence[RowGroup], rows: int, lengths: tuple[int, ...]) -> Arrays:
    """The inputs of a run of `rows` rows, padded to `lengths`, with the rows of `parts` in order.

    If `rows` exceeds the parts' rows (a model of fixed shape), the first row of the last part is repeated,
    so that no row consists only of padding.
    """
    inputs = {}
    size = dict(zip(spec.length_names, lengths, strict=True))
    first = parts[0]
    spare = rows - (first.rows if len(parts) == 1 else sum([part.rows for part in parts]))
    whole = len(parts) == 1 and not spare and lengths == first.lengths
    for tensor in spec.inputs:
        name = tensor.name
        if name in first.inputs:
            if whole:
                inputs[name] = first.inputs[name]
            else:
                inputs[name] = stack_input(tensor, [part.inputs[name] for part in parts], size, spare)
        elif tensor.spec.generated:
            inputs[name] = generate(spec, tensor, parts, size, spare)
        elif tensor.spec.value is not None:
            inputs[name] = constant(tensor, rows, size)
    return inputs


def constant(tensor: ModelTensor, rows: int, size: Mapping[str, int]) -> Array:
    """The input that has the manifest's `value` in every element, for `rows` rows and the named lengths
    `size`."""
    shape: list[int] = []
    for axis, fixed in enumerate(tensor.shape):
        if axis == tensor.spec.batch_axis:
            shape.append(rows)
        elif axis in tensor.spec.lengths:
            shape.append(size[tensor.spec.lengths[axis]])
        else:
            assert isinstance(fixed, int)
            shape.append(fixed)
    return np.full(shape, tensor.spec.value, datatypes.NUMPY[tensor.datatype])


def cut(
    spec: ModelSpec,
    outputs: Mapping[str, Array],
    parts: Sequence[RowGroup],
    lengths: tuple[int, ...],
    rows: int | None = None,
) -> list[Arrays]:
    """The rows of each part in every output, with named lengths cut from the run's `lengths` to the part's.

    Args:
        rows: of the run; None is the sum of the parts' rows.

    Raises:
        RowMismatch: an output does not have the run's rows.
        ValueError: an output does not have the run's length on an axis that the manifest names, or the length
            that it computes from it.
    """
    if not spec.batched and len(parts) == 1:  # a shared run is cut even if batching was withdrawn meanwhile
        return [dict(outputs)]
    sections = spec.output_sections
    of_run: dict[str, list[int]] = {}
    of_parts: dict[str, list[int]] = {}
    if spec.has_output_lengths:
        used = {length for name in outputs for length in sections[name].lengths.values()}
        of_run = sizes_of(spec, used, [lengths])
        of_parts = sizes_of(spec, used, [part.lengths for part in parts])
    answers: list[Arrays] = [{} for _ in parts]
    rows = sum([part.rows for part in parts]) if rows is None else rows
    whole = len(parts) == 1 and parts[0].rows == rows and parts[0].lengths == lengths
    for name, array in outputs.items():
        section = sections[name]
        axis = section.batch_axis or 0
        check_rows(name, array, axis, rows)
        dynamic = tuple(section.lengths.items())
        for a, length in dynamic:
            if array.shape[a] != of_run[length][0]:
                named = zip(spec.length_names, lengths, strict=True)
                sizes = ", ".join(f"{size} {one}" for one, size in named)
                why = f"axis {a} is {array.shape[a]}, not {of_run[length][0]}, in a run of {sizes}"
                raise ValueError(f"output {name}: {why}")
        if whole:
            answers[0][name] = array
            continue
        start = 0
        for number, (part, answer) in enumerate(zip(parts, answers, strict=True)):
            end = start + part.rows
            if axis == 0 and not dynamic:
                answer[name] = array[start:end]
            else:
                index = [slice(None)] * array.ndim
                index[axis] = slice(start, end)
                for a, length in dynamic:
                    index[a] = slice(of_parts[length][number])
                answer[name] = array[tuple(index)]
            start = end
    return answers


def sizes_of(
    spec: ModelSpec, names: Iterable[str], lengths: Sequence[tuple[int, ...]]
) -> dict[str, list[int]]:
    """The sizes of each named or computed length, for the named lengths of each request.

    Raises:
        ValueError: the formula of a length has no value for these.
    """
    order = {name: index for index, name in enumerate(spec.length_names)}
    sizes: dict[str, list[int]] = {}
    for name in names:
        if name in order:
            sizes[name] = [known[order[name]] for known in lengths]
        else:
            known_by_name = [dict(zip(order, known, strict=True)) for known in lengths]
            sizes[name] = [spec.manifest.length(name, known) for known in known_by_name]
    return sizes


def value_of(array: Array) -> Hashable:
    """Equal for arrays of equal shape and content."""
    if array.dtype == object or array.nbytes <= _SMALL_BYTES:
        return array.shape, tuple(array.ravel().tolist()) if array.dtype == object else array.tobytes()
    return array.shape, hashlib.blake2b(np.ascontiguousarray(array).data).digest()


def stack_input(tensor: ModelTensor, arrays: list[Array], size: Mapping[str, int], spare: int) -> Array:
    """The rows of an input, padded to the named lengths `size`, and `spare` more rows, which are valid."""
    axis = tensor.spec.batch_axis
    if axis is None:
        return arrays[0]
    if spare:
        arrays = [*arrays, np.repeat(arrays[-1].take([0], axis), spare, axis)]
    shape = list(arrays[0].shape)
    lengths = tensor.spec.lengths
    for a, name in lengths.items():
        shape[a] = size[name]
    shorter = [array for a in lengths for array in arrays if array.shape[a] != shape[a]]
    if not shorter:
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)
    shape[axis] = sum([array.shape[axis] for array in arrays])
    stacked = np.full(shape, _padding_value(tensor), arrays[0].dtype)
    start = 0
    for array in arrays:
        end = start + array.shape[axis]
        if axis == 0 and len(shape) == 2:
            stacked[start:end, : array.shape[1]] = array
        else:
            index = [slice(length) for length in array.shape]
            index[axis] = slice(start, end)
            stacked[tuple(index)] = array
        start = end
    return stacked


def _padding_value(tensor: ModelTensor) -> Any:
    if tensor.spec.generated == "mask":
        return not tensor.spec.real
    return "" if tensor.datatype == "BYTES" else tensor.spec.pad


def generate(
    spec: ModelSpec, tensor: ModelTensor, parts: Sequence[RowGroup], size: Mapping[str, int], spare: int
) -> Array:
    """The length of each row [rows], or a mask, positions or zeros [rows, padded length], transposed if rows
    are on axis 1. Positions without a batch axis are the same for all rows: [padded length]."""
    section, dtype = tensor.spec, datatypes.NUMPY[tensor.datatype]
    if section.generated == "positions":
        positions = np.arange(size[section.of]).astype(dtype)
        if section.batch_axis is None:
            return positions.reshape((1,) * (len(tensor.shape) - 1) + (-1,))
        rows = sum([part.rows for part in parts]) + spare
        return np.repeat(np.expand_dims(positions, section.batch_axis), rows, section.batch_axis)
    index = spec.length_names.index(section.of)
    number = dtype if section.generated == "lengths" else np.int64
    if len(parts) == 1:
        lengths = np.array([parts[0].lengths[index]] * (parts[0].rows + spare), number)
    elif sum([part.rows for part in parts]) + spare == len(parts):
        lengths = np.array([part.lengths[index] for part in parts], number)
    else:
        counts = [part.rows for part in parts]
        counts[-1] += spare
        lengths = np.array([part.lengths[index] for part in parts], number).repeat(counts)
    if section.generated == "lengths":
        return lengths
    longest = size[section.of]
    if section.generated == "zeros":
        mask = np.zeros((len(lengths), longest), dtype)
    else:
        places = np.arange(longest)
        mask = places < lengths[:, None] if section.real else places >= lengths[:, None]
        mask = mask.astype(dtype, copy=False)
    return mask if section.batch_axis == 0 else np.ascontiguousarray(mask.T)
