"""Checks whether a run measured the server or only the generator. Pure: `RunFacts` → sentences.

A reason makes the run invalid. A note tells the reader how to interpret the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lockstep_load.outcome import RequestOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_LAG_MS = 10.0
MAX_CPU_SHARE = 0.9
"""Fraction of one core above which a worker process counts as saturated."""

_ENOUGH = {"p90": 100, "p99": 1_000, "p99.9": 10_000}
"""Answers needed for ten to lie beyond the percentile."""


@dataclass(frozen=True)
class RunFacts:
    """The facts about a finished run that decide whether it is valid."""

    open_loop: bool
    offline: bool
    lag_p99_ms: float
    max_lag_ms: float
    latency_p50_ms: float
    unsent: int
    capped: bool
    cpu_shares: Sequence[float]
    failures: Sequence[str]
    outcomes: Mapping[RequestOutcome, int]
    partial: bool


def reasons(facts: RunFacts) -> list[str]:
    """Why the run is invalid; empty if it is valid."""
    found = [f"a worker process failed: {why}" for why in facts.failures]
    if facts.open_loop and facts.lag_p99_ms > facts.max_lag_ms:
        found.append(
            f"the generator fell behind its schedule: the p99 send lag was {facts.lag_p99_ms:,.1f} ms"
            f" (limit: {facts.max_lag_ms:g} ms)"
        )
    if facts.unsent and not facts.offline:
        found.append(
            f"{facts.unsent:,} requests were due but never sent: the generator did not keep up with the rate"
        )
    if facts.capped:
        found.append("requests were delayed by the limit of requests in flight: raise --max-in-flight")
    busiest = max(facts.cpu_shares, default=0.0)
    if busiest > MAX_CPU_SHARE:
        found.append(f"a worker process used {busiest:.0%} of a core: raise --processes or lower the load")
    failed = sum(facts.outcomes.values()) - facts.outcomes.get(RequestOutcome.OK, 0)
    if facts.offline and (lost := failed + facts.unsent):
        found.append(
            f"{lost:,} samples were not answered; an offline run must answer all:"
            f" {'lower the concurrency' if failed else 'raise --seconds'}"
        )
    if not facts.outcomes.get(RequestOutcome.OK):
        found.append("no request in the measured part was answered")
    return found


def notes(facts: RunFacts) -> list[str]:
    """What affects the interpretation of the results."""
    found = []
    if facts.partial:
        found.append("partial: the run was interrupted; results cover the time until then")
    if not facts.open_loop and not facts.offline:
        found.append(
            "closed loop: each caller waits for its answer, so a slow server receives fewer requests"
            " and few of them meet a stall"
        )
    total, ok = sum(facts.outcomes.values()), facts.outcomes.get(RequestOutcome.OK, 0)
    if 0 < ok < total:
        found.append(f"latency covers only the {ok / total:.1%} of requests that were answered")
    if facts.open_loop and 0 < facts.latency_p50_ms < 4 * facts.lag_p99_ms:
        found.append(f"up to {facts.lag_p99_ms:,.1f} ms (p99) of the latency is the generator's own send lag")
    few = [name for name, enough in _ENOUGH.items() if ok < enough]
    if ok and few:
        found.append(
            f"{ok:,} answers are too few for a stable {', '.join(few)}: fewer than ten lie beyond it"
        )
    return found
