"""Sends a fixed number of requests from the caller's own event loop, and returns their times.

Requests and a function that sends one → `Driver` → `Recording`. For benchmarks and for the demo, which need
neither worker processes nor reports: this module and those that it imports work with the base install.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_load.clock import SystemClock
from lockstep_load.driver import Driver, Request
from lockstep_load.outcome import RequestOutcome
from lockstep_load.plan import LoadProfile, LoadShare, Offline
from lockstep_load.worker_messages import RECORD, RecordLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import numpy.typing as npt

    from lockstep_load.senders import ReplyTimes


@dataclass(frozen=True)
class Recording:
    """The requests in the order in which they ended."""

    records: npt.NDArray[Any]
    """An array of worker_messages.RECORD; its times are seconds after the start."""
    wall_s: float
    examples: dict[RequestOutcome, str]
    """The error of the first request with each outcome."""

    @property
    def first_error(self) -> str:
        """The error of one of the requests that failed first; empty if none did."""
        return next(iter(self.examples.values()), "")

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Latencies of the answered requests."""
        took: npt.NDArray[np.float64] = self.records["took"][self._answered].astype(float)
        return took

    @property
    def failed(self) -> int:
        """Requests that were not answered."""
        return int(len(self.records) - self._answered.sum())

    @property
    def _answered(self) -> npt.NDArray[np.bool_]:
        answered: npt.NDArray[np.bool_] = self.records["outcome"] == RequestOutcome.OK
        return answered


def new_driver(
    requests: Sequence[Request],
    send: Callable[[Request, ReplyTimes], Awaitable[None]],
    concurrency: int,
    log: RecordLog,
) -> Driver[Request]:
    """A driver that sends each request once, without a time limit; its times start now."""
    load = LoadProfile(Offline(len(requests), concurrency), math.inf, warmup_s=0.0)
    clock = SystemClock()
    return Driver(LoadShare(load), send, requests, log, clock.now(), clock)


async def send_all(
    requests: Sequence[Request],
    send: Callable[[Request, ReplyTimes], Awaitable[None]],
    concurrency: int,
    log: RecordLog | None = None,
) -> Recording:
    """Send each request once, with `concurrency` in flight. A `log` of the caller sees tokens arrive."""
    log = log or RecordLog()
    driver = new_driver(requests, send, concurrency, log)
    await driver.run()
    return Recording(np.array(log.records, RECORD), driver.now_s, log.examples)
