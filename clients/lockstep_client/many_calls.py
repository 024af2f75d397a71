"""Definitions of the calls that pipeline any number of items over one stream, shared by both clients.

iterable → items, each prepared separately → messages of several items → outcomes by number. many.py sends
and receives the messages; item_tracker.py holds the state.

Items are read lazily from a list, a generator, a file or a queue; an AsyncClient also accepts async
iterables. At most `in_flight` items are taken before their outcomes have been read, so the iterable may be
endless. An invalid item fails alone, with its own `error`. Items that the server rejects temporarily
(overload, restart) are sent again until they are answered or no result has arrived for 30 s, unless the
client has `retries=0`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lockstep_client import arguments, errors, inference, protocol, replies, tensor_request
from lockstep_client.protocol import ManyCall
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from lockstep_client.errors import LockstepError
    from lockstep_client.results import Classification, Encoding, InferResult, TokenClassification

_TEXTS_IN_MESSAGE = 64


def classify_many(
    model: str,
    texts: Iterable[str | Sequence[int]] | AsyncIterable[str | Sequence[int]],
    *,
    top_k: int = 0,
    in_flight: int = 256,
    ordered: bool = True,
    version: str = "",
    priority: int = 0,
    queue_timeout_s: float = 0.0,
    timeout_s: float | None = None,
) -> ManyCall[str | Sequence[int], Classification]:
    """Classify any number of texts, or sequences of token ids, over one stream: one `Outcome` each.

        for outcome in client.classify_many("sentiment-lstm", open("reviews.txt")):
            print(outcome.answer.best.name, outcome.given)

    Texts are read lazily, at most `in_flight` ahead of the outcomes that have been read; a Client reads them
    on a separate thread. Outcomes arrive in the order of the texts, or, with `ordered=False`, as soon as each
    is ready. An invalid text has an `error`; the others are answered. Texts that the server rejects
    temporarily are sent again until no result has arrived for 30 s, unless `retries` is 0. `timeout_s` is the
    deadline of the whole call; None sets none. The other arguments are as in `classify`.
    """
    template = pb.ClassifyRequest(
        model=arguments.model(model),
        version=version,
        top_k=arguments.count_32("top_k", top_k),
        priority=arguments.count("priority", priority),
        queue_timeout_seconds=arguments.seconds("queue_timeout_s", queue_timeout_s),
    )
    read: Callable[[Any], Any] = partial(_outcomes, "classification", replies.classification)
    return _of_texts(protocol.CLASSIFY_MANY, template, texts, read, in_flight, ordered, timeout_s)


def classify_tokens_many(
    model: str,
    texts: Iterable[str | Sequence[int]] | AsyncIterable[str | Sequence[int]],
    *,
    aggregation: str = "",
    entities: bool = False,
    top_k: int = 1,
    in_flight: int = 256,
    ordered: bool = True,
    version: str = "",
    priority: int = 0,
    queue_timeout_s: float = 0.0,
    timeout_s: float | None = None,
) -> ManyCall[str | Sequence[int], TokenClassification]:
    """Label the words of any number of texts, or token ids, over one stream: one `Outcome` each.

        for outcome in client.classify_tokens_many("tagger", lines, entities=True):
            print([(span.text, span.best.name) for span in outcome.answer.spans])

    `aggregation`, `entities` and `top_k` are as in `classify_tokens`, the other arguments are as in
    `classify_many`.
    """
    template = pb.ClassifyTokensRequest(
        model=arguments.model(model),
        version=version,
        aggregation=arguments.aggregation(aggregation),
        entities=entities,
        top_k=arguments.count_32("top_k", top_k),
        priority=arguments.count("priority", priority),
        queue_timeout_seconds=arguments.seconds("queue_timeout_s", queue_timeout_s),
    )
    read: Callable[[Any], Any] = partial(_outcomes, "classification", replies.token_classification)
    return _of_texts(protocol.CLASSIFY_TOKENS_MANY, template, texts, read, in_flight, ordered, timeout_s)


def encode_many(
    model: str,
    texts: Iterable[str | Sequence[int]] | AsyncIterable[str | Sequence[int]],
    *,
    attention: bool = False,
    in_flight: int = 256,
    ordered: bool = True,
    version: str = "",
    priority: int = 0,
    queue_timeout_s: float = 0.0,
    timeout_s: float | None = None,
) -> ManyCall[str | Sequence[int], Encoding]:
    """Encode any number of texts, or sequences of token ids, over one stream: one `Outcome` each.

        vectors = [outcome.answer.vector for outcome in client.encode_many("sentiment-transformer", lines)]

    `attention` is as in `encode`, the other arguments are as in `classify_many`.
    """
    template = pb.EncodeRequest(
        model=arguments.model(model),
        version=version,
        attention=attention,
        priority=arguments.count("priority", priority),
        queue_timeout_seconds=arguments.seconds("queue_timeout_s", queue_timeout_s),
    )
    read: Callable[[Any], Any] = partial(_outcomes, "encoding", replies.encoding)
    return _of_texts(protocol.ENCODE_MANY, template, texts, read, in_flight, ordered, timeout_s)


def infer_many(
    model: str,
    inputs: Iterable[Mapping[str, npt.ArrayLike]] | AsyncIterable[Mapping[str, npt.ArrayLike]],
    *,
    outputs: Sequence[str] = (),
    in_flight: int = 256,
    ordered: bool = True,
    version: str = "",
    priority: int = 0,
    queue_timeout_s: float = 0.0,
    timeout_s: float | None = None,
) -> ManyCall[Mapping[str, npt.ArrayLike], InferResult]:
    """Run a model on any number of tensor requests over one stream: one `Outcome` each.

        rows = ({"tokens": np.array([ids])} for ids in sequences)
        for outcome in client.infer_many("sentiment-lstm", rows, outputs=["logits"]):
            print(outcome.answer["logits"])

    Works with every server of the Open Inference Protocol that answers each request once. Tensors and
    `outputs` are as in `infer`, the other arguments are as in `classify_many`. Use `infer` for the steps of
    a sequence.
    """
    template = tensor_request.template(model, version, outputs, priority, queue_timeout_s)
    _check_many("inputs", inputs, Mapping)
    return ManyCall(
        protocol.INFER_MANY,
        inputs,
        prepare=partial(_prepared_tensors, template),
        group=type,
        write=_numbered,
        read=_inferred,
        most_in_message=1,
        in_flight=_in_flight(in_flight),
        ordered=ordered,
        timeout_s=math.inf if timeout_s is None else timeout_s,
    )


def _of_texts(
    method: protocol.Method[Any],
    template: Any,
    texts: Iterable[str | Sequence[int]] | AsyncIterable[str | Sequence[int]],
    read: Callable[[Any], Any],
    in_flight: int,
    ordered: bool,
    timeout_s: float | None,
) -> ManyCall[str | Sequence[int], Any]:
    _check_many("texts", texts, str)
    return ManyCall(
        method,
        texts,
        prepare=_text_or_row,
        group=type,
        write=partial(_with_texts, template),
        read=read,
        most_in_message=_TEXTS_IN_MESSAGE,
        in_flight=_in_flight(in_flight),
        ordered=ordered,
        timeout_s=math.inf if timeout_s is None else timeout_s,
    )


def _check_many(field: str, value: object, item: type) -> None:
    if isinstance(value, item) or not isinstance(value, Iterable | AsyncIterable):
        raise arguments.invalid(field, f"expected an iterable of {field}, got {type(value).__name__}")


def _in_flight(value: int) -> int:
    if value < 1:
        raise arguments.invalid("in_flight", f"{value} is too small: expected 1 or more")
    return value


def _text_or_row(item: str | Sequence[int]) -> tuple[str | pb.Ids, int]:
    if isinstance(item, str):
        return arguments.text("texts", item), 4 * len(item)
    row = arguments.row("texts", item)
    return row, row.ByteSize()


def _prepared_tensors(
    template: inference.ModelInferRequest, inputs: Mapping[str, npt.ArrayLike]
) -> tuple[inference.ModelInferRequest, int]:
    request = tensor_request.with_inputs(template, inputs)
    return request, request.ByteSize()


def _with_texts(template: Any, _: int, items: Sequence[str] | Sequence[pb.Ids]) -> Any:
    request = type(template)()
    request.CopyFrom(template)
    (request.texts if isinstance(items[0], str) else request.ids).extend(items)
    return request


def _numbered(number: int, items: Sequence[inference.ModelInferRequest]) -> inference.ModelInferRequest:
    [request] = items
    request.id = str(number)
    return request


def _outcomes(
    field: str, make: Callable[[Any, Any], Any], reply: pb.ClassifyManyReply | pb.EncodeManyReply
) -> Iterator[tuple[int, Any]]:
    for item in reply.outcomes:
        failed = item.HasField("failure")
        yield item.number, _error(item.failure) if failed else make(getattr(item, field), reply)


def _error(failure: pb.Failure) -> LockstepError:
    number = failure.HasField("retry_after_seconds")
    # Without the index, which counts the items of one message only.
    field = failure.field.partition("[")[0]
    return errors.from_code(
        failure.code,
        failure.message.replace(failure.field, field, 1),
        field=field,
        resource=failure.resource,
        retry_after_s=failure.retry_after_seconds if number else None,
    )


def _inferred(reply: inference.ModelStreamInferResponse) -> Iterator[tuple[int, InferResult | LockstepError]]:
    number = reply.infer_response.id
    if not number.isdecimal():
        why = reply.error_message or f"received a result with the id {number!r}, which is not in flight"
        raise errors.from_text(why)
    if reply.error_message:
        yield int(number), errors.from_text(reply.error_message)
    else:
        yield int(number), replies.infer_result(reply.infer_response)
