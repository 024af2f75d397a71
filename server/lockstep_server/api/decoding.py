"""How tokens are chosen: the `Decoding` of a request, checked, and what of it replies carry."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lockstep_proto.v1 import sequences_pb2 as pb

from ..errors import bad_input
from ..frontend.callers import current

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .. import messages
    from ..model.spec import ModelSpec

MAX_TOP, MAX_SAMPLES = 20, 16
_MAX_BEAMS, _MAX_IDS, _MAX_NUMBER = 64, 1024, 1e6

REASONS = {
    "end": pb.STOP_REASON_END,
    "length": pb.STOP_REASON_LENGTH,
    "stop": pb.STOP_REASON_STOP,
}


def rules(spec: ModelSpec, sent: pb.Decoding) -> dict[str, Any]:
    """The fields of `messages.Generate` that change the scores of tokens.

    Raises:
        ServingError: BAD_INPUT with the field's name.
    """
    defaults = spec.manifest.generation
    repetition = _given(sent, "repetition_penalty", defaults.repetition_penalty)
    if not 1e-3 <= repetition <= _MAX_NUMBER:
        why = f"{repetition:g} is out of range; send a number from 0.001 to {_MAX_NUMBER:g}, 1 for none"
        raise bad_input("decoding.repetition_penalty", why)
    bias = tuple(sorted(sent.logit_bias.items()))
    _check_count("decoding.logit_bias", len(bias))
    _check_count("decoding.forbidden", len(sent.forbidden))
    for token, value in bias:
        _finite(f"decoding.logit_bias[{token}]", value)
    for field, ids in (("logit_bias", [token for token, _ in bias]), ("forbidden", sent.forbidden)):
        if any(token < 0 for token in ids):
            raise bad_input(f"decoding.{field}", f"{min(ids)} is no id; send ids of 0 or more")
    return {
        "repetition_penalty": repetition,
        "presence_penalty": _finite("decoding.presence_penalty", sent.presence_penalty),
        "no_repeat": _given(sent, "no_repeat", defaults.no_repeat),
        "min_tokens": _given(sent, "min_tokens", defaults.min_tokens),
        "logit_bias": bias,
        "forbidden": tuple(sent.forbidden),
    }


def beams(spec: ModelSpec, request: Any) -> dict[str, Any]:
    """The fields of `messages.Generate` of a beam search. The model's own number of beams is for requests
    that a beam search can answer, and is cut to the slots that the caller may have.

    Raises:
        ServingError: BAD_INPUT with the field's name.
    """
    sent, defaults = request.decoding, spec.manifest.generation
    against = next(iter(_against_beams(request)), None)
    usual = min(defaults.beams, current.get().slots or defaults.beams) if against is None else 1
    count = _given(sent, "beams", usual)
    at_most("decoding.beams", count, _MAX_BEAMS)
    if count > 1 and against is not None:
        raise bad_input(against, f"a beam search has no {against}; leave it out, or send 1 beam")
    return {
        "beams": max(count, 1),
        "length_penalty": _finite(
            "decoding.length_penalty", _given(sent, "length_penalty", defaults.length_penalty), 100
        ),
        "early_stopping": _given(sent, "early_stopping", defaults.early_stopping),
    }


def _against_beams(request: Any) -> Iterable[str]:
    """The fields of a request that a beam search has no answer to."""
    for field in ("temperature", "top_k", "top_p", "stop", "log_probabilities", "top_log_probabilities"):
        if getattr(request, field, None):
            yield field
    if getattr(request, "attention", False):
        yield "attention"
    if getattr(request, "samples", 0) > 1:
        yield "samples"


def at_most(field: str, count: int, most: int) -> int:
    """
    Raises:
        ServingError: BAD_INPUT, too many.
    """
    if count > most:
        raise bad_input(field, f"{count} is out of range; send at most {most}")
    return count


def top_tokens(chunk: messages.Chunk) -> list[pb.TopTokens]:
    return [
        pb.TopTokens(ids=one.ids, log_probabilities=one.log_probabilities, texts=one.texts)
        for one in chunk.top
    ]


def alternatives(event: messages.Event) -> list[pb.Alternative]:
    return [
        pb.Alternative(tokens=one.ids, text=one.text, score=one.score, reason=REASONS[one.reason])
        for one in event.alternatives
    ]


def in_range(field: str, value: float, maximum: float = math.inf) -> float:
    """A number from 0 to `maximum`.

    Raises:
        ServingError: BAD_INPUT, it is not.
    """
    if not (math.isfinite(value) and 0 <= value <= maximum):
        bounds = "of 0 or more" if maximum == math.inf else f"from 0 to {maximum:g}"
        raise bad_input(field, f"{value:g} is out of range; send a number {bounds}")
    return value


def _finite(field: str, value: float, largest: float = _MAX_NUMBER) -> float:
    if not abs(value) <= largest:
        raise bad_input(field, f"{value:g} is out of range; send a number from {-largest:g} to {largest:g}")
    return value


def _check_count(field: str, count: int) -> None:
    if count > _MAX_IDS:
        raise bad_input(field, f"too many ids ({count}); send at most {_MAX_IDS}")


def _given(sent: pb.Decoding, field: str, default: Any) -> Any:
    """A field of the request, or the model's default."""
    return getattr(sent, field) if sent.HasField(field) else default
