"""A soak's figures: a leak shows as a slope, a slower server as a drift."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.soak import summarise
from lockstep_load.outcome import RequestOutcome
from lockstep_load.worker_messages import RECORD

SECONDS = 240.0


def records(*, late_s: float, failed: int = 0) -> Any:
    """A request per second from 10 s before the measured part; the last half takes `late_s`."""
    found = np.zeros(int(SECONDS) + 10, RECORD)
    found["due"] = np.arange(len(found)) - 10.0
    found["took"] = np.where(found["due"] < SECONDS / 2, 0.010, late_s)
    found["outcome"][:10] = RequestOutcome.FAILED  # in the warm-up
    found["outcome"][10 : 10 + failed] = RequestOutcome.OVERLOADED
    return found


def levels(growth_per_s: float) -> list[dict[str, float]]:
    """Memory that grows at first in any case, and then so much."""
    return [
        {"at_s": at, "server MB": min(at, 100.0) + growth_per_s * at, "engine MB": 50.0}
        for at in np.arange(0.0, SECONDS, 2.0).tolist()
    ]


def test_a_steady_server_has_no_slope_and_no_drift() -> None:
    found = summarise(records(late_s=0.010), levels(0.0), SECONDS)
    assert found["drift"] == pytest.approx(1.0)
    assert found["slope_mb_per_hour"] == {
        "server": pytest.approx(0.0, abs=0.1),
        "engine": pytest.approx(0.0, abs=0.1),
    }
    assert found["outcomes"] == {"ok": 240}
    assert {one["requests"] for one in found["windows"]} == {10}


def test_a_leak_and_a_drift_are_seen() -> None:
    found = summarise(records(late_s=0.020, failed=4), levels(0.5), SECONDS)
    assert found["drift"] == pytest.approx(2.0)
    assert found["slope_mb_per_hour"]["server"] == pytest.approx(1800.0, rel=0.01)
    assert found["outcomes"] == {"ok": 236, "overloaded": 4}
