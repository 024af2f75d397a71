"""The outputs of a model to Open Inference tensors: requested names -> arrays or ranked classes -> bytes."""

from __future__ import annotations

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

_MAX_OUTPUTS = 256
_MAX_RANKED = 1 << 20
"""Elements of an output that are ranked for a request with `classification`."""

_RAW_OUTPUTS = pb.ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number


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
