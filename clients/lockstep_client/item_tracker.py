"""State of a pipelined stream: items to send, items in flight, and outcomes to deliver.

items → prepared → messages → results by number → outcomes, in order or as they arrive. No I/O and no clock:
callers pass `now`. Items that the server rejects temporarily are sent again after its retry delay, until the
stream has received no result for STALL_TIMEOUT_S. An overload rejection halves the window of items in flight
and each result enlarges it a little, so a stream converges to the load that the server accepts.
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

STALL_TIMEOUT_S = 30.0
"""Without any result for this long, rejected items are no longer retried."""
CONNECT_ATTEMPTS = 4
"""Attempts to open a stream before the first result has ever arrived."""
_MESSAGE_BYTES = 1 << 18
"""Size limit of a message with several items."""
_MIN_PAUSE_S = 0.05
_SHRINK_INTERVAL_S = 0.1
"""Overload rejections within this interval shrink the window only once."""


@dataclass
class _Item(Generic[G]):
    number: int
    value: G
    prepared: Any
    size: int


class ItemTracker(Generic[G, R]):
    """The items of one pipelined call.

    `check` raises InvalidRequest for an item of too many bytes. With `retries`, items that the server rejects
    temporarily are sent again.
    """

    def __init__(self, call: ManyCall[G, R], check: Callable[[int], None], *, retries: bool) -> None:
        self._call, self._check, self._retries = call, check, retries
        self._taken = self._delivered = 0
        self._to_send: deque[_Item[G]] = deque()
        self._sent: dict[int, _Item[G]] = {}  # by number on the current stream
        self._count = 0
        self._outcomes: dict[int, Outcome[G, R]] = {}
        self._window = float(call.in_flight)
        self._shrunk_at = self._hold_until = 0.0
        self._breaks = 0
        self._answered = False  # any result yet
        # Time of the last result, or of the first message since nothing was outstanding.
        self._since: float | None = None
        self.ended = False
        """The source is exhausted: no item will be added."""

    @property
    def has_room(self) -> bool:
        """Whether another item may be taken."""
        return self._taken - self._delivered < self._call.in_flight

    @property
    def finished(self) -> bool:
        """Whether the source has ended and every item has its outcome."""
        return self.ended and self._taken - self._delivered == len(self._outcomes)

    def take(self, value: G) -> None:
        """Add an item. An item that cannot be sent fails at once, as its outcome."""
        number = self._taken
        try:
            prepared, size = self._call.prepare(value)
            self._check(size)
            self._to_send.append(_Item(number, value, prepared, size))
        except LockstepError as error:
            self._outcomes[number] = Outcome(number, value, error)
        self._taken += 1

    def message(self, now: float) -> Message | None:
        """The next message; None if there is nothing to send, the window is full or a retry delay runs."""
        if now < self._hold_until:
            return None
        batch: list[_Item[G]] = []
        while self._to_send and self._fits(batch, self._to_send[0]):
            batch.append(self._to_send.popleft())
            self._sent[self._count] = batch[-1]
            self._count += 1
        if batch and self._since is None:
            self._since = now
        return (
            self._call.write(self._count - len(batch), [item.prepared for item in batch]) if batch else None
        )

    def wait_s(self, now: float) -> float | None:
        """Seconds until the retry delay ends; None if no delay blocks sending."""
        return self._hold_until - now if self._to_send and now < self._hold_until else None

    def settle(self, reply: Any, now: float) -> None:
        """Record the results of a message. Raises ServerFailure for a number that is not in flight."""
        retried = []
        for number, result in self._call.read(reply):
            item = self._sent.pop(number, None)
            if item is None:
                raise ServerFailure(f"received a result for number {number}, which is not in flight")
            if isinstance(result, LockstepError) and self._may_retry(result, now):
                self._back_off(result, now)
                retried.append(item)
            else:
                self._complete(item, result, now)
        self._to_send.extendleft(reversed(retried))

    def stream_broke(self, error: LockstepError, now: float) -> float | None:
        """Requeue the items in flight for a new stream. Returns the seconds to wait before opening it; None
        if the error is final."""
        self._breaks += 1
        unreachable = not self._answered and self._breaks >= CONNECT_ATTEMPTS
        if unreachable or not self._may_retry(error, now):
            return None
        self._to_send.extendleft(reversed(self._sent.values()))
        self._sent, self._count = {}, 0
        return min(0.1 * 2.0 ** min(self._breaks - 1, 5), 2.0)

    def next_outcome(self) -> Outcome[G, R] | None:
        """Remove and return the next outcome; None if none is ready."""
        if not self._outcomes:
            return None
        outcome = self._outcomes.pop(
            self._delivered if self._call.ordered else next(iter(self._outcomes)), None
        )
        self._delivered += outcome is not None
        return outcome

    def _may_retry(self, error: LockstepError, now: float) -> bool:
        not_stalled = self._since is None or now - self._since < STALL_TIMEOUT_S
        return self._retries and not_stalled and isinstance(error, Overloaded | Unavailable)

    def _back_off(self, error: LockstepError, now: float) -> None:
        self._hold_until = max(self._hold_until, now + max(error.retry_after_s or 0.0, _MIN_PAUSE_S))
        if isinstance(error, Overloaded) and now - self._shrunk_at > _SHRINK_INTERVAL_S:
            self._window, self._shrunk_at = max(1.0, self._window / 2), now

    def _complete(self, item: _Item[G], result: R | LockstepError, now: float) -> None:
        self._answered, self._breaks = True, 0
        self._since = now if self._sent or self._to_send else None
        number, value = item.number, item.value
        if isinstance(result, LockstepError):
            self._outcomes[number] = Outcome(number, value, result)
        else:
            self._window = min(self._call.in_flight, self._window + 1 / self._window)
            self._outcomes[number] = Outcome(number, value, None, result)

    def _fits(self, batch: list[_Item[G]], candidate: _Item[G]) -> bool:
        """Whether the window admits `candidate`, and the message `batch` can hold it."""
        if len(self._sent) >= self._window:
            return False
        if not batch:
            return True
        group, size = self._call.group, sum(item.size for item in batch) + candidate.size
        return (
            len(batch) < self._call.most_in_message
            and size < _MESSAGE_BYTES
            and group(batch[0].prepared) == group(candidate.prepared)
        )
