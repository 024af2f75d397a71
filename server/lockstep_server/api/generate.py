"""Generate and Translate, told in the port's words and back."""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_proto.v1 import sequences_pb2 as pb

from .. import messages
from ..errors import bad_input
from ..frontend.requests import InferenceRequest
from ..model import datatypes
from . import tensors
from .replies import timings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..frontend.registry import ServedModel
    from ..model.datatypes import Arrays
    from ..model.spec import ModelSpec
    from .instrumentation import Context

_MOST_STOPS, _LONGEST_STOP = 16, 256

_REASONS = {
    "end": pb.STOP_REASON_END,
    "length": pb.STOP_REASON_LENGTH,
    "stop": pb.STOP_REASON_STOP,
}

Reply = Any


def generation(served: ServedModel, request: pb.GenerateRequest, context: Context) -> InferenceRequest:
    """
    Raises:
        ServingError: BAD_INPUT with the field's name.
    """
    _check_task(served.spec, "generate")
    top_p = _within("top_p", request.top_p, 1.0)
    how = messages.Decode(
        max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
        temperature=_within("temperature", request.temperature) if request.HasField("temperature") else 1.0,
        top_k=request.top_k,
        top_p=top_p or 1.0,
        seed=request.seed if request.HasField("seed") else secrets.randbits(63),
        stop=_stops(request),
        log_probabilities=request.log_probabilities,
    )
    return _ask(served, "Generate", request, "prompt", how, context)


def translation(served: ServedModel, request: pb.TranslateRequest, context: Context) -> InferenceRequest:
    """
    Raises:
        ServingError: BAD_INPUT with the field's name.
    """
    _check_task(served.spec, "translate")
    if request.attention and not served.spec.manifest.roles.attention:
        raise bad_input(
            "attention", f"model {served.spec.name!r} gives none: its manifest names no roles.attention"
        )
    how = messages.Decode(
        max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
        temperature=0.0,
        attention=request.attention,
    )
    return _ask(served, "Translate", request, "source", how, context)


def generated(ask: InferenceRequest) -> Callable[[messages.Chunk | None, messages.Event | None], Reply]:
    """What makes a stream's replies."""
    spec, seed = ask.served.spec, ask.how.seed if isinstance(ask.how, messages.Decode) else 0

    def reply(chunk: messages.Chunk | None, event: messages.Event | None) -> pb.GenerateReply:
        made = pb.GenerateReply()
        if chunk is not None:
            made = pb.GenerateReply(
                tokens=chunk.ids, text=chunk.text, log_probabilities=chunk.log_probabilities
            )
        if event is not None:
            made.reason, made.seed, made.notice = _REASONS[event.reason], seed, spec.notice
            made.model, made.version = spec.model, str(spec.version)
            made.timings.CopyFrom(timings(event))
        return made

    return reply


def translated(ask: InferenceRequest) -> Callable[[messages.Chunk | None, messages.Event | None], Reply]:
    """What makes a stream's replies."""
    spec = ask.served.spec

    def reply(chunk: messages.Chunk | None, event: messages.Event | None) -> pb.TranslateReply:
        made = pb.TranslateReply()
        if chunk is not None:
            rows = [pb.AttentionRow(weights=row) for row in chunk.attention]
            made = pb.TranslateReply(
                tokens=chunk.ids,
                text=chunk.text,
                attention=rows,
                pieces=chunk.pieces,
                source_tokens=chunk.source,
            )
        if event is not None:
            made.reason, made.notice = _REASONS[event.reason], spec.notice
            made.model, made.version = spec.model, str(spec.version)
            made.timings.CopyFrom(timings(event))
        return made

    return reply


def _check_task(spec: ModelSpec, task: str) -> None:
    if spec.manifest.task != task:
        raise bad_input("model", f"model {spec.model!r} cannot {task}: its task is {spec.manifest.task!r}")


def _ask(
    served: ServedModel, method: str, request: Any, field: str, how: messages.Decode, context: Context
) -> InferenceRequest:
    inputs, text = _given(served.spec, request, field)
    wants_tokens = how.attention
    return InferenceRequest(
        served, method, inputs, text, field, (), wants_tokens, request.priority, 0.0,
        context.time_remaining(), context.peer(), how,
    )  # fmt: skip


def _given(spec: ModelSpec, request: Any, field: str) -> tuple[Arrays, str | None]:
    """The ids as the model's input, or the text."""
    if request.WhichOneof(field) == "ids":
        first = spec.prefill or spec
        tensor = first.input(first.text_input)
        assert tensor is not None
        array = np.array([request.ids.ids], np.int64)
        tensors.check_ids(tensor, array, "ids")
        return {spec.text_input: array.astype(datatypes.NUMPY[tensor.datatype])}, None
    if spec.manifest.text is None:
        raise bad_input("text", f"model {spec.model!r} has no tokenizer; send ids")
    if field == "source" and not request.text.strip():
        raise bad_input("text", "it is empty; send at least one word")
    return {}, request.text


def _within(field: str, value: float, most: float = math.inf) -> float:
    if not (math.isfinite(value) and 0 <= value <= most):
        bounds = "0 or more" if most == math.inf else f"from 0 to {most:g}"
        raise bad_input(field, f"{value:g} does not fit; send a number, {bounds}")
    return value


def _stops(request: pb.GenerateRequest) -> tuple[str, ...]:
    stops = tuple(request.stop)
    if len(stops) > _MOST_STOPS:
        raise bad_input("stop", f"there are {len(stops)}; send {_MOST_STOPS} at most")
    for index, stop in enumerate(stops):
        if not 0 < len(stop) <= _LONGEST_STOP:
            raise bad_input(f"stop[{index}]", f"it has {len(stop)} characters; send 1 to {_LONGEST_STOP}")
    return stops
