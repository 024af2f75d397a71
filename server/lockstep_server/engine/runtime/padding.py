"""Many requests into one run and back, changing no answer: pad, stack, tell the real lengths; cut.

Pure. What is padded, and with what, is the manifest's to say; nothing is guessed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...model import datatypes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, ModelTensor

    Array = np.ndarray[Any, Any]


class RowGroup(Protocol):
    """What goes through a run together: `rows` rows, all of the same named lengths."""

    @property
    def inputs(self) -> Arrays: ...
    @property
    def rows(self) -> int: ...
    @property
    def lengths(self) -> tuple[int, ...]: ...


def stack(spec: ModelSpec, parts: Sequence[RowGroup], rows: int, lengths: tuple[int, ...]) -> Arrays:
    """The feeds of a run of `rows` rows at `lengths`, the parts' rows in order.

    Rows beyond the parts' own (a model of fixed shape) are the last part's first row again: real
    data, so that no kernel meets a row of nothing but padding.
    """
    feeds = {}
    size = dict(zip(spec.length_names, lengths, strict=True))
    spare = rows - sum(part.rows for part in parts)
    for tensor in spec.inputs:
        if tensor.name in parts[0].inputs:
            feeds[tensor.name] = _stack(tensor, [part.inputs[tensor.name] for part in parts], size, spare)
        elif tensor.spec.generated:
            feeds[tensor.name] = _generate(spec, tensor, parts, size, spare)
    return feeds


def cut(
    spec: ModelSpec, outputs: Mapping[str, Array], parts: Sequence[RowGroup], lengths: tuple[int, ...]
) -> list[Arrays]:
    """Each part's own rows of every output, its named lengths cut back from the run's `lengths`."""
    if not spec.batched:
        return [dict(outputs)]
    section = {tensor.name: tensor.spec for tensor in spec.outputs}
    order = {name: index for index, name in enumerate(spec.length_names)}
    answers: list[Arrays] = [{} for _ in parts]
    for name, array in outputs.items():
        axis = section[name].batch_axis or 0
        varying = [(a, order[length]) for a, length in section[name].lengths.items()]
        start = 0
        for part, answer in zip(parts, answers, strict=True):
            index = [slice(None)] * array.ndim
            index[axis] = slice(start, start + part.rows)
            start += part.rows
            for a, length in varying:
                if array.shape[a] != lengths[length]:
                    raise ValueError(
                        f"output {name}: axis {a} is {array.shape[a]} long in a run of {lengths[length]}"
                    )
                index[a] = slice(part.lengths[length])
            answer[name] = array[tuple(index)]
    return answers


def _stack(tensor: ModelTensor, arrays: list[Array], size: Mapping[str, int], spare: int) -> Array:
    axis = tensor.spec.batch_axis
    if axis is None:
        return arrays[0]
    if spare:
        arrays = [*arrays, np.repeat(arrays[-1].take([0], axis), spare, axis)]
    shape = list(arrays[0].shape)
    for a, name in tensor.spec.lengths.items():
        shape[a] = size[name]
    fits = all(array.shape[a] == shape[a] for array in arrays for a in tensor.spec.lengths)
    if fits:
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    whole = np.full(shape, _padding(tensor), arrays[0].dtype)
    start = 0
    for array in arrays:
        index = [slice(length) for length in array.shape]
        index[axis] = slice(start, start + array.shape[axis])
        start += array.shape[axis]
        whole[tuple(index)] = array
    return whole


def _padding(tensor: ModelTensor) -> Any:
    """A mask is padded with what is not real."""
    if tensor.spec.generated == "mask":
        return not tensor.spec.real
    return "" if tensor.datatype == "BYTES" else tensor.spec.pad


def _generate(
    spec: ModelSpec, tensor: ModelTensor, parts: Sequence[RowGroup], size: Mapping[str, int], spare: int
) -> Array:
    """Each row's real length [rows], or a mask [rows, longest] (or its transpose, by the axes)."""
    section, dtype = tensor.spec, datatypes.NUMPY[tensor.datatype]
    which = spec.length_names.index(section.of)
    counts = [part.rows for part in parts]
    counts[-1] += spare
    real = np.repeat([part.lengths[which] for part in parts], counts)
    if section.generated == "lengths":
        return real.astype(dtype)
    mask = np.arange(size[section.of]) < real[:, None]
    mask = (mask == bool(section.real)).astype(dtype)
    return mask if section.batch_axis == 0 else np.ascontiguousarray(mask.T)
