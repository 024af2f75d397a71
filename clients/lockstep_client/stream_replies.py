"""Conversion of stream messages to parts, and of parts to results; pure. Counterpart of stream_calls.py."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lockstep_client import replies, stream_results, tensors
from lockstep_client.errors import ServerFailure
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt


def generation_part(reply: pb.GenerateReply) -> stream_results.GenerationPart:
    """The part in one message of Generate."""
    last = bool(reply.reason)
    return stream_results.GenerationPart(
        tokens=tuple(reply.tokens),
        text=reply.text,
        log_probabilities=tuple(reply.log_probabilities),
        reason=_reason(reply.reason),
        timings=replies.timings(reply.timings) if last else None,
        seed=reply.seed if last or reply.stream_id else None,
        notice=reply.notice,
        model=reply.model,
        version=reply.version,
        alternatives=_alternatives(reply.alternatives),
        top=tuple(
            stream_results.TopTokens(tuple(one.ids), tuple(one.log_probabilities), tuple(one.texts))
            for one in reply.top
        ),
        sample=reply.sample,
        stream_id=reply.stream_id,
    )


def generation(parts: Sequence[stream_results.GenerationPart]) -> stream_results.Generation:
    """The joined parts of Generate. Raises ServerFailure if the last part is missing."""
    count = 1 + max((part.sample for part in parts), default=0)
    if count > 1:
        texts = [_generation([one for one in parts if one.sample == sample]) for sample in range(count)]
        return replace(texts[0], samples=tuple(texts))
    return _generation(parts)


def _generation(parts: Sequence[stream_results.GenerationPart]) -> stream_results.Generation:
    last = parts[-1] if parts else None
    if last is None or last.timings is None or last.seed is None:
        raise _no_reason()
    return stream_results.Generation(
        text="".join(p.text for p in parts),
        tokens=tuple(token for p in parts for token in p.tokens),
        log_probabilities=tuple(value for p in parts for value in p.log_probabilities),
        reason=last.reason,
        timings=last.timings,
        seed=last.seed,
        notice=_notice(p.notice for p in parts),
        model=last.model,
        version=last.version,
        alternatives=last.alternatives,
        top=tuple(one for p in parts for one in p.top),
    )


def translation_part(reply: pb.TranslateReply) -> stream_results.TranslationPart:
    """The part in one message of Translate."""
    return stream_results.TranslationPart(
        tokens=tuple(reply.tokens),
        text=reply.text,
        pieces=tuple(reply.pieces),
        attention=_rows(reply.attention) if reply.attention else None,
        source_tokens=tuple(reply.source_tokens),
        reason=_reason(reply.reason),
        timings=replies.timings(reply.timings) if reply.reason else None,
        notice=reply.notice,
        model=reply.model,
        version=reply.version,
        alternatives=_alternatives(reply.alternatives),
        stream_id=reply.stream_id,
    )


def _alternatives(sent: Iterable[pb.Alternative]) -> tuple[stream_results.Alternative, ...]:
    return tuple(
        stream_results.Alternative(one.text, tuple(one.tokens), one.score, _reason(one.reason))
        for one in sent
    )


def translation(parts: Sequence[stream_results.TranslationPart]) -> stream_results.Translation:
    """The joined parts of Translate. Raises ServerFailure if the last part is missing."""
    last = parts[-1] if parts else None
    if last is None or last.timings is None:
        raise _no_reason()
    attention = [p.attention for p in parts if p.attention is not None]
    return stream_results.Translation(
        text="".join(p.text for p in parts),
        tokens=tuple(token for p in parts for token in p.tokens),
        pieces=tuple(piece for p in parts for piece in p.pieces),
        attention=_stacked(attention) if attention else None,
        source_tokens=next((p.source_tokens for p in parts if p.source_tokens), ()),
        reason=last.reason,
        timings=last.timings,
        notice=_notice(p.notice for p in parts),
        model=last.model,
        version=last.version,
        alternatives=last.alternatives,
    )


def prediction(reply: pb.FollowReply) -> stream_results.Prediction:
    """The prediction in one message of Follow."""
    return stream_results.Prediction(
        position=reply.position,
        id=reply.id,
        element=reply.element,
        labels=replies.labels(reply.labels),
        computed_elements=reply.computed_elements,
        outputs={
            one.name: tensors.decode(one.name, one.datatype, one.shape, one.contents) for one in reply.outputs
        },
        text=reply.text,
        kept_characters=reply.kept_characters,
        stream_id=reply.stream_id,
        timings=replies.timings(reply.timings),
        notice=reply.notice,
        model=reply.model,
        version=reply.version,
    )


def _reason(reason: pb.StopReason) -> str:
    """The stop reason without its prefix; empty if unset, UNKNOWN for a value unknown to this client."""
    if reason == pb.STOP_REASON_UNSPECIFIED:
        return ""
    known = reason in pb.StopReason.values()
    return pb.StopReason.Name(reason).removeprefix("STOP_REASON_") if known else "UNKNOWN"


def _no_reason() -> ServerFailure:
    return ServerFailure("the stream ended without a reason: its last message is missing")


def _notice(notices: Iterable[str]) -> str:
    return next(filter(None, notices), "")


def _rows(rows: Iterable[pb.AttentionRow]) -> npt.NDArray[np.float32]:
    return _stacked([np.array(row.weights, np.float32)[None] for row in rows])


def _stacked(rows: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    try:
        return np.concatenate(rows)
    except ValueError as error:
        raise ServerFailure(f"attention: rows of unequal length: {error}") from error
