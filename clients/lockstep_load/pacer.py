"""Wakes the event loop when requests are due, to within a tenth of a millisecond.

An event loop's own timers are rounded to milliseconds, which would show as latency. Instead, a thread sleeps
until the next due time and delivers all due times reached by then. It delivers a batch only after the loop
has taken the previous one: a loop that is behind gets few large batches, and the delay shows as lag.
"""

from __future__ import annotations

import asyncio
import threading
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lockstep_load.clock import Clock

GRACE_S = 0.25
"""Time after the end of the schedule in which requests due just before it are still sent."""

_SLICE_S = 0.05


class Pacer:
    """Runs through one schedule once. All times are seconds after `begin`, a time of the clock."""

    def __init__(self, dues: Iterator[float], begin: float, end_s: float, clock: Clock) -> None:
        self._dues = dues
        self._begin = begin
        self._end_s = end_s
        self._clock = clock
        self._stopped = False
        self.unsent = 0
        """Due times of the measured part that were never delivered because the loop was too far behind."""

    async def run(self, on_due: Callable[[list[float]], None]) -> None:
        """Deliver due times to `on_due` until the schedule ends or `stop` is called."""
        loop = asyncio.get_running_loop()
        ready = threading.Semaphore(1)

        def deliver(due: list[float]) -> None:
            on_due(due)
            ready.release()

        await loop.run_in_executor(None, self._run_schedule, loop, deliver, ready)

    def stop(self) -> None:
        """End the schedule now."""
        self._stopped = True

    def _run_schedule(
        self,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[list[float]], None],
        ready: threading.Semaphore,
    ) -> None:
        due = next(self._dues, None)
        while due is not None and self._sleep_until(due):
            ready.acquire()
            now, batch = self._now(), [due]
            while (due := next(self._dues, None)) is not None and due <= now:
                batch.append(due)
            if self._stopped:
                return
            if now > self._end_s + GRACE_S:
                self._count_unsent([*batch, *([due] if due is not None else [])])
                return
            loop.call_soon_threadsafe(deliver, batch)

    def _sleep_until(self, due: float) -> bool:
        """Sleep until `due`. Returns False if the schedule was stopped before."""
        while (wait_s := due - self._now()) > 0 and not self._stopped:
            self._clock.sleep(min(wait_s, _SLICE_S))
        return not self._stopped or due <= self._now()

    def _count_unsent(self, held: list[float]) -> None:
        self.unsent += sum(due >= 0 for due in chain(held, self._dues))

    def _now(self) -> float:
        return self._clock.now() - self._begin
