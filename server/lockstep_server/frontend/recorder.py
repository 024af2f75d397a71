"""The front end's part of the flight recorder: the requests that ended lately, and the engine's runs.

A request ends → `EndedRequests.add` → its model's latest requests, and the slowest of each second
`Recorder.runs` → `GetRuns` → the engine → `RunRecords`

It holds sizes, times and the requests' keys. Of the ids that callers send it holds hashes, whose seed is
drawn when the process starts: `find` recognises an id that it is given, and nobody can read one.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

import msgspec

from .. import messages
from ..errors import unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..errors import ServingError

KEPT_S = 300
"""How long the slowest requests of each second are kept."""

_SLOWEST = 4
"""How many they are, of each model and second."""

_PIECE = 128
"""Runs of one message between engine and front end."""

_SECONDS = attrgetter("seconds")


class EndedRequest(msgspec.Struct, gc=False):
    """A request that has ended. It refers to no container: the garbage collector need not know of it."""

    key: int
    model: str  # or the name of its form
    base: str  # the model
    version: int
    method: str
    outcome: str
    arrived: float
    seconds: float
    admission_s: float  # until it was sent to the engine
    length: int
    sent_id: int  # hashes of the ids that its caller sent
    trace_id: int
    queue_s: float = 0.0  # and what follows: its `RequestTimings`
    compute_s: float = 0.0
    steps: int = 0
    rows: float = 0.0
    prefill_s: float = 0.0
    first_token_s: float = 0.0

    @property
    def timings(self) -> messages.RequestTimings:
        return messages.RequestTimings(
            self.queue_s, self.compute_s, self.steps, self.rows, self.prefill_s, self.first_token_s
        )


def request_id(key: int) -> str:
    """The id by which callers know a request."""
    return f"{key:016x}"


class EndedRequests:
    """The latest requests of each model, and the slowest of each second. Event loop only.

    Args:
        size: the most of the latest ones of each model; 0 keeps nothing.
    """

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size, self._clock = size, clock
        self._latest: dict[str, deque[EndedRequest]] = {}
        self._slowest: dict[str, deque[tuple[int, list[EndedRequest]]]] = {}

    def add(self, request: EndedRequest) -> None:
        if not self._size:
            return
        latest = self._latest.get(request.model)
        if latest is None:
            latest = self._latest[request.model] = deque(maxlen=self._size)
            self._slowest[request.model] = deque(maxlen=KEPT_S)
        latest.append(request)
        seconds, now = self._slowest[request.model], int(request.arrived + request.seconds)
        if not seconds or seconds[-1][0] != now:
            seconds.append((now, [request]))
            return
        slowest = seconds[-1][1]
        if len(slowest) < _SLOWEST:
            slowest.append(request)
        elif request.seconds > min(map(_SECONDS, slowest)):
            slowest.remove(min(slowest, key=_SECONDS))
            slowest.append(request)

    def find(
        self,
        model: str = "",
        sent_id: str = "",
        since_s: float = 0.0,
        allowed: Callable[[str], bool] = lambda _: True,
    ) -> list[EndedRequest]:
        """Requests that are remembered, slowest first.

        Args:
            model: only requests of this model, or of this form of one; "" is every model.
            sent_id: only requests with this request id, or whose caller sent this id.
            since_s: only requests that ended within so many seconds; 0 is all.
            allowed: whether the caller may know of a model.
        """
        earliest = self._clock() - since_s if since_s else 0.0
        found = {
            one.key: one
            for one in self._all()
            if model in ("", one.model, one.base)
            and one.arrived + one.seconds >= earliest
            and (
                not sent_id or hash(sent_id) in (one.sent_id, one.trace_id) or request_id(one.key) == sent_id
            )
            and allowed(one.model)
        }
        return sorted(found.values(), key=_SECONDS, reverse=True)

    def _all(self) -> Iterator[EndedRequest]:
        for latest in self._latest.values():
            yield from latest
        for seconds in self._slowest.values():
            for _, slowest in seconds:
                yield from slowest


class Send(Protocol):
    """The type of `Transport.send`."""

    def __call__(self, message: messages.Message) -> None: ...


class Recorder:
    """What the server remembers of its requests and runs. Event loop only."""

    def __init__(self, send: Send, size: int, first_key: int = 1) -> None:
        self.requests = EndedRequests(size)
        self.epoch = time.time() - time.monotonic()
        """Added to a time of `time.monotonic()`, it makes seconds since 1970."""
        self._send = send
        self._keys = itertools.count(first_key)
        self._asked: dict[int, asyncio.Future[messages.RunRecords]] = {}

    async def runs(self, after: int, model: str = "") -> messages.RunRecords:
        """The next runs with a number above `after` that the engine remembers, of one model or of all.

        Raises:
            ServingError: UNAVAILABLE, the engine process restarts.
        """
        key = next(self._keys)
        answer: asyncio.Future[messages.RunRecords] = asyncio.get_running_loop().create_future()
        self._asked[key] = answer
        try:
            self._send(messages.GetRuns(key, after, model, _PIECE))
            records = await answer
        finally:
            del self._asked[key]
        if records.reason:
            raise unavailable(records.reason)
        return records

    def answered(self, update: messages.RunRecords) -> None:
        answer = self._asked.get(update.key)
        if answer is not None and not answer.done():
            answer.set_result(update)

    def engine_lost(self, error: ServingError) -> None:
        """The engine process ended, and its runs are forgotten."""
        for key in self._asked:
            self.answered(messages.RunRecords(key, [], reason=error.message))
