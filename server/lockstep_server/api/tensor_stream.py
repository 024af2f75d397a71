"""ModelInfer requests to `InferenceRequest`s, one at a time or over ModelStreamInfer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from lockstep_proto import open_inference_pb2 as pb

from .. import messages
from ..errors import ServingError, bad_input
from ..frontend.admission import deadline_of
from ..frontend.callers import current
from ..frontend.inference_request import InferenceRequest
from ..frontend.loop_watch import off_loop
from ..model.spec import measure_request
from . import sequence_ids, tensor_replies, tensors, wire
from .frames import prompt_reader
from .inflight import PipelinedStream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..frontend.registry import ModelRegistry
    from ..frontend.requests import InFlightRequests
    from ..model.datatypes import Arrays
    from ..model.spec import ModelSpec, RequestSize
    from .inflight import StreamLimits
    from .shared_memory import SharedMemory
    from .status import Context

_INT64_MAX = 2**63 - 1
_PROMPT = "sequence_prompt"
"""Whether the first request of a sequence has a prompt. A parameter of this server, not of Triton."""

_SEQUENCE_PARAMETERS = ("sequence_id", "sequence_start", "sequence_end", _PROMPT)
_FINAL_RESPONSE = "triton_enable_empty_final_response"
_MAX_PARAMETERS = 256
_RESERVED = "triton_"
"""Triton reserves names with this prefix; other unknown names are the caller's own, and are ignored."""


_INFER_RESPONSE = pb.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number


class _Result(NamedTuple):
    """How a request of a stream ended. `spec` is None if it was refused."""

    request: pb.ModelInferRequest
    event: messages.Event
    spec: ModelSpec | None = None
    requested: tensor_replies.Requested | None = None


class TensorStream(PipelinedStream["_Result"]):
    """One ModelStreamInfer stream."""

    def __init__(
        self,
        registry: ModelRegistry,
        requests: InFlightRequests,
        context: Context,
        limits: StreamLimits,
        shared_memory: SharedMemory,
    ) -> None:
        super().__init__(registry, requests, context, limits)
        self._shared_memory = shared_memory

    async def _begin(self, request: pb.ModelInferRequest) -> None:
        await self._wait_for_room()
        try:
            remaining_s = self._context.time_remaining()
            inference, requested = await make_inference_request(
                self._registry, request, "ModelStreamInfer", remaining_s, self._peer, self._shared_memory
            )
            spec = inference.served.spec
            self._start(inference, lambda event: self._queue(_Result(request, event, spec, requested)))
        except ServingError as error:
            self._queue(_Result(request, messages.Event(key=0, error=error)))

    async def _next_message(self) -> pb.ModelStreamInferResponse | bytes:
        request, event, spec, requested = self._ready.popleft()
        if event.error is not None:
            return _stream_error(event.error, request)
        assert spec is not None
        assert requested is not None
        try:
            written = await self._shared_memory.write(spec, request, event)
            parts = await tensor_replies.encode_parts(spec, event, request.id, requested, written)
        except ServingError as error:
            return _stream_error(error, request)
        marks = _final(pb.ModelStreamInferResponse(), request).infer_response.SerializeToString()
        return await wire.join(wire.delimited(_INFER_RESPONSE, marks, *parts))


async def make_inference_request(
    registry: ModelRegistry,
    request: pb.ModelInferRequest,
    method: str,
    remaining_s: float | None,
    caller: str,
    shared_memory: SharedMemory,
) -> tuple[InferenceRequest, tensor_replies.Requested]:
    """Validate a ModelInfer request, and read its inputs that are in shared memory. Returns what it requests
    as well.

    Raises:
        ServingError: unknown model, or an invalid request. It is recorded as refused.
    """
    name, version, parameters = request.model_name, request.model_version, request.parameters
    if parameters and (step := _sequence(parameters)) is not None:
        sequence, start = step
        owned = sequence_ids.owned(sequence)
        if not start:
            await registry.locate(name, owned)
        served = registry.resolve_step(name, version, owned, start=start, method=method)
    else:
        served = registry.resolve(name, version, method)
    spec = served.spec
    try:
        if served.admission.requests and not spec.is_stepwise:
            now = time.monotonic()
            served.admission.refuse_if_full(now, deadline_of(now, remaining_s, 0.0), caller=caller)
        sent_id = request.id
        if len(sent_id) > sequence_ids.MAX_CHARACTERS:
            why = f"the id has {len(sent_id)} characters; send at most {sequence_ids.MAX_CHARACTERS}"
            raise bad_input("id", why)
        priority, timeout_s = _parameters(parameters) if parameters else (0, 0.0)
        step_fields = _step(spec, parameters) if parameters or spec.is_stepwise else None
        read = prompt_reader(spec, f"parameters.{_PROMPT}") if step_fields and step_fields["prompt"] else spec
        requested = tensor_replies.requested_outputs(spec, request) if request.outputs else {}
        shared = None
        if any(requested.values()) or _inputs_have_parameters(request):
            shared = await shared_memory.read(request)
        if isinstance(request, wire.RawRequest):
            inputs = await off_loop(request.steps, tensors.decode, read, request, shared)
        else:
            inputs = tensors.decode(read, request, shared)
        size = measure_request(read, inputs)
        if step_fields is not None:
            _check_one_row(spec, size.rows)
        message = _message(spec, inputs, size, tuple(requested), priority, caller, step_fields)
        inference = InferenceRequest(
            served, method, message, queue_timeout_s=timeout_s, remaining_s=remaining_s, id=sent_id
        )
        return inference, requested
    except ServingError as error:
        served.record_refusal(method, error)
        raise


def _message(
    spec: ModelSpec,
    inputs: Arrays,
    size: RequestSize,
    outputs: tuple[str, ...],
    priority: int,
    caller: str,
    step_fields: dict[str, Any] | None,
) -> messages.Request:
    """The request as the engine gets it, but for its key and times."""
    if step_fields is None:
        return messages.Infer(
            key=0,
            model=spec.name,
            version=spec.version,
            inputs=inputs,
            size=size,
            outputs=outputs,
            priority=priority,
            caller=caller,
        )
    return messages.Step(
        key=0,
        model=spec.name,
        version=spec.version,
        inputs=inputs,
        outputs=outputs,
        priority=priority,
        caller=caller,
        **step_fields,
    )


def _inputs_have_parameters(request: pb.ModelInferRequest) -> bool:
    """Whether an input may be in shared memory."""
    for tensor in request.inputs:  # noqa: SIM110 (most requests have one, for which a generator is slow)
        if tensor.parameters:
            return True
    return False


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> tuple[int, float]:
    """(priority, queue timeout in seconds).

    In Triton's protocol 1 is the highest priority, and 0 the default, here the lowest; in the engine a larger
    number runs sooner.

    Raises:
        ServingError: BAD_INPUT, an invalid parameter, or one of Triton's that is not supported.
    """
    if len(parameters) > _MAX_PARAMETERS:
        raise bad_input("parameters", f"{len(parameters)} parameters; send at most {_MAX_PARAMETERS}")
    for name in parameters:
        if name.startswith(_RESERVED) and name != _FINAL_RESPONSE:
            raise bad_input(
                f"parameters.{name}", f"not supported; remove it (of {_RESERVED}*: {_FINAL_RESPONSE})"
            )
    priority, timeout_us = (_integer(parameters, name) for name in ("priority", "timeout"))
    return _INT64_MAX - priority if priority else 0, timeout_us / 1e6


def _sequence(parameters: Mapping[str, pb.InferParameter]) -> tuple[int | str, bool] | None:
    """The id of the request's sequence and whether it starts one, not yet checked; None if it has none."""
    if "sequence_id" not in parameters:
        return None
    sequence = _value(parameters["sequence_id"])
    start = "sequence_start" in parameters and parameters["sequence_start"].bool_param
    return (sequence, start) if isinstance(sequence, int | str) else None


def _step(spec: ModelSpec, parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any] | None:
    """The fields of `messages.Step` that say which step it is; None on a one-shot model. As in Triton, a
    `sequence_id` that is 0, "" or missing means no sequence.

    Raises:
        ServingError: BAD_INPUT, a sequence on a one-shot model, or no sequence on a step-wise one.
    """
    sent = {name: _value(parameters[name]) for name in _SEQUENCE_PARAMETERS if name in parameters}
    if not spec.is_stepwise:
        for name, value in sent.items():
            if value not in (0, "", False, "0"):
                raise bad_input(f"parameters.{name}", _no_steps(spec))
        return None
    for name in ("sequence_start", "sequence_end", _PROMPT):
        if not isinstance(sent.get(name, False), bool):
            raise bad_input(
                f"parameters.{name}",
                f"{tensors.quoted(sent[name])} is not a bool; send true or false as bool_param",
            )
    sequence = sent.get("sequence_id", 0)
    if isinstance(sequence, bool) or not isinstance(sequence, int | str):
        raise bad_input(
            "parameters.sequence_id",
            f"{tensors.quoted(sequence)} is not a sequence id; send an integer or a string",
        )
    if isinstance(sequence, str) and len(sequence) > sequence_ids.MAX_CHARACTERS:
        raise bad_input(
            "parameters.sequence_id",
            f"the id has {len(sequence)} characters; send at most {sequence_ids.MAX_CHARACTERS}",
        )
    if sequence in (0, ""):
        raise bad_input(
            "parameters.sequence_id",
            f"missing: model {spec.name!r} is step-wise; send an id, and sequence_start with the first step",
        )
    if sent.get(_PROMPT, False) and not sent.get("sequence_start", False):
        raise bad_input(f"parameters.{_PROMPT}", "a prompt begins a sequence; send it with sequence_start")
    return {
        "sequence": sequence_ids.owned(sequence),
        "max_slots": current.get().slots or 0,
        "start": sent.get("sequence_start", False),
        "end": sent.get("sequence_end", False),
        "prompt": sent.get(_PROMPT, False),
    }


def _no_steps(spec: ModelSpec) -> str:
    if spec.manifest.stepwise is not None:
        return f"model {spec.name!r} is one-shot; send steps to {spec.name}.step, or omit this parameter"
    return f"model {spec.name!r} has no step-wise form; omit this parameter"


def _check_one_row(spec: ModelSpec, rows: int) -> None:
    if rows != 1:
        raise bad_input(spec.inputs[0].name, f"the request has {rows} rows; send one row per step")


def _integer(parameters: Mapping[str, pb.InferParameter], name: str) -> int:
    if name not in parameters:
        return 0
    value = _value(parameters[name])
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _INT64_MAX:
        raise bad_input(
            f"parameters.{name}", f"{tensors.quoted(value)} is not valid; send an integer of 0 or more"
        )
    return value


def _value(parameter: pb.InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _stream_error(error: ServingError, request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
    message = f"{error.code.value}: {error.message}"
    named = pb.ModelInferResponse(id=request.id[: sequence_ids.MAX_CHARACTERS])
    reply = pb.ModelStreamInferResponse(error_message=message, infer_response=named)
    return _final(reply, request)


def _final(reply: pb.ModelStreamInferResponse, request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
    """Mark the reply as the request's last if the request asks for it. A request has one reply."""
    if request.parameters and request.parameters[_FINAL_RESPONSE].bool_param:
        reply.infer_response.parameters["triton_final_response"].bool_param = True
    return reply
