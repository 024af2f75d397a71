"""The highest rate at which a latency bound still holds: MLPerf's server scenario. Pure: probes in, next out.

Rates are doubled or halved until one holds and one fails, then halved between in logarithms, until they are
`within` of each other. What was found is run again, longer and with other seeds; where that fails, a little
less is tried. A probe holds where the share of all requests that were answered in time reaches the
percentile: one that was refused, or failed, was not answered in time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lockstep_load.histogram import LatencyHistogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_load.documents import Document

MAX_PROBES = 40


@dataclass(frozen=True)
class LatencyBound:
    """What has to hold."""

    latency_ms: float
    percentile: float = 99.0


@dataclass(frozen=True)
class SearchPlan:
    """Where to begin, how close to come, and how often to see it again."""

    bound: LatencyBound
    start: float
    within: float = 0.05
    confirmations: int = 2
    lowest: float = 0.1
    """A second: below it the search gives up."""


@dataclass(frozen=True)
class Probe:
    """A rate that was tried."""

    rate: float
    holds: bool
    confirming: bool = False


@dataclass(frozen=True)
class SearchStep:
    """A rate to try next."""

    rate: float
    confirming: bool


def holds(document: Document, bound: LatencyBound) -> bool:
    """Whether a run kept the bound, and its generator kept up."""
    if not document["valid"]:
        return False
    requests = document["requests"]
    total, ok = requests["sent"] + requests["unsent"], document["outcomes"]["ok"]
    of_answered = bound.percentile * total / ok
    if of_answered > 100.0:
        return False
    return LatencyHistogram.decoded(document["histogram"]).percentile_ms(of_answered) <= bound.latency_ms


def next_step(search: SearchPlan, probes: Sequence[Probe]) -> SearchStep | None:
    """What to try, or None at the end; `found` says what came of it."""
    if len(probes) >= MAX_PROBES or confirmed_rate(search, probes) is not None:
        return None
    rate = _next_exploration(search, [one for one in probes if not one.confirming])
    if rate is not None:
        return SearchStep(rate, confirming=False) if rate >= search.lowest else None
    lowered = _rate_to_confirm(search, probes)
    return SearchStep(lowered, confirming=True) if lowered >= search.lowest else None


def confirmed_rate(search: SearchPlan, probes: Sequence[Probe]) -> float | None:
    """The highest rate that held each time it was seen again; None where there is none (yet)."""
    if _next_exploration(search, [one for one in probes if not one.confirming]) is not None:
        return None
    rate = _rate_to_confirm(search, probes)
    held = sum(one.confirming and one.holds and math.isclose(one.rate, rate) for one in probes)
    return rate if held >= search.confirmations else None


def _bracket(probes: Sequence[Probe]) -> tuple[float, float]:
    """The highest rate that held below the lowest one that failed, and that one; 0 and infinity for none."""
    failed = min((one.rate for one in probes if not one.holds), default=math.inf)
    return max((one.rate for one in probes if one.holds and one.rate < failed), default=0.0), failed


def _next_exploration(search: SearchPlan, probes: Sequence[Probe]) -> float | None:
    """The next rate of the exploration; None once it is over."""
    held, failed = _bracket(probes)
    if not probes:
        return search.start
    if math.isinf(failed):
        return 2 * held
    if held == 0.0:
        return failed / 2
    return math.sqrt(held * failed) if failed > held * (1 + search.within) else None


def _rate_to_confirm(search: SearchPlan, probes: Sequence[Probe]) -> float:
    """What held last, lowered a little for each time that it failed to hold again."""
    rate, _ = _bracket([one for one in probes if not one.confirming])
    seen = [one for one in probes if one.confirming]
    while any(not one.holds and math.isclose(one.rate, rate) for one in seen):
        rate *= 1 - search.within
    return rate
