"""Open Inference tensors to numpy arrays and back; all checks come before any allocation.

names -> datatypes -> shapes -> byte counts -> arrays -> id ranges. The first error is raised with the
input's name as its field.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_proto import open_inference_pb2 as pb

from ..errors import bad_input
from ..frontend.loop_watch import off_loop
from ..model import datatypes
from . import wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..messages import Event
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

_MAX_STRINGS = 16_384
"""Elements of a BYTES tensor, and classes of an output. Each is handled by itself."""

_MAX_STRING_BYTES = 4 << 20
"""Text in a BYTES tensor. Strings are copied and checked whole at each of their stages."""

_FEW_IDS = 64
"""So many ids are checked faster without NumPy."""

_MAX_OUTPUTS = 256
_MAX_RANKED = 1 << 20
"""Elements of an output that are ranked for a request with `classification`."""

_LENGTH_PREFIX = struct.Struct("<I")
_WIRE = {
    "bool_contents": np.dtype(np.bool_),
    "int_contents": np.dtype(np.int32),
    "int64_contents": np.dtype(np.int64),
    "uint_contents": np.dtype(np.uint32),
    "uint64_contents": np.dtype(np.uint64),
    "fp32_contents": np.dtype("<f4"),
    "fp64_contents": np.dtype("<f8"),
}
_RAW_OUTPUTS = pb.ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number


def decoding_steps(request: pb.ModelInferRequest) -> int:
    """About how many microseconds `decode` takes."""
    return request.steps if isinstance(request, wire.RawRequest) else 0


def decode(
    spec: ModelSpec, request: pb.ModelInferRequest, shared: Mapping[int, wire.Part] | None = None
) -> Arrays:
    """Decode the request's inputs to arrays, by name. `shared`: the contents of those in shared memory, by
    their index.

    Raises:
        ServingError: BAD_INPUT, with the name of the wrong field.
    """
    shared = shared or {}
    raw, count = request.raw_input_contents, len(request.inputs) - len(shared)
    if raw and len(raw) != count:
        raise bad_input(
            "raw_input_contents", f"{len(raw)} entries for {count} inputs; send one entry per input"
        )
    in_message = iter(raw)
    arrays: Arrays = {}
    for index, tensor in enumerate(request.inputs):
        known = spec.input(tensor.name)
        if known is None:
            names = ", ".join(one.name for one in spec.inputs)
            raise bad_input(
                f"inputs[{index}].name", f"the model has no input {quoted(tensor.name)}; available: {names}"
            )
        if tensor.name in arrays:
            raise bad_input(tensor.name, "the input is sent twice; send it once")
        if spec.is_stepwise and known.spec.generated:
            raise bad_input(
                tensor.name, "the server generates this input from the states of the sequence; omit it"
            )
        typed = _typed_bytes(request, index, known) if isinstance(request, wire.RawRequest) else None
        content = shared[index] if index in shared else next(in_message, None)
        arrays[tensor.name] = _decode(known, tensor, content, typed)
    for known in spec.inputs:
        if known.name not in arrays and not known.optional and not known.spec.filled:
            raise bad_input(known.name, f"missing input; send it as {known.datatype} {known.wire_shape()}")
    return arrays


def requested_outputs(spec: ModelSpec, request: pb.ModelInferRequest) -> tuple[str, ...]:
    """The names of the requested outputs; empty means all.

    Raises:
        ServingError: BAD_INPUT, unknown output.
    """
    known = spec.output_sections
    if len(request.outputs) > _MAX_OUTPUTS:
        raise bad_input("outputs", f"{len(request.outputs)} outputs; send at most {_MAX_OUTPUTS}")
    for index, output in enumerate(request.outputs):
        if output.name not in known:
            raise bad_input(
                f"outputs[{index}].name",
                f"the model has no output {quoted(output.name)}; available: {', '.join(sorted(known))}",
            )
        if "classification" in output.parameters:
            _check_class_count(spec, output, f"outputs[{index}].parameters.classification")
    return tuple(output.name for output in request.outputs)


def _check_class_count(spec: ModelSpec, output: Any, field: str) -> None:
    if output.parameters["classification"].int64_param < 1:
        raise bad_input(field, "the number of classes must be at least 1; send it as int64_param")
    tensor = spec.output(output.name)
    if tensor is not None and tensor.datatype in ("BYTES", "BOOL"):
        raise bad_input(field, f"output {output.name!r} is {tensor.datatype}, which has no order; omit it")


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
    _check_datatype(known, tensor.datatype)
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
    _check_datatype(known, datatype)
    _check_axes(known, shape)
    array = _reshaped(known, _from_raw(known, contents, math.prod(shape)), shape)
    if known.spec.range is not None:
        check_ids(known, array)
    return array


def _check_datatype(known: ModelTensor, datatype: str) -> None:
    if datatype != known.datatype:
        raise bad_input(known.name, f"wrong datatype {quoted(datatype)}; the model takes {known.datatype}")


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
    _check_axes(known, shape)
    if known.any_rank:
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
    if count > _MAX_STRINGS:
        raise bad_input(name, f"BYTES tensor has {count} elements; send at most {_MAX_STRINGS}")


def _unpack(name: str, raw: wire.Part) -> list[bytes]:
    """The elements, as far as a tensor may have so many."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw) and len(elements) <= _MAX_STRINGS:
        if at + 4 > len(raw):
            raise bad_input(
                name, "truncated BYTES tensor: expected a 4-byte length prefix before each element"
            )
        start = at + 4
        at = start + _LENGTH_PREFIX.unpack_from(raw, at)[0]
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


async def encode_reply(
    spec: ModelSpec, event: Event, request: pb.ModelInferRequest, written: Mapping[str, int]
) -> pb.ModelInferResponse | bytes:
    """As `encode`; a large response as bytes, without copies of its tensors.

    Raises:
        ServingError: BAD_INPUT, as `encode`.
    """
    outputs = event.outputs or {}
    if sum(array.nbytes for array in outputs.values()) < wire.LARGE_BYTES:
        return encode(spec, event, request, written=written)
    return await wire.join(await encode_parts(spec, event, request, written))


async def encode_parts(
    spec: ModelSpec, event: Event, request: pb.ModelInferRequest, written: Mapping[str, int]
) -> list[wire.Part]:
    """As `encode`, as bytes in parts, without copies of tensors.

    Raises:
        ServingError: BAD_INPUT, as `encode`.
    """
    raw: list[wire.Part] = []
    reply = await off_loop(_steps(event, request), encode, spec, event, request, raw, written)
    return [reply.SerializeToString(), *raw]


def _steps(event: Event, request: pb.ModelInferRequest) -> int:
    """Elements that `encode` handles one by one."""
    ranked = {output.name for output in request.outputs if "classification" in output.parameters}
    outputs = (event.outputs or {}).items()
    return sum(array.size for name, array in outputs if array.dtype.hasobject or name in ranked)


def encode(
    spec: ModelSpec,
    event: Event,
    request: pb.ModelInferRequest,
    parts: list[wire.Part] | None = None,
    written: Mapping[str, int] | None = None,
) -> pb.ModelInferResponse:
    """Encode the response: outputs as raw contents; timings and the model's notice as parameters.

    Args:
        parts: gets the raw contents, as fields to append to the message, in place of the message.
        written: bytes of the outputs that are in shared memory, by name. Their raw contents are empty.

    Raises:
        ServingError: BAD_INPUT, an output is too large to be ranked.
    """
    reply = pb.ModelInferResponse(model_name=spec.name, model_version=str(spec.version), id=request.id)
    outputs, written = event.outputs or {}, written or {}
    classes = {
        output.name: output.parameters["classification"].int64_param
        for output in request.outputs
        if "classification" in output.parameters
    }
    for tensor in spec.outputs:
        array = outputs.get(tensor.name)
        if array is None:
            continue
        datatype = tensor.datatype
        if tensor.name in classes:
            array, datatype = _best_classes(spec, tensor, array, classes[tensor.name]), "BYTES"
        output = reply.outputs.add(name=tensor.name, datatype=datatype, shape=array.shape)
        if tensor.name in written:
            region = next(one.parameters for one in request.outputs if one.name == tensor.name)
            for name in region:
                output.parameters[name].CopyFrom(region[name])
            output.parameters["shared_memory_byte_size"].int64_param = written[tensor.name]
            array = array[:0] if array.ndim else array.reshape(1)[:0]
        if parts is None:
            reply.raw_output_contents.append(to_bytes(datatype, array))
        elif datatype == "BYTES":
            parts += wire.delimited(_RAW_OUTPUTS, to_bytes(datatype, array))
        else:
            flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            parts += wire.delimited(_RAW_OUTPUTS, memoryview(flat))
    parameters = reply.parameters
    parameters["queue_seconds"].double_param = event.timings.queue_s
    parameters["compute_seconds"].double_param = event.timings.compute_s
    parameters["batch_rows"].double_param = event.timings.rows
    if spec.notice:
        parameters["notice"].string_param = spec.notice
    return reply


def _best_classes(spec: ModelSpec, tensor: ModelTensor, array: Array, count: int) -> Array:
    """The `count` largest elements of each row, as Triton's classification extension writes them:
    `value:index`, and `:label` if the manifest names one.

    Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
    """
    is_batch = tensor.spec.batch_axis == 0
    rows = array.reshape(array.shape[0] if is_batch else 1, -1)
    labels = spec.manifest.labels if tensor.name == spec.manifest.roles.scores else ()
    labels = labels if len(labels) == rows.shape[1] else ()  # scores of each token have no single label
    count = min(count, rows.shape[1])
    if rows.size > _MAX_RANKED or len(rows) * count > _MAX_STRINGS:
        why = f"output {tensor.name!r} is too large: ask for fewer classes, or for the output itself"
        raise bad_input("outputs.parameters.classification", why)
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    written = np.empty(best.shape, object)
    for row, ids in enumerate(best):
        for place, index in enumerate(ids):
            value = rows[row, index]
            number = str(value) if value.dtype.kind in "iu" else f"{float(value):f}"
            label = f":{labels[index]}" if index < len(labels) else ""
            written[row, place] = f"{number}:{index}{label}"
    return written if is_batch else written[0]


def to_bytes(datatype: str, array: Array) -> bytes:
    if datatype != "BYTES":
        return array.tobytes()
    encoded = [str(element).encode("utf-8") for element in array.ravel()]
    return b"".join(_LENGTH_PREFIX.pack(len(element)) + element for element in encoded)
