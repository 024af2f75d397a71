"""Requests for sequences that this server does not hold: one of its peers may, and moves the sequence here.

a step that the engine cannot run → asks all peers at the same time → the step is sent again, or fails. Steps
of the same sequence that come meanwhile wait, in order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import messages
from ..errors import ErrorCode, ServingError, overloaded, unavailable
from .peers import PeerError, PullAnswer, PullResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from .moving import Mover
    from .peers import Peer

    Key = tuple[str, messages.SequenceId]

log = logging.getLogger(__name__)

_WITHIN_S = 5.0
"""How long a step waits for its sequence."""

_PAUSE_S = 0.02
"""Before peers are asked again, if the sequence was on its way."""

_SEARCHES_PER_S, _SEARCHES = 50.0, 500.0
"""How often one caller may make peers search in vain, on average and at once."""

_MOST_CALLERS = 1024
_STOPPING = "the server is stopping and does not hold the sequence; send to another server"


@dataclass
class _Waiting:
    """Requests for a sequence that is searched, in the order in which they came."""

    missed: list[messages.Request] = field(default_factory=list)  # these came before any that is deferred
    deferred: list[messages.Request] = field(default_factory=list)


class Pulls:
    """Event loop only.

    `send` sends a request to the engine again, and `fail` ends it; both ignore requests that have ended.
    """

    def __init__(self, mover: Mover, clock: Callable[[], float] = time.monotonic) -> None:
        self._mover, self._clock = mover, clock
        self.send: Callable[[messages.Request], None]
        self.fail: Callable[[messages.Request, ServingError], None]
        self._waiting: dict[Key, _Waiting] = {}
        self._failing: set[int] = set()
        self._budgets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # searches left, as of when
        self._tasks: set[asyncio.Task[None]] = set()

    def defers(self, request: messages.Request) -> bool:
        """Whether a request waits because its sequence is on its way. It is sent later."""
        if not self._waiting or (key := _sequence_of(request)) not in self._waiting:
            return False
        self._waiting[key].deferred.append(request)
        return True

    def missed(self, request: messages.Request, error: ServingError | None, caller: str) -> bool:
        """Whether a request that has failed is not over: its sequence may be on another server."""
        if error is None or (error.code is not ErrorCode.SEQUENCE_LOST and not error.moved_to):
            return False
        key = _sequence_of(request)
        if key is None or request.key in self._failing or (self._mover.draining and error.moved_to):
            return False
        if (waiting := self._waiting.get(key)) is not None:
            waiting.missed.append(request)  # the engine had it already when the first one failed
        else:
            self._waiting[key] = _Waiting([request])
            task = asyncio.ensure_future(self._pull(key, error, caller))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _pull(self, key: Key, error: ServingError, caller: str) -> None:
        reason: ServingError | None = error
        try:
            reason = await self._search(key, error, caller)
        except Exception:
            log.exception("searching a sequence of %s at peers failed", key[0])
        waiting = self._waiting.pop(key)
        for request in (*waiting.missed, *waiting.deferred):
            if reason is None:
                self.send(request)
            else:
                self._failing.add(request.key)
                self.fail(request, reason)
                self._failing.discard(request.key)

    async def _search(self, key: Key, error: ServingError, caller: str) -> ServingError | None:
        """Make a peer move a sequence here. Returns why it is not here."""
        if self._mover.draining:
            return unavailable(_STOPPING)
        left = self._searches(caller)
        if left < 1:
            wait_s = (1 - left) / _SEARCHES_PER_S
            return overloaded(f"too many unknown sequences; retry after {wait_s:.2f} s", wait_s)
        end, asked_again, why = self._clock() + _WITHIN_S, False, "it is being moved"
        while self._clock() < end:
            peers = await self._mover.peers.current()
            answers = await asyncio.gather(*(self._ask(peer, key) for peer in peers))
            results = [one.result for one in answers if one is not None]
            if PullResult.MOVED in results:
                return None
            if PullResult.STAYS in results:
                why = next(one.why for one in answers if one is not None and one.result is PullResult.STAYS)
                return unavailable(f"another server holds the sequence and does not move it: {why}")
            if PullResult.BUSY not in results:
                if None in answers or self._mover.peers.unreachable():
                    why = "a peer that may hold it does not answer"
                elif asked_again or PullResult.LEFT not in results:
                    if await self._mover.has(*key):
                        return None
                    self._budgets[caller] = self._searches(caller) - 1, self._clock()
                    return _lost(error)
                asked_again = True
            await asyncio.sleep(_PAUSE_S)
        return unavailable(f"the sequence is not here: {why}; retry after 1 s")

    async def _ask(self, peer: Peer, key: Key) -> PullAnswer | None:
        """What a peer says of a sequence; None if it may have it and does not answer."""
        model, sequence = key
        try:
            for _ in range(2):
                answer = await peer.link.pull(peer.incarnation, self._mover.peers.own, model, sequence)
                if answer.incarnation == peer.incarnation:
                    return answer
                peer.incarnation = answer.incarnation
        except PeerError as error:
            self._mover.peers.failed(peer, error)
            return PullAnswer("", PullResult.ABSENT) if error.absent else None
        return None

    def _searches(self, caller: str) -> float:
        """How many searches in vain a caller has left."""
        now = self._clock()
        left, since = self._budgets.pop(caller, (_SEARCHES, now))
        left = min(left + (now - since) * _SEARCHES_PER_S, _SEARCHES)
        self._budgets[caller] = left, now
        if len(self._budgets) > _MOST_CALLERS:
            self._budgets.popitem(last=False)
        return left


def _sequence_of(request: messages.Request) -> Key | None:
    """The sequence that a request goes on with, if servers can know it by its id."""
    sequence: messages.SequenceId | None = None
    if isinstance(request, messages.Step) and not request.start:
        sequence = request.sequence
    elif isinstance(request, messages.Generate):
        sequence = request.resumes
    if sequence is None or (isinstance(sequence, tuple) and not sequence[0]):  # the server's own
        return None
    return request.model, sequence


def _lost(error: ServingError) -> ServingError:
    """The error of a step whose sequence no server has."""
    if not error.moved_to:
        return error
    why = f"the sequence was moved to {error.moved_to}, which does not hold it any more; start it again"
    return ServingError(ErrorCode.SEQUENCE_LOST, why)
