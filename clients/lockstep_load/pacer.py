"""Wakes the event loop when requests are due, to a tenth of a millisecond.

An event loop's own timers are rounded to milliseconds, which would show as latency. So a thread sleeps until
the next one is due, and hands over all that are due by then. It hands over nothing new before the loop took
the last: a loop that is behind gets few large handfuls, and its lateness is seen in their `due`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GRACE_S = 0.25
"""After the end of the schedule, for what was due just before it."""

_SLICE_S = 0.05


class Pacer:
    """One schedule, walked through once. All times are seconds after `begin`, a time.perf_counter()."""

    def __init__(self, dues: Iterator[float], begin: float, end_s: float) -> None:
        self._dues = dues
        self._begin = begin
        self._end_s = end_s
        self._stopped = False
        self.unsent = 0
        """Of the measured part: due, and never handed over, because the loop was too far behind."""

    async def run(self, on_due: Callable[[list[float]], None]) -> None:
        """Hand over what is due until the schedule ends, or `stop`."""
        loop = asyncio.get_running_loop()
        ready = threading.Semaphore(1)

        def deliver(due: list[float]) -> None:
            on_due(due)
            ready.release()

        await loop.run_in_executor(None, self._run_schedule, loop, deliver, ready)

    def stop(self) -> None:
        """End the schedule here."""
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
        """Sleep until it is due; False where the schedule was stopped before."""
        while (wait_s := due - self._now()) > 0 and not self._stopped:
            time.sleep(min(wait_s, _SLICE_S))
        return not self._stopped or due <= self._now()

    def _count_unsent(self, held: list[float]) -> None:
        self.unsent += sum(due >= 0 for due in chain(held, self._dues))

    def _now(self) -> float:
        return time.perf_counter() - self._begin
