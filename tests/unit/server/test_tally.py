"""Counters and histograms expose what prometheus_client's own would."""

from __future__ import annotations

import prometheus_client as prometheus
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_server.tally import Tally

BOUNDS = (0.1, 1.0, 2.5)
LABELS = ("model", "face")


def exposed(registry: prometheus.CollectorRegistry) -> list[str]:
    lines = prometheus.generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


def test_it_exposes_as_the_library_does() -> None:
    mine, its = prometheus.CollectorRegistry(), prometheus.CollectorRegistry()
    families = (
        Tally(mine).counter("runs", "Runs.", *LABELS),
        Tally(mine).gauge("slots", "Slots.", *LABELS),
        Tally(mine).histogram("seconds", "Seconds.", BOUNDS, *LABELS),
    )
    theirs = (
        prometheus.Counter("runs", "Runs.", LABELS, registry=its),
        prometheus.Gauge("slots", "Slots.", LABELS, registry=its),
        prometheus.Histogram("seconds", "Seconds.", LABELS, buckets=BOUNDS, registry=its),
    )
    for runs, slots, seconds in (families, theirs):
        for values in (("lm", "stepwise"), ('a "quoted"\nname', "oneshot")):
            runs.labels(*values).inc()
            runs.labels(*values).inc(2.5)
            slots.labels(*values).set(7)
            slots.labels(*values).inc(-2)
            for second in (0.05, 0.1, 0.7, 2.5, 99.0):
                seconds.labels(*values).observe(second)
    assert exposed(mine) == exposed(its)


@given(st.lists(st.tuples(st.floats(-1, 4), st.integers(1, 5)), max_size=20))
def test_a_value_counts_under_every_bound_that_is_not_below_it(seen: list[tuple[float, int]]) -> None:
    registry = prometheus.CollectorRegistry()
    child = Tally(registry).histogram("seconds", "Seconds.", BOUNDS).labels()
    for value, count in seen:
        child.observe(value, count)
    for bound in (*BOUNDS, float("inf")):
        name = {"le": "+Inf" if bound == float("inf") else str(bound)}
        under = sum(count for value, count in seen if value <= bound)
        assert registry.get_sample_value("seconds_bucket", name) == under
    total = sum(value * count for value, count in seen)
    assert registry.get_sample_value("seconds_sum") == pytest.approx(total)


def test_a_child_is_made_once() -> None:
    family = Tally(prometheus.CollectorRegistry()).counter("runs", "Runs.", *LABELS)
    assert family.labels("a", "b") is family.labels("a", "b")
    assert family.labels("a", "b") is not family.labels("b", "a")


@pytest.mark.parametrize("values", [(), ("a",), ("a", "b", "c")])
def test_too_few_or_too_many_labels_are_refused(values: tuple[str, ...]) -> None:
    family = Tally(prometheus.CollectorRegistry()).counter("runs", "Runs.", *LABELS)
    with pytest.raises(ValueError, match="labels"):
        family.labels(*values)
