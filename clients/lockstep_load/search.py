"""Searches the highest rate that meets a latency bound: MLPerf's server scenario. Pure: probes → next step.

The rate is doubled or halved until one rate holds and one fails, then bisected in logarithms until the two
are `within` of each other. The result is confirmed by longer runs with other seeds; if one fails, a slightly
lower rate is tried. A probe holds if the share of all requests that were answered in time reaches the
percentile; rejected and failed requests were not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lockstep_load.histogram import LatencyHistogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_load.results import Probe, RunDocument

MAX_PROBES = 40


@dataclass(frozen=True)
class LatencyBound:
    """A latency that a percentile of all requests must meet."""

    latency_ms: float
    percentile: float = 99.0


@dataclass(frozen=True)
class SearchPlan:
    """The first rate, the precision, and the number of confirming runs."""

    bound: LatencyBound
    start: float
    within: float = 0.05
    confirmations: int = 2
    lowest: float = 0.1
    """Requests per second below which the search gives up."""


@dataclass(frozen=True)
class SearchStep:
    """The next rate to run."""

    rate: float
    confirming: bool


def holds(run: RunDocument, bound: LatencyBound) -> bool:
    """Whether a run is valid and met the bound."""
    if not run.valid:
        return False
    of_answered = bound.percentile * (run.requests.sent + run.requests.unsent) / run.ok
    if of_answered > 100.0:
        return False
    return LatencyHistogram.decoded(run.histogram).percentile_ms(of_answered) <= bound.latency_ms


def next_step(search: SearchPlan, probes: Sequence[Probe]) -> SearchStep | None:
    """The next step, or None at the end; then `confirmed_rate` is the result."""
    if len(probes) >= MAX_PROBES or confirmed_rate(search, probes) is not None:
        return None
    rate = _next_exploration(search, [one for one in probes if not one.confirming])
    if rate is not None:
        return SearchStep(rate, confirming=False) if rate >= search.lowest else None
    lowered = _rate_to_confirm(search, probes)
    return SearchStep(lowered, confirming=True) if lowered >= search.lowest else None


def confirmed_rate(search: SearchPlan, probes: Sequence[Probe]) -> float | None:
    """The highest rate that all its confirming runs met; None if there is none (yet)."""
    if _next_exploration(search, [one for one in probes if not one.confirming]) is not None:
        return None
    rate = _rate_to_confirm(search, probes)
    held = sum(one.confirming and one.holds and math.isclose(one.rate, rate) for one in probes)
    return rate if held >= search.confirmations else None


def _bracket(probes: Sequence[Probe]) -> tuple[float, float]:
    """The lowest rate that failed (else infinity), preceded by the highest that held below it (else 0)."""
    failed = min((one.rate for one in probes if not one.holds), default=math.inf)
    return max((one.rate for one in probes if one.holds and one.rate < failed), default=0.0), failed


def _next_exploration(search: SearchPlan, probes: Sequence[Probe]) -> float | None:
    """The next rate of the exploration; None once the bracket is narrow enough."""
    held, failed = _bracket(probes)
    if not probes:
        return search.start
    if math.isinf(failed):
        return 2 * held
    if held == 0.0:
        return failed / 2
    return math.sqrt(held * failed) if failed > held * (1 + search.within) else None


def _rate_to_confirm(search: SearchPlan, probes: Sequence[Probe]) -> float:
    """The highest rate that held, lowered by `within` for each failed confirmation."""
    rate, _ = _bracket([one for one in probes if not one.confirming])
    seen = [one for one in probes if one.confirming]
    while any(not one.holds and math.isclose(one.rate, rate) for one in seen):
        rate *= 1 - search.within
    return rate
