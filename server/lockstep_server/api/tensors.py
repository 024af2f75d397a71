"""Open Inference tensors to numpy arrays; all checks come before any allocation.

names -> datatypes -> shapes -> byte counts -> arrays -> id ranges. The first error is raised with the
input's name as its field. `tensor_replies.py` is the way back.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_proto import open_inference_pb2 as pb

from ..errors import bad_input
from ..model import datatypes
from . import wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..errors import ServingError
    from ..model.datatypes import Arrays
    from ..model.spec import ModelSpec, ModelTensor

    Array = np.ndarray[Any, Any]
    InputTensor = pb.ModelInferRequest.InferInputTensor

_TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_MAX_QUOTED_CHARACTERS = 80
_MAX_AXES = 64
"""numpy's limit."""

MAX_STRINGS = 16_384
"""Elements of a BYTES tensor, and classes of an output. Each is handled by itself."""

_MAX_STRING_BYTES = 4 << 20
"""Text in a BYTES tensor. Strings are copied and checked whole at each of their stages."""

_FEW_IDS = 64
"""So many ids are checked faster without NumPy."""

LENGTH_PREFIX = struct.Struct("<I")
_WIRE = {
    "bool_contents": np.dtype(np.bool_),
    "int_contents": np.dtype(np.int32),
    "int64_contents": np.dtype(np.int64),
    "uint_contents": np.dtype(np.uint32),
    "uint64_contents": np.dtype(np.uint64),
    "fp32_contents": np.dtype("<f4"),
    "fp64_contents": np.dtype("<f8"),
}


def decode(
    spec: ModelSpec, request: pb.ModelInferRequest, shared: Mapping[int, wire.Part] | None = None
) -> Arrays:
    """Decode the request's inputs to arrays, by name. `shared`: the contents of those in shared memory, by
    their index.

    Raises:
        ServingError: BAD_INPUT, with the name of the wrong field.
    """
    shared = shared or {}
    raw, inputs = request.raw_input_contents, request.inputs
    count = len(inputs) - len(shared)
    if raw and len(raw) != count:
        raise bad_input(
            "raw_input_contents", f"{len(raw)} entries for {count} inputs; send one entry per input"
        )
    in_message, known_inputs = iter(raw), spec.inputs_by_name
    arrays: Arrays = {}
    for index, tensor in enumerate(inputs):
        name = tensor.name
        known = known_inputs.get(name)
        if known is None:
            names = ", ".join(one.name for one in spec.inputs)
            raise bad_input(
                f"inputs[{index}].name", f"the model has no input {quoted(name)}; available: {names}"
            )
        if name in arrays:
            raise bad_input(name, "the input is sent twice; send it once")
        if known.spec.generated and spec.is_stepwise:
            raise bad_input(name, "the server generates this input from the states of the sequence; omit it")
        typed = _typed_bytes(request, index, known) if isinstance(request, wire.RawRequest) else None
        content = shared[index] if index in shared else next(in_message, None)
        arrays[name] = _decode(known, tensor, content, typed)
    for known in spec.required_inputs:
        if known.name not in arrays:
            raise bad_input(known.name, f"missing input; send it as {known.datatype} {known.wire_shape()}")
    return arrays


def check_ids(tensor: ModelTensor, array: Array, field: str = "") -> None:
    """Check ids against the range in the manifest, if it has one, and against the input's datatype, unless
    they have it already.

    Raises:
        ServingError: BAD_INPUT, an id is outside the range, or is no integer.
    """
    first, end = tensor.spec.range or (-math.inf, math.inf)
    if array.dtype != datatypes.NUMPY[tensor.datatype]:
        if tensor.datatype not in datatypes.EXACT_INTEGERS:
            raise bad_input(
                field or tensor.name, f"the model takes {tensor.datatype}, not ids; call ModelInfer"
            )
        smallest, largest = datatypes.EXACT_INTEGERS[tensor.datatype]
        first, end = max(first, smallest), min(end, largest + 1)
    elif tensor.spec.range is None:
        return
    if not array.size:
        return
    if array.dtype.kind not in "iu":
        array = array.astype(np.float64)
        wrong = array[~(np.isfinite(array) & (np.floor(array) == array))]
        if wrong.size:
            raise bad_input(
                field or tensor.name,
                f"{wrong[0]:g} is not an id; send integers from {first} to {end - 1}",
            )
    if array.size <= _FEW_IDS:
        values = array.ravel().tolist()
        smallest, largest = int(min(values)), int(max(values))
    else:
        smallest, largest = int(array.min()), int(array.max())
    if smallest < first or largest >= end:
        raise bad_input(
            field or tensor.name,
            f"id {smallest if smallest < first else largest} is outside the range; send ids from {first} to"
            f" {end - 1}",
        )


def quoted(name: object) -> str:
    """Quote an unknown name or value in a message. Never use it as the error's field, which is logged."""
    if isinstance(name, str | bytes) and len(name) > _MAX_QUOTED_CHARACTERS:
        return f"{name[:_MAX_QUOTED_CHARACTERS]!r}…"
    return repr(name)


def _decode(
    known: ModelTensor, tensor: InputTensor, raw: wire.Part | None, typed: Array | None = None
) -> Array:
    shape = tuple(tensor.shape)
    if tensor.datatype != known.datatype:
        raise _wrong_datatype(known, tensor.datatype)
    _check_shape(known, shape)
    count = math.prod(shape)
    if raw is None:
        array = _from_typed(known, tensor, count, typed)
    elif tensor.HasField("contents"):
        raise bad_input(tensor.name, "the request has both contents and raw_input_contents; send one of them")
    else:
        array = _from_raw(known, raw, count)
    array = _reshaped(known, array, shape)
    if known.spec.range is not None:
        check_ids(known, array)
    return array


def from_bytes(known: ModelTensor, datatype: str, shape: Sequence[int], contents: wire.Part) -> Array:
    """An array from row-major bytes, for an input whose axes the caller checks.

    Raises:
        ServingError: BAD_INPUT, another datatype, or the bytes are not those of such a shape.
    """
    if datatype != known.datatype:
        raise _wrong_datatype(known, datatype)
    _check_axes(known, shape)
    array = _reshaped(known, _from_raw(known, contents, math.prod(shape)), shape)
    if known.spec.range is not None:
        check_ids(known, array)
    return array


def _wrong_datatype(known: ModelTensor, datatype: str) -> ServingError:
    return bad_input(known.name, f"wrong datatype {quoted(datatype)}; the model takes {known.datatype}")


def _reshaped(known: ModelTensor, array: Array, shape: Sequence[int]) -> Array:
    try:
        return array.reshape(shape)
    except ValueError:
        raise bad_input(
            known.name, f"shape {list(shape)} is too large for an array; send a smaller one"
        ) from None


def _check_axes(known: ModelTensor, shape: Sequence[int]) -> None:
    if len(shape) > _MAX_AXES:
        raise bad_input(known.name, f"the shape has {len(shape)} axes; send at most {_MAX_AXES}")
    if shape and min(shape) < 0:
        raise bad_input(known.name, f"shape {list(shape)} has a negative size; send sizes of 0 or more")


def _check_shape(known: ModelTensor, shape: Sequence[int]) -> None:
    if len(shape) != len(known.shape) or (shape and min(shape) < 0):
        _check_axes(known, shape)
    if not known.shape:  # of any rank
        return
    if len(shape) != len(known.shape):
        raise bad_input(
            known.name, f"shape {list(shape)} has {len(shape)} axes; the model takes {known.wire_shape()}"
        )
    for axis, size in known.fixed:
        if shape[axis] != size:
            raise bad_input(
                known.name,
                f"axis {axis} of shape {list(shape)} is {shape[axis]}; the model takes {known.wire_shape()}",
            )


def _from_raw(known: ModelTensor, raw: wire.Part, count: int) -> Array:
    if known.datatype == "BYTES":
        _check_strings(known.name, count)
        return _strings(known.name, _unpack(known.name, raw), count)
    dtype = datatypes.NUMPY[known.datatype]
    if len(raw) != count * dtype.itemsize:
        raise bad_input(
            known.name,
            f"raw content has {len(raw)} bytes; the shape needs {count * dtype.itemsize}"
            f" ({count} elements of {known.datatype})",
        )
    if known.datatype == "BOOL":
        return np.frombuffer(raw, np.uint8) != 0  # type: ignore[no-any-return]
    return np.frombuffer(raw, dtype)


def _from_typed(known: ModelTensor, tensor: InputTensor, count: int, packed: Array | None) -> Array:
    field = _TYPED.get(known.datatype)
    if field is None:
        raise bad_input(known.name, f"{known.datatype} has no typed contents; send raw_input_contents")
    values = getattr(tensor.contents, field)
    if known.datatype == "BYTES":
        _check_strings(known.name, count)
        return _strings(known.name, values, count)
    sent = np.array(values, _WIRE[field]) if packed is None else _numbers(field, packed)
    if len(sent) != count:
        raise bad_input(known.name, f"contents.{field} has {len(sent)} elements; the shape needs {count}")
    array = sent.astype(datatypes.NUMPY[known.datatype], copy=False)
    if array.dtype.kind in "iu" and array.dtype.itemsize < 4 and not np.array_equal(array, sent):
        raise bad_input(
            known.name,
            f"contents.{field} has a value that {known.datatype} cannot hold; send values in its range",
        )
    return array


def _typed_bytes(request: wire.RawRequest, index: int, known: ModelTensor) -> Array | None:
    """The packed numbers of an input of the request; None if they are in the message itself."""
    field = _TYPED.get(known.datatype, "")
    if field not in _WIRE:
        return None
    parts = request.typed.get((index, pb.InferTensorContents.DESCRIPTOR.fields_by_name[field].number))
    if not parts:
        return None
    arrays = [np.frombuffer(part, np.uint8) for part in parts]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _numbers(field: str, packed: Array) -> Array:
    """An array of packed numbers, without making a Python number of each."""
    dtype = _WIRE[field]
    if dtype.kind != "f":
        return wire.varints(packed).astype(dtype)
    if len(packed) % dtype.itemsize:
        raise bad_input(f"contents.{field}", "the last number is cut off")
    return packed.view(dtype)


def _check_strings(name: str, count: int) -> None:
    if count > MAX_STRINGS:
        raise bad_input(name, f"BYTES tensor has {count} elements; send at most {MAX_STRINGS}")


def _unpack(name: str, raw: wire.Part) -> list[bytes]:
    """The elements, as far as a tensor may have so many."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw) and len(elements) <= MAX_STRINGS:
        if at + 4 > len(raw):
            raise bad_input(
                name, "truncated BYTES tensor: expected a 4-byte length prefix before each element"
            )
        start = at + 4
        at = start + LENGTH_PREFIX.unpack_from(raw, at)[0]
        if at > len(raw):
            raise bad_input(
                name,
                f"truncated BYTES tensor: element {len(elements)} is {at - start} bytes long, but only"
                f" {len(raw) - start} bytes follow",
            )
        elements.append(bytes(raw[start:at]))
    return elements


def _strings(name: str, elements: Sequence[bytes], count: int) -> Array:
    if len(elements) != count:
        raise bad_input(name, f"BYTES tensor has {len(elements)} elements; the shape needs {count}")
    if (size := sum(map(len, elements))) > _MAX_STRING_BYTES:
        raise bad_input(name, f"BYTES tensor has {size} bytes of text; send at most {_MAX_STRING_BYTES}")
    array = np.empty(count, object)
    for index, element in enumerate(elements):
        try:
            array[index] = element.decode("utf-8")
        except UnicodeDecodeError:
            raise bad_input(name, f"element {index} is not UTF-8; send UTF-8 text") from None
    return array
