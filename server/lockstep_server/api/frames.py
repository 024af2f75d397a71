"""Frames of numbers: the tensors of one message, and the inputs of the steps that they make.

`pb.Frames` → `decode`: arrays without the axis of the rows, checked → `FrameBuffer.take`: one `Element` per
step → the inputs of a request, one row

What a step takes is its input's shape without the axis of the rows: a frame [features], a chunk [frames,
features] whose axis has a named length, or a window of samples [512], which any number of samples fill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lockstep_proto.v1 import sequences_pb2 as pb

from ..errors import ServingError, bad_input, in_field
from ..model.prompts import takes_prompt
from ..model.spec import measure_request
from . import tensor_replies, tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..model.datatypes import Arrays
    from ..model.spec import ModelSpec, ModelTensor

    Array = np.ndarray[Any, Any]

MAX_STEPS = 16_384
"""Steps of one message. The next message is read when these have been started."""

_MAX_TENSORS = 64


class Element(NamedTuple):
    """The inputs of one step, one row, and how many elements of the sequence they are."""

    inputs: Arrays
    size: int
    computed: int = 0  # elements that the model reads for it; 0: as many


def decode(spec: ModelSpec, frames: pb.Frames, field: str) -> Arrays:
    """The arrays of one message, by the name of their input, without the axis of the rows.

    Raises:
        ServingError: BAD_INPUT, an input is unknown, of another datatype, or does not match its bytes. Its
            field begins with `field`.
    """
    if len(frames.tensors) > _MAX_TENSORS:
        raise bad_input(f"{field}.tensors", f"{len(frames.tensors)} tensors; send at most {_MAX_TENSORS}")
    arrays: Arrays = {}
    for index, sent in enumerate(frames.tensors):
        known = _known(spec, sent.name, f"{field}.tensors[{index}].name")
        place = f"{field}.{known.name}"
        if known.name in arrays:
            raise bad_input(place, "the input is sent twice; send it once")
        if spec.is_stepwise and known.spec.generated:
            raise bad_input(place, "the server generates this input; omit it")
        try:
            arrays[known.name] = tensors.from_bytes(known, sent.datatype, sent.shape, sent.contents)
        except ServingError as error:
            raise in_field(error, place) from None
    return arrays


def _known(spec: ModelSpec, name: str, field: str) -> ModelTensor:
    known = spec.input(name or spec.text_input)
    if known is not None:
        return known
    names = ", ".join(tensor.name for tensor in spec.inputs)
    if not name:
        raise bad_input(field, f"missing; the model has several inputs: {names}")
    raise bad_input(field, f"the model has no input {tensors.quoted(name)}; available: {names}")


def prompt_reader(spec: ModelSpec, field: str) -> ModelSpec:
    """The graph that reads a prompt of tensors.

    Raises:
        ServingError: BAD_INPUT, the model has none.
    """
    if not takes_prompt(spec):
        remedy = "call Generate or Translate" if spec.manifest.generates else "leave it out"
        raise bad_input(field, f"model {spec.model!r} has no graph that reads a prompt of tensors; {remedy}")
    assert spec.prefill is not None
    return spec.prefill


def prompt_of(spec: ModelSpec, frames: pb.Frames, field: str) -> Element:
    """The prompt that one message holds, as one element.

    Raises:
        ServingError: BAD_INPUT, as `one_row`; or its lengths are not allowed.
    """
    assert spec.prefill is not None
    inputs = one_row(spec.prefill, frames, field)
    try:
        size = max(sum(measure_request(spec.prefill, inputs).lengths), 1)
    except ServingError as error:
        raise in_field(error, f"{field}.{error.field}") from None
    return Element(inputs, size)


def one_row(spec: ModelSpec, frames: pb.Frames, field: str) -> Arrays:
    """The inputs of a one-shot request for the frames of one sequence.

    Raises:
        ServingError: BAD_INPUT, as `decode`; or an input is missing or has another shape.
    """
    arrays = decode(spec, frames, field)
    check_complete(spec, arrays, field)
    return {name: as_row(_input(spec, name), array, f"{field}.{name}") for name, array in arrays.items()}


def check_complete(spec: ModelSpec, arrays: Arrays, field: str) -> None:
    """
    Raises:
        ServingError: BAD_INPUT, an input is missing.
    """
    for tensor in spec.inputs:
        if tensor.name not in arrays and not tensor.optional and not tensor.spec.filled:
            why = f"missing input; send it as {tensor.datatype} {element_shape(tensor)}"
            raise bad_input(f"{field}.{tensor.name}", why)


def as_row(tensor: ModelTensor, array: Array, field: str) -> Array:
    """A frame or chunk with an axis for its row.

    Raises:
        ServingError: BAD_INPUT, it has another shape than the model takes.
    """
    shape = element_shape(tensor)
    if not _fits(array.shape, shape):
        raise bad_input(field, f"shape {list(array.shape)}; the model takes {shape}, -1 for any size")
    axis = tensor.spec.batch_axis
    return array if axis is None else np.expand_dims(array, axis)


def element_shape(tensor: ModelTensor) -> list[int]:
    """What one step or sequence is of an input: its shape without the axis of the rows, -1 for any size."""
    return [size for axis, size in enumerate(tensor.wire_shape()) if axis != tensor.spec.batch_axis]


def _input(spec: ModelSpec, name: str) -> ModelTensor:
    tensor = spec.input(name)
    assert tensor is not None
    return tensor


def _fits(shape: tuple[int, ...], expected: list[int]) -> bool:
    return len(shape) == len(expected) and all(
        want in (-1, size) for size, want in zip(shape, expected, strict=True)
    )


class _Steps(NamedTuple):
    """The steps that one array makes of an input."""

    number: int
    row: Callable[[int], Array]  # the input of a step
    sizes: Sequence[int]  # elements of each step


class FrameBuffer:
    """Cuts the messages of one stream into steps of a step-wise model.

    Inputs without an axis of the rows, such as a sampling rate, are remembered: a stream sends them once.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._fixed: Arrays = {}
        self._window: ModelTensor | None = None  # whose samples are buffered
        self._held: Array | None = None  # samples for the next window
        self._new = 0  # how many of them no window has had

    def take(self, frames: pb.Frames, field: str) -> Iterator[Element]:
        """The steps that are complete with this message, each made when it is asked for.

        Raises:
            ServingError: BAD_INPUT, as `decode`; or the arrays do not fit the model, or one another.
        """
        varying: Arrays = {}
        for name, array in decode(self._spec, frames, field).items():
            tensor = _input(self._spec, name)
            if tensor.spec.batch_axis is None:
                self._fixed[name] = as_row(tensor, array, f"{field}.{name}")
            else:
                varying[name] = array
        if not varying:
            return iter(())
        check_complete(self._spec, {**self._fixed, **varying}, field)
        steps = {name: self._steps_of(name, array, f"{field}.{name}") for name, array in varying.items()}
        first = next(iter(steps))
        for name, other in steps.items():
            if list(other.sizes) != list(steps[first].sizes):
                why = f"{sum(other.sizes)} elements, but {first} has {sum(steps[first].sizes)}; send as many"
                raise bad_input(f"{field}.{name}", why)
        if steps[first].number > MAX_STEPS:
            why = f"{steps[first].number} steps at once; send at most {MAX_STEPS} in a message"
            raise bad_input(f"{field}.{first}", why)
        fixed = dict(self._fixed)
        return (
            Element({**fixed, **{name: each.row(index) for name, each in steps.items()}}, size)
            for index, size in enumerate(steps[first].sizes)
        )

    def flush(self) -> Iterator[Element]:
        """The step of the samples that no window has had yet, filled up with the input's padding value."""
        tensor = self._window
        if tensor is None or self._held is None or not self._new:
            return iter(())
        missing = _window_size(tensor) - len(self._held)
        self._held = np.concatenate([self._held, np.full(missing, tensor.spec.pad, self._held.dtype)])
        count = self._new
        window = self._windows(tensor).row(0)
        self._new = 0
        return iter([Element({**self._fixed, tensor.name: window}, count)])

    def _steps_of(self, name: str, array: Array, field: str) -> _Steps:
        tensor = _input(self._spec, name)
        shape, batch_axis = element_shape(tensor), tensor.spec.batch_axis or 0
        if tensor.spec.lengths:
            return self._chunks(tensor, as_row(tensor, array, field), field)
        if tensor.spec.overlap is not None and array.ndim == 1:
            return self._samples(tensor, array)
        size = 1 if tensor.spec.overlap is None else _hop(tensor)
        if array.ndim == len(shape):
            row = as_row(tensor, array, field)
            return _Steps(1, lambda _: row, (size,))
        if not _fits(array.shape, [-1, *shape]):
            taken = f"{[-1, *shape]}, frames of {shape}, -1 for any size"
            raise bad_input(field, f"shape {list(array.shape)}; the model takes {taken}")
        sizes = (size,) * min(len(array), MAX_STEPS + 1)
        return _Steps(len(array), lambda index: np.expand_dims(array[index], batch_axis), sizes)

    def _chunks(self, tensor: ModelTensor, row: Array, field: str) -> _Steps:
        """A chunk as one step, or several if it is longer than a step takes."""
        (axis, name), *others = tensor.spec.lengths.items()
        if others:
            raise bad_input(field, "the model's steps have several axes of named lengths; call ModelInfer")
        size, most = row.shape[axis], self._spec.manifest.lengths[name].max
        if size == 0:
            raise bad_input(field, f"no {name}; send at least one")
        number = -(-size // most)
        before = (slice(None),) * axis
        sizes = (most,) * min(number - 1, MAX_STEPS) + (size - most * (number - 1),)
        return _Steps(number, lambda index: row[(*before, slice(index * most, (index + 1) * most))], sizes)

    def _samples(self, tensor: ModelTensor, array: Array) -> _Steps:
        """The windows that are full with these samples."""
        if self._held is None:
            self._window = tensor
            self._held = np.full(tensor.spec.overlap or 0, tensor.spec.pad, array.dtype)
        if self._window is not tensor:
            why = "another input's samples are buffered already; send whole windows, [steps, samples]"
            raise bad_input(f"frames.{tensor.name}", why)
        self._held = np.concatenate([self._held, array])
        self._new += array.size
        return self._windows(tensor)

    def _windows(self, tensor: ModelTensor) -> _Steps:
        held, size, hop = self._held, _window_size(tensor), _hop(tensor)
        assert held is not None
        number = max((len(held) - size) // hop + 1, 0)
        self._held = held[number * hop :].copy()  # without the message
        self._new = max(self._new - number * hop, 0)
        batch_axis = tensor.spec.batch_axis or 0

        def row(index: int) -> Array:
            return np.expand_dims(held[index * hop : index * hop + size], batch_axis)

        return _Steps(number, row, (hop,) * min(number, MAX_STEPS + 1))


class FramePrefix:
    """All frames of a stream so far: a one-shot model reads them again with each message."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._inputs: Arrays = {}
        self._total = 0

    def take(self, frames: pb.Frames, field: str) -> Iterator[Element]:
        """The request for all frames up to these.

        Raises:
            ServingError: BAD_INPUT, as `FrameBuffer.take`; or the model takes no frames one after another.
        """
        count = 0
        for name, array in decode(self._spec, frames, field).items():
            tensor = _input(self._spec, name)
            row = as_row(tensor, array, f"{field}.{name}")
            if len(tensor.spec.lengths) != 1:
                if tensor.spec.batch_axis is not None:
                    why = "the input has no axis of a named length that could grow; call ModelInfer"
                    raise bad_input(f"{field}.{name}", why)
                self._inputs[name] = row
                continue
            ((axis, _),) = tensor.spec.lengths.items()
            count = row.shape[axis]
            before = self._inputs.get(name)
            try:
                self._inputs[name] = row if before is None else np.concatenate([before, row], axis)
            except ValueError:
                why = f"shape {list(array.shape)} does not continue the frames before; keep the other axes"
                raise bad_input(f"{field}.{name}", why) from None
        if not count:
            return iter(())
        check_complete(self._spec, self._inputs, field)
        self._total += count
        return iter([Element(dict(self._inputs), count, self._total)])

    def flush(self) -> Iterator[Element]:
        return iter(())


def _window_size(tensor: ModelTensor) -> int:
    (size,) = element_shape(tensor)
    return size


def _hop(tensor: ModelTensor) -> int:
    """The samples that each window has and the one before it has not."""
    return _window_size(tensor) - (tensor.spec.overlap or 0)


def to_message(tensor: ModelTensor, array: Array) -> pb.NamedTensor:
    """An output of one row, without the axis of the rows."""
    axis = tensor.spec.batch_axis
    row = array if axis is None or array.shape[axis] != 1 else array.squeeze(axis)
    contents = tensor_replies.to_bytes(tensor.datatype, row)
    return pb.NamedTensor(name=tensor.name, datatype=tensor.datatype, shape=row.shape, contents=contents)
