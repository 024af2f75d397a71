"""The account of a stream of many: what was taken, what is on its way, what may be read. `now` is given.

questions → taken, prepared → messages → results by number → outcomes, in order or as they come. What is
refused for now goes again, once the server's time to come back has passed; it is given up when nothing has
been answered for a while. When the server refuses because of overload, half as many are kept on their way,
and with each answer a little more, so that a stream settles at what the server can take.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lockstep_client.errors import LockstepError, Overloaded, ServerFailure, Unavailable
from lockstep_client.results import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from lockstep_client.protocol import ManyCall

G = TypeVar("G")
R = TypeVar("R")

PATIENCE_S = 30.0
"""Something was asked and nothing answered for so long: what is refused is given up."""
FIRST_TRIES = 4
"""For a stream, as long as nothing has ever been answered."""
_MESSAGE_BYTES = 1 << 18
"""A message that holds several is closed once it has so many."""
_LEAST_PAUSE_S = 0.05
_SHRINK_S = 0.1
"""Refusals within this time of one another are one sign of overload, not many."""


@dataclass
class _Question(Generic[G]):
    number: int
    given: G
    prepared: Any
    size: int


class ItemTracker(Generic[G, R]):
    """The account of one stream.

    `check` raises InvalidRequest for a size in bytes that may not be sent. `retries`: whether what is refused
    for now goes again.
    """

    def __init__(self, call: ManyCall[G, R], check: Callable[[int], None], *, retries: bool) -> None:
        self._call, self._check, self._retries = call, check, retries
        self._taken = self._read = 0
        self._to_send: deque[_Question[G]] = deque()
        self._sent: dict[int, _Question[G]] = {}  # by the number that the server knows them by
        self._count = 0
        self._outcomes: dict[int, Outcome[G, R]] = {}
        self._window = float(call.in_flight)
        self._shrunk = self._hold = 0.0
        self._lost = 0
        self._answered = False  # ever
        self._since: float | None = None  # when something was last answered, or first asked since all was
        self.ended = False
        """Nothing more will be taken."""

    @property
    def has_room(self) -> bool:
        """Whether another question may be taken."""
        return self._taken - self._read < self._call.in_flight

    @property
    def finished(self) -> bool:
        """Whether everything has its outcome."""
        return self.ended and self._taken - self._read == len(self._outcomes)

    def take(self, given: G) -> None:
        """Another question. One that cannot be sent has its outcome at once."""
        number = self._taken
        try:
            prepared, size = self._call.prepare(given)
            self._check(size)
            self._to_send.append(_Question(number, given, prepared, size))
        except LockstepError as error:
            self._outcomes[number] = Outcome(number, given, error)
        self._taken += 1

    def message(self, now: float) -> Message | None:
        """The next one to send; None while there is nothing to, or enough is on its way."""
        if now < self._hold:
            return None
        some: list[_Question[G]] = []
        while self._to_send and self._fits(some, self._to_send[0]):
            some.append(self._to_send.popleft())
            self._sent[self._count] = some[-1]
            self._count += 1
        if some and self._since is None:
            self._since = now
        return self._call.write(self._count - len(some), [q.prepared for q in some]) if some else None

    def due_s(self, now: float) -> float | None:
        """Seconds until more may go; None where that is not a matter of time."""
        return self._hold - now if self._to_send and now < self._hold else None

    def settle(self, reply: Any, now: float) -> None:
        """Take in a message. ServerFailure where it answers what was not asked."""
        again = []
        for number, result in self._call.read(reply):
            question = self._sent.pop(number, None)
            if question is None:
                raise ServerFailure(f"an answer came for number {number}, which was not asked")
            if isinstance(result, LockstepError) and self._goes_again(result, now):
                self._refused(result, now)
                again.append(question)
            else:
                self._ended(question, result, now)
        self._to_send.extendleft(reversed(again))

    def lost(self, error: LockstepError, now: float) -> float | None:
        """The stream broke: what is on its way goes again on another. Seconds to wait before; None where the
        error ends everything."""
        self._lost += 1
        never = not self._answered and self._lost >= FIRST_TRIES
        if never or not self._goes_again(error, now):
            return None
        self._to_send.extendleft(reversed(self._sent.values()))
        self._sent, self._count = {}, 0
        return min(0.1 * 2.0 ** min(self._lost - 1, 5), 2.0)

    def read(self) -> Outcome[G, R] | None:
        """The next outcome that may be read; None while there is none."""
        if not self._outcomes:
            return None
        outcome = self._outcomes.pop(self._read if self._call.ordered else next(iter(self._outcomes)), None)
        self._read += outcome is not None
        return outcome

    def _goes_again(self, error: LockstepError, now: float) -> bool:
        patient = self._since is None or now - self._since < PATIENCE_S
        return self._retries and patient and isinstance(error, Overloaded | Unavailable)

    def _refused(self, error: LockstepError, now: float) -> None:
        self._hold = max(self._hold, now + max(error.retry_after_s or 0.0, _LEAST_PAUSE_S))
        if isinstance(error, Overloaded) and now - self._shrunk > _SHRINK_S:
            self._window, self._shrunk = max(1.0, self._window / 2), now

    def _ended(self, question: _Question[G], result: R | LockstepError, now: float) -> None:
        self._answered, self._lost = True, 0
        self._since = now if self._sent or self._to_send else None
        number, given = question.number, question.given
        if isinstance(result, LockstepError):
            self._outcomes[number] = Outcome(number, given, result)
        else:
            self._window = min(self._call.in_flight, self._window + 1 / self._window)
            self._outcomes[number] = Outcome(number, given, None, result)

    def _fits(self, some: list[_Question[G]], another: _Question[G]) -> bool:
        """Whether another may go now, and in one message with these."""
        if len(self._sent) >= self._window:
            return False
        if not some:
            return True
        group, size = self._call.group, sum(one.size for one in some) + another.size
        return (
            len(some) < self._call.most_in_message
            and size < _MESSAGE_BYTES
            and group(some[0].prepared) == group(another.prepared)
        )
