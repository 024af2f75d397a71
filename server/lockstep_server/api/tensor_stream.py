"""ModelInfer requests on their way in: the checks of one, and a stream of many in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lockstep_proto import open_inference_pb2 as pb

from .. import messages
from ..errors import ServingError, bad_input
from ..frontend.requests import InferenceRequest
from ..model.sizes import measure_request
from . import tensors
from .inflight import PipelinedStream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..frontend.registry import ModelRegistry
    from ..model.datatypes import Arrays
    from ..model.spec import ModelSpec

_INT64_MAX = 2**63 - 1
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")


class TensorStream(PipelinedStream[Callable[[], pb.ModelStreamInferResponse]]):
    """One ModelStreamInfer stream."""

    def _begin(self, request: pb.ModelInferRequest) -> None:
        try:
            remaining = self._context.time_remaining()
            ask = make_ask(self._registry, request, "ModelStreamInfer", remaining, self._peer)
            spec = ask.served.spec
            self._start(ask, lambda event: self._say(lambda: _stream_reply(spec, event, request.id)))
        except ServingError as error:
            refusal = _stream_error(error, request.id)
            self._say(lambda: refusal)

    def _next_message(self) -> pb.ModelStreamInferResponse:
        return self._ready.popleft()()


def make_ask(
    registry: ModelRegistry,
    request: pb.ModelInferRequest,
    method: str,
    remaining_s: float | None,
    caller: str,
) -> InferenceRequest:
    """The checked request.

    Raises:
        ServingError: no such model, or something in the request is wrong.
    """
    served = registry.resolve(request.model_name, request.model_version, method)
    try:
        priority, timeout_s = _parameters(request.parameters) if request.parameters else (0, 0.0)
        feed = _feed(served.spec, request.parameters)
        inputs = tensors.decode(served.spec, request)
        if feed is not None:
            _check_one_row(served.spec, inputs)
        return InferenceRequest(
            served,
            method,
            inputs,
            outputs=tensors.wanted_outputs(served.spec, request) if request.outputs else (),
            priority=priority,
            queue_timeout_s=timeout_s,
            remaining_s=remaining_s,
            caller=caller,
            how=feed,
        )
    except ServingError as error:
        served.refuse(method, error)
        raise


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> tuple[int, float]:
    """(priority, queue timeout in seconds); unknown parameters are accepted.

    Raises:
        ServingError: BAD_INPUT.
    """
    priority, timeout_us = (_integer(parameters, name) for name in ("priority", "timeout"))
    return priority, timeout_us / 1e6


def _feed(spec: ModelSpec, parameters: Mapping[str, pb.InferParameter]) -> messages.Feed | None:
    """Which step of which sequence a request is; none on a one-shot model. As Triton has it: 0, "" and
    nothing mean no sequence.

    Raises:
        ServingError: BAD_INPUT; a sequence on a one-shot model, or none on a step-wise one.
    """
    given = {name: _value(parameters[name]) for name in _SEQUENCE if name in parameters}
    if not spec.steps:
        for name, value in given.items():
            if value not in (0, "", False, "0"):
                raise bad_input(f"parameters.{name}", _no_steps(spec))
        return None
    for name in ("sequence_start", "sequence_end"):
        if not isinstance(given.get(name, False), bool):
            raise bad_input(f"parameters.{name}", f"{given[name]!r} does not fit; send a bool")
    sequence = given.get("sequence_id", 0)
    if isinstance(sequence, bool) or not isinstance(sequence, int | str):
        raise bad_input("parameters.sequence_id", f"{sequence!r} does not fit; send an integer or a string")
    if sequence in (0, ""):
        raise bad_input(
            "parameters.sequence_id",
            f"is missing; {spec.name!r} is a step of a sequence: send an id, and sequence_start in the first",
        )
    return messages.Feed(sequence, given.get("sequence_start", False), given.get("sequence_end", False))


def _no_steps(spec: ModelSpec) -> str:
    if spec.manifest.stepwise is not None:
        return f"this face reads whole sequences; step through {spec.name}.step, or leave it out"
    return "the model has no step-wise form; leave it out"


def _check_one_row(spec: ModelSpec, inputs: Arrays) -> None:
    rows = measure_request(spec, inputs).rows
    if rows != 1:
        raise bad_input(spec.inputs[0].name, f"it has {rows} rows; a step of one sequence has one")


def _integer(parameters: Mapping[str, pb.InferParameter], name: str) -> int:
    if name not in parameters:
        return 0
    value = _value(parameters[name])
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _INT64_MAX:
        raise bad_input(f"parameters.{name}", f"{value!r} does not fit; send a whole number of 0 or more")
    return value


def _value(parameter: pb.InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _stream_reply(spec: ModelSpec, event: messages.Event, request_id: str) -> pb.ModelStreamInferResponse:
    if event.error is not None:
        return _stream_error(event.error, request_id)
    return pb.ModelStreamInferResponse(infer_response=tensors.encode(spec, event, request_id))


def _stream_error(error: ServingError, request_id: str) -> pb.ModelStreamInferResponse:
    message = f"{error.code.value}: {error.message}"
    return pb.ModelStreamInferResponse(
        error_message=message, infer_response=pb.ModelInferResponse(id=request_id)
    )
