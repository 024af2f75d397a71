"""Aggregation of the records of the worker processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.load import sample_runs

from lockstep_load import documents
from lockstep_load.counts import bucket
from lockstep_load.outcome import RequestOutcome
from lockstep_load.results import RequestCounts


def test_latency_counts_in_the_second_due_and_answers_in_the_second_of_arrival() -> None:
    counts = sample_runs.counts([sample_runs.record(0.5, 1.2), sample_runs.record(1.1, 0.1)], 3.0)
    assert counts.second(0).latency.count == 1
    assert counts.second(0).ended[RequestOutcome.OK] == 0
    assert counts.second(1).ended[RequestOutcome.OK] == 2
    assert counts.second(0).due == counts.second(1).due == 1


def test_the_warm_up_is_excluded_from_latency_and_outcomes() -> None:
    counts = sample_runs.counts(
        [sample_runs.record(-0.5, 0.1), sample_runs.record(-0.1, 0.5), sample_runs.record(0.2, 0.1)], 2.0
    )
    assert counts.outcomes == {RequestOutcome.OK: 1}
    assert counts.warmup == 2
    assert counts.latency.count == 1
    assert counts.completions[RequestOutcome.OK] == 2  # including one that was due in the warm-up


def test_failures_are_counted_by_outcome_and_excluded_from_latency() -> None:
    refused = sample_runs.record(0.1, 0.001, outcome=RequestOutcome.OVERLOADED)
    document = sample_runs.run([sample_runs.record(0.2, 0.02), refused, refused], 1.0)
    assert document.outcomes == {"ok": 1, "overloaded": 2}
    assert document.latency_ms
    assert document.latency_ms.count == 1
    assert document.latency_ms.p50 == pytest.approx(20, rel=1e-2)


def test_answers_after_the_end_are_excluded_from_throughput() -> None:
    document = sample_runs.run([sample_runs.record(0.9, 0.5), sample_runs.record(0.1, 0.1)], 1.0)
    assert document.rates.ok == 1.0
    assert document.ok == 2


def test_a_document_has_every_percentile_in_milliseconds() -> None:
    document = sample_runs.steady(5, 20.0)
    assert document.latency_ms
    assert {"p50", "p90", "p99", "p99.9", "max"} <= set(documents.to_json(document.latency_ms))
    assert document.latency_ms.p50 == pytest.approx(20, rel=0.05)
    assert document.valid is True
    assert document.requests == RequestCounts(sent=500, unsent=0, warmup=0)
    assert [one.second for one in document.seconds] == [0, 1, 2, 3, 4]


@given(st.integers(1, 1_000_000))
def test_a_length_is_reported_under_the_next_power_of_two(length: int) -> None:
    most = bucket(length)
    assert most / 2 < length <= most
