"""Time limits for tests, scaled to the speed of this machine at the start of the run.

Limits only guard against hanging: no result depends on the speed of the machine. `SLOWNESS` is measured once
per run and passed to the xdist workers in the environment. `limit_s` scales a limit, `wait_until` waits for a
condition.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_VARIABLE = "LOCKSTEP_TEST_SLOWNESS"
_QUIET_S = 0.06
"""The time of `_work` on one idle core of a 2020s server CPU, rounded up."""


def _work() -> None:
    total = 0
    for number in range(2_000_000):
        total += number


def _measure() -> float:
    """How much slower than an idle machine this one is, at least 1: by a short benchmark and by the load."""
    begun = time.perf_counter()
    _work()
    took_s = time.perf_counter() - begun
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    return max(1.0, took_s / _QUIET_S, load)


SLOWNESS = float(os.environ.setdefault(_VARIABLE, f"{_measure():.2f}"))


def limit_s(seconds: float) -> float:
    """A limit of `seconds` on an idle machine, in seconds on this one."""
    return seconds * SLOWNESS


PATIENCE_S = limit_s(60)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds. Fails after `PATIENCE_S`."""
    end, pause_s = time.monotonic() + PATIENCE_S, 0.001
    while not holds():
        assert time.monotonic() < end, f"timed out waiting for: {what}"
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.05)  # checks must not take the time that the rest needs
