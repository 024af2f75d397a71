"""Every call that is answered by a stream, defined once, as those of calls.py are.

arguments → `StreamCall` (request, how to read a message, how messages join) → `Stream` or `AsyncStream`
(streams.py) → parts as they come, and the whole of them from `result()`.

A stream may be tried again until its first message, never after it. `timeout_s` is the deadline of the
whole stream; None is the client's own, infinity is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lockstep_client import arguments, protocol, stream_replies
from lockstep_client.protocol import RequestStream, StreamCall
from lockstep_client.stream_results import FLUSH, Flush
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Sequence

    from lockstep_client.stream_results import (
        Generation,
        GenerationPart,
        Prediction,
        Translation,
        TranslationPart,
    )


def generate(
    model: str,
    prompt: str = "",
    *,
    ids: Sequence[int] = (),
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 0.0,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    log_probabilities: bool = False,
    version: str = "",
    priority: int = 0,
    timeout_s: float | None = None,
) -> StreamCall[GenerationPart, Generation]:
    """Let a language model continue a prompt, a text or token ids; the text comes as it is made.

        with client.generate("shakespeare-char-lstm", "ROMEO:", max_tokens=200, seed=7) as stream:
            for part in stream:
                print(part.text, end="", flush=True)
        print(stream.result().reason)

    At most `max_tokens`; None is the model's own limit. `temperature` 0 takes the most probable token each
    time; None is 1. `top_k` and `top_p` sample among the most probable tokens only; 0 is among all. One
    `seed` gives one text on a deterministic model; None draws one, and the result tells it. The text ends
    before any of the `stop` strings.
    """
    request = pb.GenerateRequest(
        model=arguments.model(model),
        version=version,
        max_tokens=None if max_tokens is None else arguments.count_32("max_tokens", max_tokens),
        temperature=temperature,
        top_k=arguments.count_32("top_k", top_k),
        top_p=top_p,
        seed=None if seed is None else arguments.count("seed", seed),
        stop=[arguments.text("stop", one) for one in ([stop] if isinstance(stop, str) else stop)],
        log_probabilities=log_probabilities,
        priority=arguments.count("priority", priority),
        **_text_or_ids("prompt", prompt, ids),
    )
    return StreamCall(
        protocol.GENERATE, request, stream_replies.generation_part, stream_replies.generation, timeout_s
    )


def translate(
    model: str,
    text: str = "",
    *,
    ids: Sequence[int] = (),
    max_tokens: int | None = None,
    attention: bool = False,
    version: str = "",
    priority: int = 0,
    timeout_s: float | None = None,
) -> StreamCall[TranslationPart, Translation]:
    """Translate one text, or one row of token ids; the translation comes as it is made.

        print(client.translate("translate-en-fr", "A man is riding a red bicycle .").result().text)

    `attention` asks for the weights that each token gave to the tokens of the source, and for those tokens.
    `max_tokens` None is the model's own limit.
    """
    if not text and not len(ids):
        raise arguments.wrong("text", "empty: give a text or ids")
    request = pb.TranslateRequest(
        model=arguments.model(model),
        version=version,
        max_tokens=None if max_tokens is None else arguments.count_32("max_tokens", max_tokens),
        attention=attention,
        priority=arguments.count("priority", priority),
        **_text_or_ids("text", text, ids),
    )
    return StreamCall(
        protocol.TRANSLATE, request, stream_replies.translation_part, stream_replies.translation, timeout_s
    )


def follow(
    model: str,
    pieces: str | Iterable[str | Sequence[int] | Flush] | AsyncIterable[str | Sequence[int] | Flush],
    *,
    top_k: int = 0,
    version: str = "",
    timeout_s: float | None = None,
) -> StreamCall[Prediction, list[Prediction]]:
    """A prediction after each element of a sequence that arrives piece by piece.

        for one in client.follow("sentiment-lstm", ["it is fun", "ny , not sad"]):
            print(one.element, one.best.name, one.best.probability)

    A piece is a text, which is held until its next white space, a row of token ids, each an element, or
    `FLUSH`, which takes the held text as it stands. The end of the pieces flushes too. They are read beside
    the predictions, as they come: `iter(queue.get, None)` of a queue that another thread fills will do, and
    with an AsyncClient anything for `async for`. What they raise, the reader of the stream meets. One text
    is one piece. `top_k` 0 is all labels of a classifier, and 5 next tokens of a language model.
    """
    start = pb.FollowStart(
        model=arguments.model(model), version=version, top_k=arguments.count_32("top_k", top_k)
    )
    return StreamCall(
        protocol.FOLLOW,
        pb.FollowRequest(start=start),
        stream_replies.prediction,
        list,
        timeout_s,
        RequestStream([pieces] if isinstance(pieces, str) else pieces, _written),
    )


def _text_or_ids(field: str, text: str, ids: Sequence[int]) -> dict[str, Any]:
    if not len(ids):
        return {"text": arguments.text(field, text)}
    if text:
        raise arguments.wrong(field, f"give {field} or ids, one of the two")
    return {"ids": arguments.row("ids", ids)}


def _written(piece: str | Sequence[int] | Flush) -> pb.FollowRequest:
    if piece is FLUSH:
        return pb.FollowRequest(flush=True)
    if isinstance(piece, str):
        return pb.FollowRequest(text=arguments.text("pieces", piece))
    return pb.FollowRequest(ids=arguments.row("pieces", piece))
