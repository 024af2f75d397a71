"""Whether a run measured the server, or only its own generator. Pure: facts in, sentences out.

A reason makes the run invalid. A note is what a reader of its numbers should know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lockstep_load.outcome import RequestOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_LAG_MS = 10.0
MAX_CPU_SHARE = 0.9
"""Of one core: a Python process above this is busy whenever it is looked at."""

_ENOUGH = {"p90": 100, "p99": 1_000, "p99.9": 10_000}
"""Answers for ten beyond the percentile."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run when it has ended."""

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
    """Why the run is invalid; nothing where it is valid."""
    found = [f"a generator process ended before its time: {why}" for why in facts.failures]
    if facts.open_loop and facts.lag_p99_ms > facts.max_lag_ms:
        found.append(
            f"the generator fell behind its schedule: 1% of requests were sent more than"
            f" {facts.lag_p99_ms:,.1f} ms late (bound: {facts.max_lag_ms:g} ms)"
        )
    if facts.unsent and not facts.offline:
        found.append(
            f"{facts.unsent:,} requests were due and never sent: the generator did not keep up with the rate"
        )
    if facts.capped:
        found.append("too many requests were in flight, so that some waited here: raise --max-in-flight")
    busiest = max(facts.cpu_shares, default=0.0)
    if busiest > MAX_CPU_SHARE:
        found.append(f"a generator process took {busiest:.0%} of a core: give more --processes, or less load")
    failed = sum(facts.outcomes.values()) - facts.outcomes.get(RequestOutcome.OK, 0)
    if facts.offline and (lost := failed + facts.unsent):
        found.append(
            f"{lost:,} samples had no answer, and offline all must have one:"
            f" {'lower the concurrency' if failed else 'give it more seconds'}"
        )
    if not facts.outcomes.get(RequestOutcome.OK):
        found.append("no request of the measured part was answered")
    return found


def notes(facts: RunFacts) -> list[str]:
    """What a reader should know."""
    found = []
    if facts.partial:
        found.append("partial: the run was interrupted, and tells of the time until then")
    if not facts.open_loop and not facts.offline:
        found.append(
            "closed loop: each caller waits for its answer, so a slow server is asked less often"
            " and its stalls are met by few requests"
        )
    total, ok = sum(facts.outcomes.values()), facts.outcomes.get(RequestOutcome.OK, 0)
    if 0 < ok < total:
        found.append(f"latency is that of the {ok / total:.1%} of requests that were answered")
    if facts.open_loop and 0 < facts.latency_p50_ms < 4 * facts.lag_p99_ms:
        found.append(
            f"up to {facts.lag_p99_ms:.2g} ms (p99) of the latency is the generator's own lateness in sending"
        )
    few = [name for name, enough in _ENOUGH.items() if ok < enough]
    if ok and few:
        found.append(f"{ok:,} answers are few for {', '.join(few)}: under ten are beyond it")
    return found
