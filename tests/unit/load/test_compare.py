"""Comparison of two runs."""

from __future__ import annotations

import numpy as np
import pytest
from unit.load import sample_runs

from lockstep_load.compare import compare_runs, regressions
from lockstep_load.outcome import RequestOutcome


def row(rows: list, name: str):
    return next(one for one in rows if one.name == name)


def test_equal_runs_do_not_differ_significantly() -> None:
    rows = compare_runs(sample_runs.steady(20, 20.0, seed=1), sample_runs.steady(20, 20.0, seed=2))
    assert not regressions(rows)
    p50 = row(rows, "latency p50")
    assert p50.low < 1 < p50.high
    assert p50.verdict == "same"


def poisson(seconds: int, seed: int):
    rng = np.random.default_rng(seed)
    dues = np.sort(rng.uniform(0, seconds, rng.poisson(30 * seconds)))
    took = 0.02 * rng.lognormal(0, 0.3, len(dues))
    return sample_runs.run(
        [sample_runs.record(*pair) for pair in zip(dues.tolist(), took.tolist(), strict=True)], seconds
    )


@pytest.mark.parametrize("seconds", [5, 8])
def test_short_equal_runs_rarely_differ_significantly(seconds: int) -> None:
    """At most 5% of the 95% intervals exclude 1."""
    pairs = [compare_runs(poisson(seconds, 2 * at), poisson(seconds, 2 * at + 1)) for at in range(40)]
    for name in ("answers", "latency p50", "latency p99"):
        assert sum(row(rows, name).verdict != "same" for rows in pairs) <= 2


def test_a_slower_run_is_worse_and_a_faster_run_better() -> None:
    fast, slow = sample_runs.steady(20, 20.0, seed=1), sample_runs.steady(20, 30.0, seed=2)
    p50 = row(compare_runs(fast, slow), "latency p50")
    assert p50.verdict == "worse"
    assert p50.ratio == pytest.approx(1.5, rel=0.05)
    assert p50.low < 1.5 < p50.high
    assert row(compare_runs(slow, fast), "latency p50").verdict == "better"


def test_more_answers_are_better() -> None:
    answers = row(
        compare_runs(sample_runs.steady(20, 20.0), sample_runs.steady(20, 20.0, rate=150)), "answers"
    )
    assert answers.verdict == "better"
    assert answers.ratio == pytest.approx(1.5, rel=0.05)


def test_a_second_run_without_answers_is_worse() -> None:
    refused = sample_runs.run(
        [sample_runs.record(at / 100, 0.1, outcome=RequestOutcome.OVERLOADED) for at in range(2000)], 20
    )
    rows = regressions(compare_runs(sample_runs.steady(20, 20.0), refused))
    assert [one.name for one in rows] == ["answers", "elements"]
    assert {one.ratio for one in rows} == {0.0}


def test_short_runs_have_ratios_but_no_intervals() -> None:
    rows = compare_runs(sample_runs.steady(3, 20.0), sample_runs.steady(3, 40.0))
    assert row(rows, "latency p50").verdict == "unsure"
    assert row(rows, "latency p50").low is None
    assert not regressions(rows)


def test_compared_percentiles_equal_the_reported_ones() -> None:
    a, b = sample_runs.steady(10, 20.0, seed=1), sample_runs.steady(10, 25.0, seed=2)
    rows = compare_runs(a, b)
    for name in ("p50", "p90", "p99"):
        assert row(rows, f"latency {name}").first == pytest.approx(getattr(a.latency_ms, name))
        assert row(rows, f"latency {name}").second == pytest.approx(getattr(b.latency_ms, name))


def test_the_same_seed_gives_the_same_intervals() -> None:
    a, b = sample_runs.steady(10, 20.0, seed=1), sample_runs.steady(10, 25.0, seed=2)
    assert compare_runs(a, b) == compare_runs(a, b)
