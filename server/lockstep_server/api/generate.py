"""Generate and Translate: validated requests to `InferenceRequest`, and engine output to replies."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import structs

from lockstep_proto.v1 import sequences_pb2 as pb

from .. import messages
from ..errors import bad_input
from ..frontend.admission import CallShare
from ..frontend.callers import current
from ..frontend.inference_request import InferenceRequest
from ..frontend.recorder import request_id
from . import decoding, sequence_ids, tensors, texts
from .decoding import REASONS, in_range
from .replies import timings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..frontend.served_model import ServedModel
    from ..model.spec import ModelSpec
    from .status import Context

_MAX_STOPS, _MAX_STOP_CHARACTERS = 16, 256

MakeReply = Callable[[messages.Chunk | None, messages.Event | None], Any]


def generate_request(served: ServedModel, request: pb.GenerateRequest, context: Context) -> InferenceRequest:
    """
    Raises:
        ServingError: BAD_INPUT with the field's name.
    """
    _check_task(served.spec, "generate")
    most = min(current.get().slots or decoding.MAX_SAMPLES, decoding.MAX_SAMPLES)
    decoding.at_most("samples", request.samples, most)
    top_p = in_range("top_p", request.top_p, 1.0)
    if request.HasField("resume") and request.samples > 1:
        raise bad_input("resume", "it goes on with one text; leave samples out")
    message = messages.Generate(
        **_common(served.spec, request, "prompt"),
        temperature=in_range("temperature", request.temperature) if request.HasField("temperature") else 1.0,
        top_k=request.top_k,
        top_p=top_p or 1.0,
        seed=_seed(request),
        stop=_stops(request),
        log_probabilities=request.log_probabilities,
        top=decoding.at_most("top_log_probabilities", request.top_log_probabilities, decoding.MAX_TOP),
        **decoding.beams(served.spec, request),
    )
    return _inference_request(served, "Generate", message, request, "prompt", context)


def _seed(request: pb.GenerateRequest) -> int:
    """That of the request; of a text that was put here, which has one, 0 if the request says none."""
    if request.HasField("seed"):
        return request.seed
    return 0 if request.resume.HasField("sequence") else secrets.randbits(63)


def translate_request(
    served: ServedModel, request: pb.TranslateRequest, context: Context
) -> InferenceRequest:
    """
    Raises:
        ServingError: BAD_INPUT with the field's name.
    """
    _check_task(served.spec, "translate")
    if request.attention and not served.spec.manifest.roles.attention:
        raise bad_input(
            "attention",
            f"model {served.spec.name!r} returns no attention: its manifest has no roles.attention",
        )
    message = messages.Generate(
        **_common(served.spec, request, "source"),
        temperature=0.0,
        attention=request.attention,
        **decoding.beams(served.spec, request),
    )
    return _inference_request(served, "Translate", message, request, "source", context)


def samples(inference: InferenceRequest, count: int) -> list[InferenceRequest]:
    """The requests of several texts of one prompt. Their prompts are equal, and share a prefill."""
    assert isinstance(inference.message, messages.Generate)
    call, seed = CallShare(), inference.message.seed
    seeded = (structs.replace(inference.message, seed=(seed + index) % 2**64) for index in range(count))
    return [structs.replace(inference, message=message, call=call) for message in seeded]


def generate_replies(inference: InferenceRequest, sample: int = 0) -> MakeReply:
    """A function that makes a Generate reply from a chunk, the final event, or both."""
    spec = inference.served.spec
    assert isinstance(inference.message, messages.Generate)
    seed, first = inference.message.seed, True

    def make_reply(chunk: messages.Chunk | None, event: messages.Event | None) -> pb.GenerateReply:
        nonlocal first
        reply = pb.GenerateReply()
        if chunk is not None:
            reply = pb.GenerateReply(
                tokens=chunk.ids,
                text=chunk.text,
                log_probabilities=chunk.log_probabilities,
                top=decoding.top_tokens(chunk),
            )
        reply.sample = sample
        if first:
            reply.stream_id, reply.seed, first = request_id(inference.message.key), seed, False
        if event is not None:
            reply.alternatives.extend(decoding.alternatives(event))
            reply.reason, reply.seed, reply.notice = REASONS[event.reason], seed, spec.notice
            reply.model, reply.version = spec.model, str(spec.version)
            reply.timings.CopyFrom(timings(event))
        return reply

    return make_reply


def translate_replies(inference: InferenceRequest) -> MakeReply:
    """A function that makes a Translate reply from a chunk, the final event, or both.

    With attention, the first reply has the source's tokens.
    """
    spec = inference.served.spec
    assert isinstance(inference.message, messages.Generate)
    attention, first = inference.message.attention, True

    def make_reply(chunk: messages.Chunk | None, event: messages.Event | None) -> pb.TranslateReply:
        nonlocal first
        reply = pb.TranslateReply()
        if chunk is not None:
            rows = [pb.AttentionRow(weights=row) for row in chunk.attention]
            reply = pb.TranslateReply(
                tokens=chunk.ids,
                text=chunk.text,
                attention=rows,
                pieces=chunk.token_texts,
                source_tokens=(inference.tokens or []) if first and attention else [],
            )
        if first:
            reply.stream_id, first = request_id(inference.message.key), False
        if event is not None:
            reply.alternatives.extend(decoding.alternatives(event))
            reply.reason, reply.notice = REASONS[event.reason], spec.notice
            reply.model, reply.version = spec.model, str(spec.version)
            reply.timings.CopyFrom(timings(event))
        return reply

    return make_reply


def _check_task(spec: ModelSpec, task: str) -> None:
    if spec.manifest.task != task:
        raise bad_input("model", f"model {spec.model!r} cannot {task}: its task is {spec.manifest.task!r}")


def _common(spec: ModelSpec, request: Any, field: str) -> dict[str, Any]:
    """The fields of `messages.Generate` that both RPCs set. The front end sets the key and the times."""
    return {
        "key": 0,
        "model": spec.name,
        "version": spec.version,
        "prompt": _ids(spec, request, field),
        **_resume(spec, request),
        "field": field,
        "priority": request.priority,
        "caller": current.get().name,
        "max_slots": current.get().slots or 0,
        "max_tokens": _max_tokens(spec, request),
        **decoding.rules(spec, request.decoding),
    }


def _max_tokens(spec: ModelSpec, request: Any) -> int | None:
    if not request.HasField("max_tokens"):
        return None
    stepwise, sent = spec.manifest.stepwise, int(request.max_tokens)
    assert stepwise is not None
    if sent > stepwise.max_tokens_limit:
        why = f"{sent} exceeds the model's limit of {stepwise.max_tokens_limit}; send that or less"
        raise bad_input("max_tokens", why)
    return sent


def _inference_request(
    served: ServedModel, method: str, message: messages.Generate, request: Any, field: str, context: Context
) -> InferenceRequest:
    text = request.text if request.WhichOneof(field) == "text" else None
    return InferenceRequest(served, method, message, text, remaining_s=context.time_remaining())


def _resume(spec: ModelSpec, request: Any) -> dict[str, Any]:
    """Where a text goes on. What the engine finds to be of another text is refused there."""
    if not request.HasField("resume"):
        return {}
    resume = request.resume
    if resume.tokens and decoding.beams(spec, request)["beams"] > 1:
        raise bad_input("resume.tokens", "a text with beams has none before its end; send its request again")
    check_tokens(spec, resume.tokens, "resume.tokens")
    found: dict[str, Any] = {"received": tuple(resume.tokens)}
    if resume.HasField("sequence"):
        id_ = sequence_ids.value(resume.sequence, "resume.sequence")
        found["resumes"] = sequence_ids.owned(id_)
    return found


def check_tokens(spec: ModelSpec, tokens: Sequence[int], field: str) -> None:
    """
    Raises:
        ServingError: BAD_INPUT, too many for a text of the model, or an id that its steps do not take.
    """
    stepwise, tensor = spec.manifest.stepwise, spec.text_tensor
    assert stepwise is not None
    assert tensor is not None
    if len(tokens) > stepwise.max_tokens_limit:
        why = f"{len(tokens)} exceed the model's limit of {stepwise.max_tokens_limit} tokens"
        raise bad_input(field, why)
    tensors.check_ids(tensor, np.array([tokens], np.int64), field)


def written(spec: ModelSpec, message: messages.Generate) -> pb.GenerateRequest | pb.TranslateRequest:
    """The request that `generate_request` or `translate_request` makes this message of."""
    rules = pb.Decoding(
        repetition_penalty=message.repetition_penalty,
        presence_penalty=message.presence_penalty,
        no_repeat=message.no_repeat,
        min_tokens=message.min_tokens,
        logit_bias=dict(message.logit_bias),
        forbidden=message.forbidden,
        beams=1,
    )
    common: dict[str, Any] = {
        "ids": pb.Ids(ids=message.prompt),
        "max_tokens": message.max_tokens,
        "decoding": rules,
    }
    if spec.manifest.task == "translate":
        return pb.TranslateRequest(**common, attention=message.attention)
    return pb.GenerateRequest(
        **common,
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p,
        seed=message.seed,
        stop=message.stop,
        log_probabilities=message.log_probabilities,
        top_log_probabilities=message.top,
    )


def _ids(spec: ModelSpec, request: Any, field: str) -> tuple[int, ...]:
    """The ids of the request; none if it has a text, which is tokenized later."""
    if request.WhichOneof(field) == "ids":
        tensor = spec.reader.text_tensor
        assert tensor is not None
        texts.check_ids_count(request.ids.ids, "ids")
        tensors.check_ids(tensor, np.array([request.ids.ids], np.int64), "ids")
        return tuple(request.ids.ids)
    if request.WhichOneof(field) is None and request.resume.HasField("sequence"):
        return ()
    if not spec.reads_text:
        raise bad_input("text", f"model {spec.model!r} has no tokenizer; send ids")
    texts.check_text(request.text, "text")
    if field == "source" and not request.text.strip():
        raise bad_input("text", "the text is empty; send at least one word")
    return ()


def _stops(request: pb.GenerateRequest) -> tuple[str, ...]:
    stops = tuple(request.stop)
    if len(stops) > _MAX_STOPS:
        raise bad_input("stop", f"too many stop strings ({len(stops)}); send at most {_MAX_STOPS}")
    for index, stop in enumerate(stops):
        if not 0 < len(stop) <= _MAX_STOP_CHARACTERS:
            raise bad_input(
                f"stop[{index}]",
                f"the stop string has {len(stop)} characters; send 1 to {_MAX_STOP_CHARACTERS}",
            )
    return stops
