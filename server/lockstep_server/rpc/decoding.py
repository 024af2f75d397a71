"""Generate and Translate, told in the port's words and back."""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep.v1 import sequences_pb2 as pb

from .. import port
from ..errors import bad_input
from ..models import datatypes
from . import codec
from .calls import Ask
from .replies import timings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..models.card import Card
    from ..models.datatypes import Arrays
    from .interceptors import Context
    from .served import Served

_MOST_STOPS, _LONGEST_STOP = 16, 256

_REASONS = {
    "end": pb.STOP_REASON_END,
    "length": pb.STOP_REASON_LENGTH,
    "stop": pb.STOP_REASON_STOP,
}

Reply = Any


def generation(served: Served, request: pb.GenerateRequest, context: Context) -> Ask:
    """
    Raises:
        ServingError: BAD_INPUT with the field's name.
    """
    _check_task(served.card, "generate")
    top_p = _within("top_p", request.top_p, 1.0)
    how = port.Decode(
        max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
        temperature=_within("temperature", request.temperature) if request.HasField("temperature") else 1.0,
        top_k=request.top_k,
        top_p=top_p or 1.0,
        seed=request.seed if request.HasField("seed") else secrets.randbits(63),
        stop=_stops(request),
        log_probabilities=request.log_probabilities,
    )
    return _ask(served, "Generate", request, "prompt", how, context)


def translation(served: Served, request: pb.TranslateRequest, context: Context) -> Ask:
    """
    Raises:
        ServingError: BAD_INPUT with the field's name.
    """
    _check_task(served.card, "translate")
    if request.attention and not served.card.manifest.roles.attention:
        raise bad_input(
            "attention", f"model {served.card.name!r} gives none: its manifest names no roles.attention"
        )
    how = port.Decode(
        max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
        temperature=0.0,
        attention=request.attention,
    )
    return _ask(served, "Translate", request, "source", how, context)


def generated(ask: Ask) -> Callable[[port.Chunk | None, port.Event | None], Reply]:
    """What makes a stream's replies."""
    card, seed = ask.served.card, ask.how.seed if isinstance(ask.how, port.Decode) else 0

    def reply(chunk: port.Chunk | None, event: port.Event | None) -> pb.GenerateReply:
        made = pb.GenerateReply()
        if chunk is not None:
            made = pb.GenerateReply(
                tokens=chunk.ids, text=chunk.text, log_probabilities=chunk.log_probabilities
            )
        if event is not None:
            made.reason, made.seed, made.notice = _REASONS[event.reason], seed, card.notice
            made.model, made.version = card.model, str(card.version)
            made.timings.CopyFrom(timings(event))
        return made

    return reply


def translated(ask: Ask) -> Callable[[port.Chunk | None, port.Event | None], Reply]:
    """What makes a stream's replies."""
    card = ask.served.card

    def reply(chunk: port.Chunk | None, event: port.Event | None) -> pb.TranslateReply:
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
            made.reason, made.notice = _REASONS[event.reason], card.notice
            made.model, made.version = card.model, str(card.version)
            made.timings.CopyFrom(timings(event))
        return made

    return reply


def _check_task(card: Card, task: str) -> None:
    if card.manifest.task != task:
        raise bad_input("model", f"model {card.model!r} cannot {task}: its task is {card.manifest.task!r}")


def _ask(served: Served, method: str, request: Any, field: str, how: port.Decode, context: Context) -> Ask:
    inputs, text = _given(served.card, request, field)
    wants_tokens = how.attention
    return Ask(
        served, method, inputs, text, field, (), wants_tokens, request.priority, 0.0,
        context.time_remaining(), context.peer(), how,
    )  # fmt: skip


def _given(card: Card, request: Any, field: str) -> tuple[Arrays, str | None]:
    """The ids as the model's input, or the text."""
    if request.WhichOneof(field) == "ids":
        first = card.prefill or card
        tensor = first.input(first.text_input)
        assert tensor is not None
        array = np.array([request.ids.ids], np.int64)
        codec.check_ids(tensor, array, "ids")
        return {card.text_input: array.astype(datatypes.NUMPY[tensor.datatype])}, None
    if card.manifest.text is None:
        raise bad_input("text", f"model {card.model!r} has no tokenizer; send ids")
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
