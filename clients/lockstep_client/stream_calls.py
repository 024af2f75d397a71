"""Definitions of the calls that are answered by a stream, shared by both clients.

arguments → `StreamCall` (request, reader of one message, how messages join) → `Stream` or `AsyncStream`
(streams.py) → parts as they arrive, and all of them joined from `result()`.

A stream may be retried until its first message arrives. Later, those of `generate` and `translate` are
resumed if their server is lost: a new call goes on after the tokens that have arrived. `timeout_s` is the
deadline of the whole stream; None uses the client's default, infinity sets no deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_client import arguments, decoding, protocol, sequences, stream_replies
from lockstep_client.protocol import RequestStream, SequenceUse, StreamCall
from lockstep_client.stream_results import FLUSH, Flush
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Sequence
    from typing import Unpack

    import numpy.typing as npt
    from google.protobuf.message import Message

    from lockstep_client.decoding import Decoding
    from lockstep_client.stream_results import (
        Generation,
        GenerationPart,
        Prediction,
        Translation,
        TranslationPart,
    )

    Chunk = npt.ArrayLike | Mapping[str, npt.ArrayLike] | Flush


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
    top_log_probabilities: int = 0,
    samples: int = 1,
    sequence_id: int | str = 0,
    version: str = "",
    priority: int = 0,
    timeout_s: float | None = None,
    **options: Unpack[Decoding],
) -> StreamCall[GenerationPart, Generation]:
    """Generate a continuation of a prompt, a text or token ids, with a language model, as a stream.

        with client.generate("shakespeare-char-lstm", "ROMEO:", max_tokens=200, seed=7) as stream:
            for part in stream:
                print(part.text, end="", flush=True)
        print(stream.result().reason)

    Generates at most `max_tokens` tokens; None uses the model's limit. `temperature` 0 always takes the most
    probable token; None is 1. `top_k` and `top_p` restrict sampling to the most probable tokens; 0 turns
    either off. On a deterministic model the same `seed` gives the same text; None draws a seed, which the
    result holds. The text ends before the first of the `stop` strings. `top_log_probabilities` also returns
    so many of the most probable tokens at each place. `samples` generates several texts, whose parts arrive
    as they come; the result is the first, with all in its `samples`. `options` are those of `Decoding`:
    penalties, bias, beam search. A `sequence_id` of `put_sequence` goes on with that text, from its first
    token on, by the prompt and the settings that it has.
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
        top_log_probabilities=arguments.count_32("top_log_probabilities", top_log_probabilities),
        samples=arguments.count_32("samples", samples) if samples != 1 else 0,
        decoding=decoding.message(options),
        priority=arguments.count("priority", priority),
        **_source("prompt", prompt, ids, sequence_id),
    )
    return StreamCall(
        protocol.GENERATE,
        request,
        stream_replies.generation_part,
        stream_replies.generation,
        timeout_s,
        resume=_resumed,
        sequence=SequenceUse.of(model, sequence_id) if sequence_id else None,
    )


def translate(
    model: str,
    text: str = "",
    *,
    ids: Sequence[int] = (),
    max_tokens: int | None = None,
    attention: bool = False,
    sequence_id: int | str = 0,
    version: str = "",
    priority: int = 0,
    timeout_s: float | None = None,
    **options: Unpack[Decoding],
) -> StreamCall[TranslationPart, Translation]:
    """Translate one text, or one sequence of token ids, as a stream.

        print(client.translate("translate-en-fr", "A man is riding a red bicycle .").result().text)

    `attention` also returns the attention weights of each token over the source tokens, and these tokens.
    `max_tokens` None uses the model's limit. `options` are those of `Decoding`: beam search, penalties, bias.
    A `sequence_id` of `put_sequence` goes on with that translation, from its first token on.
    """
    if not text and not len(ids) and not sequence_id:
        raise arguments.invalid("text", "empty: expected a text or ids")
    request = pb.TranslateRequest(
        model=arguments.model(model),
        version=version,
        max_tokens=None if max_tokens is None else arguments.count_32("max_tokens", max_tokens),
        attention=attention,
        decoding=decoding.message(options),
        priority=arguments.count("priority", priority),
        **_source("text", text, ids, sequence_id),
    )
    return StreamCall(
        protocol.TRANSLATE,
        request,
        stream_replies.translation_part,
        stream_replies.translation,
        timeout_s,
        resume=_resumed,
        sequence=SequenceUse.of(model, sequence_id) if sequence_id else None,
    )


def follow(
    model: str,
    pieces: str | Iterable[str | Sequence[int] | Flush] | AsyncIterable[str | Sequence[int] | Flush],
    *,
    top_k: int = 0,
    sequence_id: int | str = 0,
    version: str = "",
    timeout_s: float | None = None,
) -> StreamCall[Prediction, list[Prediction]]:
    """Predict after each element of a sequence that is sent piece by piece.

        for prediction in client.follow("sentiment-lstm", ["it is fun", "ny , not sad"]):
            print(prediction.element, prediction.best.name, prediction.best.probability)

    A piece is a text, a sequence of token ids (each is one element), or `FLUSH`. The server buffers the last
    word of a text until white space follows; `FLUSH` and the end of the pieces complete it. Pieces are read
    concurrently with the predictions, for example from `iter(queue.get, None)` of a queue that another thread
    fills; an AsyncClient also accepts async iterables. An exception of the iterable is raised to the reader
    of the stream. A single text is one piece. `top_k` 0 returns all labels of a classifier, or the 5 most
    probable next tokens of a language model. With a `sequence_id` of `put_sequence`, the pieces follow those
    that this sequence has read; it ends with the stream.
    """
    start = pb.FollowStart(
        model=arguments.model(model),
        version=version,
        top_k=arguments.count_32("top_k", top_k),
        sequence=sequences.message_of("sequence_id", sequence_id) if sequence_id else None,
    )
    return StreamCall(
        protocol.FOLLOW,
        pb.FollowRequest(start=start),
        stream_replies.prediction,
        list,
        timeout_s,
        RequestStream([pieces] if isinstance(pieces, str) else pieces, _written),
        sequence=SequenceUse.of(model, sequence_id) if sequence_id else None,
    )


def follow_frames(
    model: str,
    chunks: npt.NDArray[Any] | Mapping[str, npt.ArrayLike] | Iterable[Chunk] | AsyncIterable[Chunk],
    *,
    prompt: bool = False,
    outputs: Sequence[str] = (),
    top_k: int = 0,
    sequence_id: int | str = 0,
    version: str = "",
    timeout_s: float | None = None,
) -> StreamCall[Prediction, list[Prediction]]:
    """Predict after each frame of a sequence of numbers that is sent chunk by chunk, such as sound.

        for prediction in client.follow_frames("vad", microphone()):
            print(prediction.position, prediction.outputs["output"])

    A chunk is an array of frames [frames, ...] for a model with one input, a mapping of input names to
    arrays, or `FLUSH`. Its datatype is the model's: float32 for FP32. A single array or mapping is one chunk.
    If a step of the model takes a window of samples, a chunk is any number of them [samples], and the server
    buffers them until they fill a window; `FLUSH` and the end of the chunks fill the last one with padding.
    Chunks are read concurrently with the predictions, as the pieces of `follow` are.

    With `prompt`, the first chunk is the prompt of a model that has a graph for one: it is read in one run,
    and has one prediction, after its last frame.

    A classifier answers with labels, a CTC model with text, any other model with its outputs as arrays.
    `outputs` names those to return beside labels or text. `top_k` 0 returns all labels. `sequence_id` is as
    in `follow`.
    """
    start = pb.FollowStart(
        model=arguments.model(model),
        version=version,
        top_k=arguments.count_32("top_k", top_k),
        outputs=outputs,
        prompt=prompt,
        sequence=sequences.message_of("sequence_id", sequence_id) if sequence_id else None,
    )
    return StreamCall(
        protocol.FOLLOW,
        pb.FollowRequest(start=start),
        stream_replies.prediction,
        list,
        timeout_s,
        RequestStream([chunks] if isinstance(chunks, np.ndarray | Mapping) else chunks, _framed),
        sequence=SequenceUse.of(model, sequence_id) if sequence_id else None,
    )


def _resumed(request: Any, parts: Sequence[GenerationPart | TranslationPart]) -> Message | None:
    """The request for the rest of a text; None for several samples, and of a server that knows no rest."""
    if not parts or not parts[0].stream_id or getattr(request, "samples", 0) > 1:
        return None
    resumed = type(request)()
    resumed.CopyFrom(request)
    resumed.resume.tokens[:] = [token for part in parts for token in part.tokens]
    seed = getattr(parts[0], "seed", None)
    if seed is not None:
        resumed.seed = seed
    rest: Message = resumed
    return rest


def _source(field: str, text: str, ids: Sequence[int], sequence_id: int | str) -> dict[str, Any]:
    """The prompt of a text, or the sequence to go on with."""
    if not sequence_id:
        return _text_or_ids(field, text, ids)
    if text or len(ids):
        raise arguments.invalid(field, f"expected either {field}, ids or a sequence_id")
    return {"resume": pb.Resume(sequence=sequences.message_of("sequence_id", sequence_id))}


def _text_or_ids(field: str, text: str, ids: Sequence[int]) -> dict[str, Any]:
    if not len(ids):
        return {"text": arguments.text(field, text)}
    if text:
        raise arguments.invalid(field, f"expected either {field} or ids, not both")
    return {"ids": arguments.row("ids", ids)}


def _written(piece: str | Sequence[int] | Flush) -> pb.FollowRequest:
    if piece is FLUSH:
        return pb.FollowRequest(flush=True)
    if isinstance(piece, str):
        return pb.FollowRequest(text=arguments.text("pieces", piece))
    return pb.FollowRequest(ids=arguments.row("pieces", piece))


def _framed(chunk: Chunk) -> pb.FollowRequest:
    if chunk is FLUSH:
        return pb.FollowRequest(flush=True)
    return pb.FollowRequest(frames=arguments.frames("chunks", chunk))
