"""Every call for any number of questions over one stream, defined once, as those of calls.py are.

an iterable → questions, each prepared by itself → messages that hold several → outcomes, each by its number.
many.py sends and receives them; ledger.py keeps account.

All of them take the questions as they arise, from a list, a generator, a file or a queue, and with an
AsyncClient from anything for `async for`. No more than `in_flight` are taken before their outcomes have
been read, so an iterable of any length will do. What is wrong with one question is its own `error`. What
the server refuses for now, because it is overloaded or restarts, goes again until it is answered, or nothing
has been for 30 s, unless the client has `retries=0`.
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
    from lockstep_client.results import Classification, Encoding, InferResult

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
    """Label any number of texts, or rows of token ids, over one stream: an `Outcome` for each.

        for one in client.classify_many("sentiment-lstm", open("reviews.txt")):
            print(one.answer.best.name, one.given)

    Texts are taken as they arise, at most `in_flight` before their outcomes are read; on a thread of their
    own with a Client. Outcomes come in the order of the texts, or, with `ordered=False`, as soon as each is
    there. A text that is wrong has an `error`, and the others their answers. What the server refuses for now
    goes again, until nothing has been answered for 30 s, unless `retries` is 0. `timeout_s` is the deadline
    of the whole; None is none. The rest is as in `classify`.
    """
    begun = pb.ClassifyRequest(
        model=arguments.model(model),
        version=version,
        top_k=arguments.count_32("top_k", top_k),
        priority=arguments.count("priority", priority),
        queue_timeout_seconds=arguments.seconds("queue_timeout_s", queue_timeout_s),
    )
    read: Callable[[Any], Any] = partial(_outcomes, "classification", replies.classification)
    return _of_texts(protocol.CLASSIFY_MANY, begun, texts, read, in_flight, ordered, timeout_s)


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
    """A vector for any number of texts, or rows of token ids, over one stream: an `Outcome` for each.

        vectors = [one.answer.vector for one in client.encode_many("sentiment-transformer", lines)]

    `attention` is as in `encode`, all else as in `classify_many`.
    """
    begun = pb.EncodeRequest(
        model=arguments.model(model),
        version=version,
        attention=attention,
        priority=arguments.count("priority", priority),
        queue_timeout_seconds=arguments.seconds("queue_timeout_s", queue_timeout_s),
    )
    read: Callable[[Any], Any] = partial(_outcomes, "encoding", replies.encoding)
    return _of_texts(protocol.ENCODE_MANY, begun, texts, read, in_flight, ordered, timeout_s)


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
    """Tensors in, tensors out, any number of times over one stream: an `Outcome` for each.

        rows = ({"tokens": np.array([ids])} for ids in sequences)
        for one in client.infer_many("sentiment-lstm", rows, outputs=["logits"]):
            print(one.answer["logits"])

    On this server or any other of the Open Inference Protocol that answers each request once. Tensors and
    `outputs` are as in `infer`, all else as in `classify_many`. A step of a sequence belongs to `infer`.
    """
    begun = tensor_request.begun(model, version, outputs, priority, queue_timeout_s)
    _check_many("inputs", inputs, Mapping)
    return ManyCall(
        protocol.INFER_MANY,
        inputs,
        prepare=partial(_filled, begun),
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
    begun: Any,
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
        write=partial(_with_texts, begun),
        read=read,
        most_in_message=_TEXTS_IN_MESSAGE,
        in_flight=_in_flight(in_flight),
        ordered=ordered,
        timeout_s=math.inf if timeout_s is None else timeout_s,
    )


def _check_many(field: str, given: object, one: type) -> None:
    if isinstance(given, one) or not isinstance(given, Iterable | AsyncIterable):
        raise arguments.wrong(field, f"{type(given).__name__} is not many: give a list, or what yields them")


def _in_flight(given: int) -> int:
    if given < 1:
        raise arguments.wrong("in_flight", f"{given} would ask nothing: give 1 or more")
    return given


def _text_or_row(given: str | Sequence[int]) -> tuple[str | pb.Ids, int]:
    if isinstance(given, str):
        return arguments.text("texts", given), 4 * len(given)
    row = arguments.row("texts", given)
    return row, row.ByteSize()


def _filled(
    begun: inference.ModelInferRequest, inputs: Mapping[str, npt.ArrayLike]
) -> tuple[inference.ModelInferRequest, int]:
    request = tensor_request.filled(begun, inputs)
    return request, request.ByteSize()


def _with_texts(begun: Any, _: int, given: Sequence[str] | Sequence[pb.Ids]) -> Any:
    request = type(begun)()
    request.CopyFrom(begun)
    (request.texts if isinstance(given[0], str) else request.ids).extend(given)
    return request


def _numbered(number: int, given: Sequence[inference.ModelInferRequest]) -> inference.ModelInferRequest:
    [request] = given
    request.id = str(number)
    return request


def _outcomes(
    field: str, make: Callable[[Any, Any], Any], reply: pb.ClassifyManyReply | pb.EncodeManyReply
) -> Iterator[tuple[int, Any]]:
    for one in reply.outcomes:
        failed = one.HasField("failure")
        yield one.number, _error(one.failure) if failed else make(getattr(one, field), reply)


def _error(failure: pb.Failure) -> LockstepError:
    told = failure.HasField("retry_after_seconds")
    field = failure.field.partition("[")[0]  # its place in a message says nothing to the caller
    return errors.from_code(
        failure.code,
        failure.message.replace(failure.field, field, 1),
        field=field,
        resource=failure.resource,
        retry_after_s=failure.retry_after_seconds if told else None,
    )


def _inferred(reply: inference.ModelStreamInferResponse) -> Iterator[tuple[int, InferResult | LockstepError]]:
    told = reply.infer_response.id
    if not told.isdecimal():
        why = reply.error_message or f"an answer came with the id {told!r}, which was not asked"
        raise errors.from_text(why)
    if reply.error_message:
        yield int(told), errors.from_text(reply.error_message)
    else:
        yield int(told), replies.infer_result(reply.infer_response)
