"""The clock of a run. Pacer and driver take it as an argument, so that tests run without waiting."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> float:
        """Seconds since an arbitrary moment."""

    def sleep(self, seconds: float) -> None:
        """Block the calling thread."""

    async def pause(self, seconds: float) -> None:
        """Let other tasks run for this time."""


class SystemClock:
    """The clock of the machine: time.perf_counter()."""

    now = staticmethod(time.perf_counter)
    sleep = staticmethod(time.sleep)
    pause = staticmethod(asyncio.sleep)
