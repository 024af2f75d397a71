"""What makes a run invalid, and what is only noted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lockstep_load.outcome import RequestOutcome
from lockstep_load.validity import RunFacts, notes, reasons

FINE = RunFacts(
    open_loop=True,
    offline=False,
    lag_p99_ms=0.4,
    max_lag_ms=10.0,
    latency_p50_ms=5.0,
    unsent=0,
    capped=False,
    cpu_shares=[0.3, 0.4],
    failures=[],
    outcomes={RequestOutcome.OK: 100_000},
    partial=False,
)


def test_a_sound_run_has_no_reasons_and_no_notes() -> None:
    assert reasons(FINE) == []
    assert notes(FINE) == []


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (replace(FINE, lag_p99_ms=12.0), "fell behind its schedule"),
        (replace(FINE, unsent=3), "3 requests were due but never sent"),
        (replace(FINE, capped=True), "--max-in-flight"),
        (replace(FINE, cpu_shares=[0.2, 0.97]), "97% of a core"),
        (replace(FINE, failures=["it was killed"]), "it was killed"),
        (
            replace(FINE, outcomes={RequestOutcome.OVERLOADED: 5}),
            "no request in the measured part was answered",
        ),
        (
            replace(FINE, offline=True, outcomes={RequestOutcome.OK: 9, RequestOutcome.DEADLINE: 1}),
            "1 samples",
        ),
        (replace(FINE, offline=True, unsent=2), "2 samples were not answered"),
    ],
)
def test_a_run_limited_by_the_generator_is_invalid(facts: RunFacts, message: str) -> None:
    [reason] = reasons(facts)
    assert message in reason


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (replace(FINE, partial=True), "interrupted"),
        (replace(FINE, open_loop=False), "closed loop"),
        (
            replace(FINE, outcomes={RequestOutcome.OK: 90_000, RequestOutcome.OVERLOADED: 10_000}),
            "90.0% of requests",
        ),
        (replace(FINE, lag_p99_ms=2.0), "the generator's own send lag"),
        (replace(FINE, outcomes={RequestOutcome.OK: 500}), "too few for a stable p99, p99.9"),
    ],
)
def test_caveats_are_noted(facts: RunFacts, message: str) -> None:
    assert reasons(facts) == []
    [note] = notes(facts)
    assert message in note


def test_lag_does_not_matter_in_a_closed_loop() -> None:
    assert reasons(replace(FINE, open_loop=False, lag_p99_ms=50.0)) == []
