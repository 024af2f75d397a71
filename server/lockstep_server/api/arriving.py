"""Calls whose only message is still arriving.

gRPC tells the size of a message when all of it is there, so that admission control cannot bound what arrives.
What does not arrive within moments is large, or its caller slow. If the process grows too much meanwhile,
only as many of those calls go on as there may be messages of the largest size: the oldest of each caller, in
turn. The others are refused, which frees what has arrived of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from .. import memory
from ..errors import overloaded
from ..frontend.callers import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from .auth import OpenCall

log = logging.getLogger(__name__)

_EVERY_S = 0.05
_SLOW_S = 0.02


class _Begun(NamedTuple):
    time: float
    caller: str


class ArrivingCalls:
    """Event loop only.

    Args:
        limit_bytes: how much the process may grow while messages arrive.
        largest_bytes: size of the largest message.
    """

    def __init__(
        self,
        limit_bytes: int = 1 << 62,
        largest_bytes: int = 1,
        resident_bytes: Callable[[], int] = memory.resident_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_bytes, self._most = limit_bytes, max(limit_bytes // largest_bytes, 1)
        self._resident_bytes, self._clock = resident_bytes, clock
        self._begun: dict[OpenCall, _Begun] = {}  # the oldest first
        self._before_bytes = 0  # resident, when nothing was arriving slowly
        self._next_check = 0.0
        self._is_trimmed = True

    def begin(self, call: OpenCall) -> None:
        self._begun[call] = _Begun(self._clock(), current.get().name)

    def end(self, call: OpenCall) -> None:
        """The message is there, or the call has ended."""
        self._begun.pop(call, None)
        if (
            self._begun and self._clock() >= self._next_check
        ):  # large messages keep the event loop from `watch`
            self.check()

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                self.check()
                if not self._begun and not self._is_trimmed:
                    self._is_trimmed = True
                    await asyncio.to_thread(memory.trim)
            except Exception:  # the next check must come
                log.exception("checking the calls that arrive failed")

    def check(self) -> None:
        """Refuse some of the calls that arrive slowly, if these take too much."""
        now = self._clock()
        self._next_check = now + _EVERY_S
        slow = list(takewhile(lambda call: now - self._begun[call].time > _SLOW_S, self._begun))
        if not slow:
            self._before_bytes = self._resident_bytes()
        elif len(slow) > self._most and self._resident_bytes() - self._before_bytes > self._limit_bytes:
            self._refuse(self._in_turn(slow)[self._most :])

    def _in_turn(self, calls: list[OpenCall]) -> list[OpenCall]:
        """The first call of each caller, then the second of each, and so on."""
        count = Counter[str]()
        turns = {}
        for call in calls:
            caller = self._begun[call].caller
            count[caller] += 1
            turns[call] = count[caller]
        return sorted(calls, key=turns.__getitem__)

    def _refuse(self, calls: list[OpenCall]) -> None:
        error = overloaded(
            f"messages that are arriving take more than {self._limit_bytes >> 20} MB (twice max_inflight_mb);"
            " retry after 1 s",
            1.0,
        )
        for call in calls:
            del self._begun[call]
            call.end(error)
        self._is_trimmed = False
