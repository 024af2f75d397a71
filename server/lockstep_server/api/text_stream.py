"""ClassifyMany and EncodeMany: any number of texts over one stream, each answered, or refused, by itself.

message -> its texts, numbered -> one request for each -> events as they come -> outcomes. A message out holds
every outcome that is ready, so that one run of a batch is one message.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from lockstep_proto.v1 import sequences_pb2 as pb

from .. import messages
from ..errors import ServingError
from . import status, texts
from .inflight import PipelinedStream

if TYPE_CHECKING:
    from ..model.spec import ModelSpec

Q = TypeVar("Q", pb.ClassifyRequest, pb.EncodeRequest)

_MESSAGE_BYTES = 1 << 18
"""A message is closed once it holds so many: clients bound what they take in."""


class _Outcome(NamedTuple):
    """Of one text, until it is written."""

    spec: ModelSpec | None  # none: nobody was asked
    request: Any
    number: int
    result: messages.Event | ServingError


class _Many(PipelinedStream[_Outcome], Generic[Q]):
    """One stream; its texts are numbered from 0."""

    method: ClassVar[str]
    reply: ClassVar[Any]
    outcome: ClassVar[Any]
    _count = 0

    wanted: ClassVar[Any]  # a `texts.Wanted`

    @abstractmethod
    def _answer(self, spec: ModelSpec, request: Q, event: Any) -> dict[str, Any]:
        """What the outcome of one text holds."""

    def _begin(self, request: Q) -> None:
        numbers = range(self._count, self._count + self._texts(request))
        self._count = numbers.stop
        try:
            served = self._registry.resolve(request.model, request.version, self.method, len(numbers))
            asked = texts.TextRequests(served, self.method, request, self._context, self.wanted, len(numbers))
        except ServingError as error:
            for number in numbers:
                self._say(_Outcome(None, request, number, error))
            return
        for index, number in enumerate(numbers):
            self._begin_one(asked, index, number, request)

    def _texts(self, request: Q) -> int:
        try:
            return texts.count(request)
        except ServingError as error:
            self._registry.refuse(request.model, request.version, self.method, error)
            raise

    def _begin_one(self, asked: texts.TextRequests, index: int, number: int, request: Q) -> None:
        spec = asked.served.spec
        try:
            self._start(asked.ask(index), lambda event: self._say(_Outcome(spec, request, number, event)))
        except ServingError as error:
            self._say(_Outcome(spec, request, number, error))

    def _next_message(self) -> Any:
        spec = self._ready[0].spec
        outcomes: list[Any] = []
        size = 0
        while self._ready and self._ready[0].spec is spec and size < _MESSAGE_BYTES:
            outcomes.append(self._made(self._ready.popleft()))
            size += outcomes[-1].ByteSize()
        return self.reply(outcomes=outcomes, **(texts.who(spec) if spec else {}))

    def _made(self, one: _Outcome) -> Any:
        error = one.result.error if isinstance(one.result, messages.Event) else one.result
        if error is not None:
            return self.outcome(number=one.number, failure=_failure(error))
        assert one.spec is not None
        return self.outcome(number=one.number, **self._answer(one.spec, one.request, one.result))


class ClassifyMany(_Many[pb.ClassifyRequest]):
    """One ClassifyMany stream."""

    method, reply, outcome = "ClassifyMany", pb.ClassifyManyReply, pb.ClassifyOutcome
    wanted = staticmethod(texts.scores)

    def _answer(self, spec: ModelSpec, request: pb.ClassifyRequest, event: Any) -> dict[str, Any]:
        return {"classification": texts.classification(spec, request, event)}


class EncodeMany(_Many[pb.EncodeRequest]):
    """One EncodeMany stream."""

    method, reply, outcome = "EncodeMany", pb.EncodeManyReply, pb.EncodeOutcome
    wanted = staticmethod(texts.vector)

    def _answer(self, spec: ModelSpec, request: pb.EncodeRequest, event: Any) -> dict[str, Any]:
        return {"encoding": texts.encoding(spec, request, event)}


def _failure(error: ServingError) -> pb.Failure:
    return pb.Failure(
        code=status.CODES[error.code].value[0],
        message=error.message,
        field=error.field,
        resource=error.resource,
        retry_after_seconds=error.retry_after_s,
    )
