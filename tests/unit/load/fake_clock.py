"""A clock that never waits: time advances to the earliest sleeper as soon as nothing else runs."""

from __future__ import annotations

import asyncio
import threading
from heapq import heappop, heappush

_IDLE_ROUNDS = 5
"""Rounds of the event loop in which every task that can run has run."""


class FakeClock:
    """See lockstep_load.clock.Clock. `sleep` may be called by another thread than `pause`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.advance_to(self._now + seconds)

    def advance_to(self, now: float) -> None:
        with self._lock:
            self._now = max(self._now, now)

    async def pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        self._count += 1
        heappush(self._sleepers, (self._now + seconds, self._count, woken))
        loop.call_soon(self._wake_earliest, loop, _IDLE_ROUNDS)
        await woken

    def _wake_earliest(self, loop: asyncio.AbstractEventLoop, rounds: int) -> None:
        if rounds:
            loop.call_soon(self._wake_earliest, loop, rounds - 1)
            return
        at, _, woken = heappop(self._sleepers)
        self.advance_to(at)
        if not woken.done():
            woken.set_result(None)
