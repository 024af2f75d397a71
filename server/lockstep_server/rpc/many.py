"""ClassifyMany and EncodeMany: any number of texts over one stream, each answered, or refused, by itself.

message -> its texts, numbered -> one request for each -> events as they come -> outcomes. A message out holds
every outcome that is ready, so that one run of a batch is one message.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from lockstep.v1 import sequences_pb2 as pb

from .. import port
from ..errors import ServingError
from . import status, texts
from .inflight import InFlight

if TYPE_CHECKING:
    from ..models.card import Card

Q = TypeVar("Q", pb.ClassifyRequest, pb.EncodeRequest)

_MESSAGE_BYTES = 1 << 18
"""A message is closed once it holds so many: clients bound what they take in."""


class _Outcome(NamedTuple):
    """Of one text, until it is written."""

    card: Card | None  # none: nobody was asked
    request: Any
    number: int
    result: port.Event | ServingError


class _Many(InFlight[_Outcome], Generic[Q]):
    """One stream; its texts are numbered from 0."""

    method: ClassVar[str]
    reply: ClassVar[Any]
    outcome: ClassVar[Any]
    _count = 0

    wanted: ClassVar[Any]  # a `texts.Wanted`

    @abstractmethod
    def _answer(self, card: Card, request: Q, event: Any) -> dict[str, Any]:
        """What the outcome of one text holds."""

    def _begin(self, request: Q) -> None:
        numbers = range(self._count, self._count + self._texts(request))
        self._count = numbers.stop
        try:
            served = self._directory.resolve(request.model, request.version, self.method, len(numbers))
            asked = texts.Texts(served, self.method, request, self._context, self.wanted, len(numbers))
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
            self._directory.refuse(request.model, request.version, self.method, error)
            raise

    def _begin_one(self, asked: texts.Texts, index: int, number: int, request: Q) -> None:
        card = asked.served.card
        try:
            self._start(asked.ask(index), lambda event: self._say(_Outcome(card, request, number, event)))
        except ServingError as error:
            self._say(_Outcome(card, request, number, error))

    def _next_message(self) -> Any:
        card = self._ready[0].card
        outcomes: list[Any] = []
        size = 0
        while self._ready and self._ready[0].card is card and size < _MESSAGE_BYTES:
            outcomes.append(self._made(self._ready.popleft()))
            size += outcomes[-1].ByteSize()
        return self.reply(outcomes=outcomes, **(texts.who(card) if card else {}))

    def _made(self, one: _Outcome) -> Any:
        error = one.result.error if isinstance(one.result, port.Event) else one.result
        if error is not None:
            return self.outcome(number=one.number, failure=_failure(error))
        assert one.card is not None
        return self.outcome(number=one.number, **self._answer(one.card, one.request, one.result))


class ClassifyMany(_Many[pb.ClassifyRequest]):
    """One ClassifyMany stream."""

    method, reply, outcome = "ClassifyMany", pb.ClassifyManyReply, pb.ClassifyOutcome
    wanted = staticmethod(texts.scores)

    def _answer(self, card: Card, request: pb.ClassifyRequest, event: Any) -> dict[str, Any]:
        return {"classification": texts.classification(card, request, event)}


class EncodeMany(_Many[pb.EncodeRequest]):
    """One EncodeMany stream."""

    method, reply, outcome = "EncodeMany", pb.EncodeManyReply, pb.EncodeOutcome
    wanted = staticmethod(texts.vector)

    def _answer(self, card: Card, request: pb.EncodeRequest, event: Any) -> dict[str, Any]:
        return {"encoding": texts.encoding(card, request, event)}


def _failure(error: ServingError) -> pb.Failure:
    return pb.Failure(
        code=status.CODES[error.meaning].value[0],
        message=error.message,
        field=error.field,
        resource=error.resource,
        retry_after_seconds=error.retry_after_s,
    )
