"""The outputs of a model to Open Inference tensors: requested names -> arrays or ranked classes -> bytes."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_proto import open_inference_pb2 as pb

from ..errors import bad_input
from ..frontend.loop_watch import off_loop
from . import wire
from .tensors import LENGTH_PREFIX, MAX_STRINGS, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..messages import Event
    from ..model.spec import ModelSpec, ModelTensor
    from .tensors import Array

Requested = dict[str, Any]
"""The names of requested outputs, with their parameters in the request; None if they have none."""

_MAX_OUTPUTS = 256
_MAX_RANKED = 1 << 20
"""Elements of an output that are ranked for a request with `classification`."""

_REPLY = pb.ModelInferResponse.DESCRIPTOR.fields_by_name
_ID, _RAW_OUTPUTS = (_REPLY[name].number for name in ("id", "raw_output_contents"))


def requested_outputs(spec: ModelSpec, request: pb.ModelInferRequest) -> Requested:
    """The requested outputs; empty means all.

    Raises:
        ServingError: BAD_INPUT, unknown output.
    """
    known, found = spec.output_sections, dict[str, Any]()
    if len(request.outputs) > _MAX_OUTPUTS:
        raise bad_input("outputs", f"{len(request.outputs)} outputs; send at most {_MAX_OUTPUTS}")
    for index, output in enumerate(request.outputs):
        name, parameters = output.name, output.parameters
        if name not in known:
            raise bad_input(
                f"outputs[{index}].name",
                f"the model has no output {quoted(name)}; available: {', '.join(sorted(known))}",
            )
        if "classification" in parameters:
            _check_class_count(spec, output, f"outputs[{index}].parameters.classification")
        found[name] = parameters or None
    return found


def _check_class_count(spec: ModelSpec, output: Any, field: str) -> None:
    if output.parameters["classification"].int64_param < 1:
        raise bad_input(field, "the number of classes must be at least 1; send it as int64_param")
    tensor = spec.output(output.name)
    if tensor is not None and tensor.datatype in ("BYTES", "BOOL"):
        raise bad_input(field, f"output {output.name!r} is {tensor.datatype}, which has no order; omit it")


async def encode_reply(
    spec: ModelSpec, event: Event, sent_id: str, requested: Requested, written: Mapping[str, int]
) -> bytes:
    """As `encode`, in one piece.

    Raises:
        ServingError: BAD_INPUT, as `encode`.
    """
    size = 0
    for array in (event.outputs or {}).values():
        size += array.nbytes
    if size < wire.LARGE_BYTES:
        return b"".join(encode(spec, event, sent_id, requested, written))
    return await wire.join(await encode_parts(spec, event, sent_id, requested, written))


async def encode_parts(
    spec: ModelSpec, event: Event, sent_id: str, requested: Requested, written: Mapping[str, int]
) -> list[wire.Part]:
    """As `encode`, on a thread if it takes long.

    Raises:
        ServingError: BAD_INPUT, as `encode`.
    """
    return await off_loop(_steps(event, requested), encode, spec, event, sent_id, requested, written)


def _steps(event: Event, requested: Requested) -> int:
    """Elements that `encode` handles one by one."""
    ranked = {name for name, parameters in requested.items() if "classification" in (parameters or ())}
    outputs = (event.outputs or {}).items()
    return sum(array.size for name, array in outputs if array.dtype.hasobject or name in ranked)


def encode(
    spec: ModelSpec,
    event: Event,
    sent_id: str,
    requested: Requested,
    written: Mapping[str, int] | None = None,
) -> list[wire.Part]:
    """The fields of the response: outputs as raw contents; timings and the model's notice as parameters.

    Args:
        sent_id: the id of the request.
        written: bytes of the outputs that are in shared memory, by name. Their raw contents are empty.

    Raises:
        ServingError: BAD_INPUT, an output is too large to be ranked.
    """
    outputs = event.outputs or {}
    queue_s, compute_s, _, rows, _, _ = event.timings
    parts: list[wire.Part] = [
        _head(spec.name, spec.version, spec.notice),
        _TIMINGS.pack(_QUEUE, queue_s, _COMPUTE, compute_s, _ROWS, rows),
    ]
    if sent_id:
        content: wire.Part = sent_id.encode()
        parts += (wire.tag(_ID, len(content)), content)
    for tensor in spec.outputs:
        name, datatype = tensor.name, tensor.datatype
        array = outputs.get(name)
        if array is None:
            continue
        parameters = requested.get(name)
        if parameters is None:
            parts.append(_output(name, datatype, array.shape))
        else:
            if "classification" in parameters:
                count = parameters["classification"].int64_param
                array, datatype = _best_classes(spec, tensor, array, count), "BYTES"
            output = pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=array.shape)
            if written and name in written:
                for key, value in parameters.items():
                    output.parameters[key].CopyFrom(value)
                output.parameters["shared_memory_byte_size"].int64_param = written[name]
                array = array[:0] if array.ndim else array.reshape(1)[:0]
            parts.append(pb.ModelInferResponse(outputs=[output]).SerializeToString())
        if datatype == "BYTES" or array.nbytes < wire.LARGE_BYTES:
            content = to_bytes(datatype, array)
        else:
            flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            content = memoryview(flat)
        parts += (wire.tag(_RAW_OUTPUTS, len(content)), content)
    return parts


# The parts of a message are concatenated, in any order. What many responses share is serialised once.


@lru_cache(1024)
def _head(name: str, version: int, notice: str) -> bytes:
    reply = pb.ModelInferResponse(model_name=name, model_version=str(version))
    if notice:
        reply.parameters["notice"].string_param = notice
    return reply.SerializeToString()


@lru_cache(4096)
def _output(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    output = pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape)
    return pb.ModelInferResponse(outputs=[output]).SerializeToString()


def _without_value(name: str) -> bytes:
    """A parameter that is a double, without its last 8 bytes, which are the double."""
    reply = pb.ModelInferResponse()
    reply.parameters[name].double_param = 0.0
    return reply.SerializeToString()[:-8]


_QUEUE, _COMPUTE, _ROWS = map(_without_value, ("queue_seconds", "compute_seconds", "batch_rows"))
_TIMINGS = struct.Struct("<" + "".join(f"{len(one)}sd" for one in (_QUEUE, _COMPUTE, _ROWS)))


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
    if rows.size > _MAX_RANKED or len(rows) * count > MAX_STRINGS:
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
    return b"".join(LENGTH_PREFIX.pack(len(element)) + element for element in encoded)
