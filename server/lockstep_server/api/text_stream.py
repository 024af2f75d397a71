"""The Many RPCs: any number of texts over one stream, with one outcome per text.

message -> its texts, numbered -> one request per text -> events in any order -> outcomes. A reply holds
all outcomes that are ready, so that a batch makes one message.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from lockstep_proto.v1 import sequences_pb2 as pb

from .. import messages
from ..errors import ServingError
from ..frontend.loop_watch import Turns
from . import status, texts, token_spans, wire
from .inflight import PipelinedStream

if TYPE_CHECKING:
    from ..frontend.inference_request import InferenceRequest
    from ..model.spec import ModelSpec

Q = TypeVar("Q", pb.ClassifyRequest, pb.EncodeRequest, pb.ClassifyTokensRequest)

_MAX_REPLY_BYTES = 1 << 18
"""A reply gets no more outcomes once it reaches this size: clients limit the size of messages."""


class _TextResult(NamedTuple):
    """The result of one text, until it is written."""

    spec: ModelSpec | None  # None: the message was refused
    request: Any
    number: int
    event: messages.Event | ServingError
    inference: InferenceRequest | None = None  # None: the text was refused


class _Success(NamedTuple):
    """The message of a successful text, as bytes in parts, and the outcome's field that holds it."""

    field: str
    parts: list[wire.Part]


class _ManyStream(PipelinedStream[_TextResult], Generic[Q]):
    """One stream; its texts are numbered from 0."""

    method: ClassVar[str]
    reply: ClassVar[Any]
    outcome: ClassVar[Any]
    outputs_of: ClassVar[Any]  # a `texts.OutputsOf`
    _count = 0

    @abstractmethod
    async def _success(self, spec: ModelSpec, result: _TextResult) -> _Success:
        """The outcome of a successful text."""

    async def _begin(self, request: Q) -> None:
        numbers = range(self._count, self._count + self._count_texts(request))
        self._count = numbers.stop
        try:
            served = self._registry.resolve(request.model, request.version, self.method, len(numbers))
            text_requests = texts.TextRequests(
                served, self.method, request, self._context, self.outputs_of, len(numbers)
            )
        except ServingError as error:
            for number in numbers:
                self._queue(_TextResult(None, request, number, error))
            return
        turns = Turns()
        for index, number in enumerate(numbers):
            await self._wait_for_room()
            self._begin_text(text_requests, index, number, request)
            await turns.end()

    def _count_texts(self, request: Q) -> int:
        try:
            return texts.count(request)
        except ServingError as error:
            self._registry.record_refusal(request.model, request.version, self.method, error)
            raise

    def _begin_text(self, text_requests: texts.TextRequests, index: int, number: int, request: Q) -> None:
        spec = text_requests.served.spec
        try:
            inference = text_requests.inference(index)
            self._start(
                inference, lambda event: self._queue(_TextResult(spec, request, number, event, inference))
            )
        except ServingError as error:
            self._queue(_TextResult(spec, request, number, error))

    async def _next_message(self) -> bytes:
        spec = self._ready[0].spec
        parts = [self.reply(**(texts.model_fields(spec) if spec else {})).SerializeToString()]
        number = self.reply.DESCRIPTOR.fields_by_name["outcomes"].number
        size = 0
        while self._ready and self._ready[0].spec is spec and size < _MAX_REPLY_BYTES:
            outcome = await self._outcome(self._ready.popleft())
            parts += wire.delimited(number, *outcome)
            size += sum(map(len, outcome))
        return await wire.join(parts)

    async def _outcome(self, result: _TextResult) -> list[wire.Part]:
        """The bytes of an outcome, in parts."""
        error = result.event.error if isinstance(result.event, messages.Event) else result.event
        if error is not None:
            return [self.outcome(number=result.number, failure=_failure(error)).SerializeToString()]
        assert result.spec is not None
        success = await self._success(result.spec, result)
        field: int = self.outcome.DESCRIPTOR.fields_by_name[success.field].number
        parts: list[wire.Part] = wire.delimited(field, *success.parts)
        return [self.outcome(number=result.number).SerializeToString(), *parts]


class ClassifyMany(_ManyStream[pb.ClassifyRequest]):
    """One ClassifyMany stream."""

    method, reply, outcome = "ClassifyMany", pb.ClassifyManyReply, pb.ClassifyOutcome
    outputs_of = staticmethod(texts.classify_outputs)

    async def _success(self, spec: ModelSpec, result: _TextResult) -> _Success:
        assert isinstance(result.event, messages.Event)
        found = await texts.classification(spec, result.request, result.event)
        return _Success("classification", [found.SerializeToString()])


class ClassifyTokensMany(_ManyStream[pb.ClassifyTokensRequest]):
    """One ClassifyTokensMany stream."""

    method, reply, outcome = "ClassifyTokensMany", pb.ClassifyTokensManyReply, pb.ClassifyTokensOutcome
    outputs_of = staticmethod(token_spans.outputs)

    async def _success(self, spec: ModelSpec, result: _TextResult) -> _Success:
        assert isinstance(result.event, messages.Event)
        assert result.inference is not None
        found = await token_spans.classification(spec, result.request, result.event, result.inference)
        return _Success("classification", [found.SerializeToString()])


class EncodeMany(_ManyStream[pb.EncodeRequest]):
    """One EncodeMany stream."""

    method, reply, outcome = "EncodeMany", pb.EncodeManyReply, pb.EncodeOutcome
    outputs_of = staticmethod(texts.encode_outputs)

    async def _success(self, spec: ModelSpec, result: _TextResult) -> _Success:
        assert isinstance(result.event, messages.Event)
        assert result.inference is not None
        parts = texts.encoding(spec, result.request, result.event, result.inference.tokens)
        return _Success("encoding", parts)


def _failure(error: ServingError) -> pb.Failure:
    return pb.Failure(
        code=status.CODES[error.code].value[0],
        message=error.message,
        field=error.field,
        resource=error.resource,
        retry_after_seconds=error.retry_after_s,
    )
