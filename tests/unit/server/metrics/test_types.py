"""Counters and histograms expose what prometheus_client's own would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import prometheus_client as prometheus
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from lockstep_server.metrics.types import MetricsCollector

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

BOUNDS = (0.1, 1.0, 2.5)
LABELS = ("model", "face")


def exposed(registry: prometheus.CollectorRegistry) -> list[str]:
    lines = prometheus.generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


def test_it_exposes_as_the_library_does() -> None:
    mine, its = prometheus.CollectorRegistry(), prometheus.CollectorRegistry()
    families = (
        MetricsCollector(mine).counter("runs", "Runs.", *LABELS),
        MetricsCollector(mine).gauge("slots", "Slots.", *LABELS),
        MetricsCollector(mine).histogram("seconds", "Seconds.", BOUNDS, *LABELS),
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
    child = MetricsCollector(registry).histogram("seconds", "Seconds.", BOUNDS).labels()
    for value, count in seen:
        child.observe(value, count)
    for bound in (*BOUNDS, float("inf")):
        name = {"le": "+Inf" if bound == float("inf") else str(bound)}
        under = sum(count for value, count in seen if value <= bound)
        assert registry.get_sample_value("seconds_bucket", name) == under
    total = sum(value * count for value, count in seen)
    assert registry.get_sample_value("seconds_sum") == pytest.approx(total)


def test_a_child_is_made_once() -> None:
    family = MetricsCollector(prometheus.CollectorRegistry()).counter("runs", "Runs.", *LABELS)
    assert family.labels("a", "b") is family.labels("a", "b")
    assert family.labels("a", "b") is not family.labels("b", "a")


@pytest.mark.parametrize("values", [(), ("a",), ("a", "b", "c")])
def test_too_few_or_too_many_labels_are_refused(values: tuple[str, ...]) -> None:
    family = MetricsCollector(prometheus.CollectorRegistry()).counter("runs", "Runs.", *LABELS)
    with pytest.raises(ValueError, match="labels"):
        family.labels(*values)


def openmetrics(registry: prometheus.CollectorRegistry) -> list[Sample]:
    text = openmetrics_exposition.generate_latest(registry).decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def test_the_newest_traced_observation_of_a_bucket_is_its_exemplar() -> None:
    registry = prometheus.CollectorRegistry()
    child = MetricsCollector(registry).histogram("seconds", "Seconds.", BOUNDS).labels()
    child.observe_traced(0.2, "a" * 32)
    child.observe_traced(0.3, "b" * 32)
    child.observe(0.4)
    child.observe_traced(99.0, "c" * 32)
    exemplars = {one.labels["le"]: one.exemplar for one in openmetrics(registry) if one.exemplar}
    assert {le: (one.labels, one.value) for le, one in exemplars.items()} == {
        "1.0": ({"trace_id": "b" * 32}, 0.3),
        "+Inf": ({"trace_id": "c" * 32}, 99.0),
    }
    assert all(one.timestamp for one in exemplars.values())
    assert registry.get_sample_value("seconds_count") == 4


def test_exemplars_are_in_openmetrics_only() -> None:
    registry = prometheus.CollectorRegistry()
    child = MetricsCollector(registry).histogram("seconds", "Seconds.", BOUNDS).labels()
    child.observe(0.2)
    before = exposed(registry)
    child.observe_traced(99.0, "a" * 32)
    assert "trace_id" not in "".join(exposed(registry))
    assert len(exposed(registry)) == len(before)


def test_what_is_read_at_the_scrape_is_what_is_true_then() -> None:
    registry = prometheus.CollectorRegistry()
    gauges, total = (
        MetricsCollector(registry).scraped(name, "Now.", "model") for name in ("level", "ends_total")
    )
    assert registry.get_sample_value("level", {"model": "lm"}) is None
    for value in (1.0, 0.5):
        gauges.read = total.read = lambda value=value: [(("lm",), value)]  # type: ignore[misc]
        assert registry.get_sample_value("level", {"model": "lm"}) == value
        assert registry.get_sample_value("ends_total", {"model": "lm"}) == value
    assert "# TYPE ends_total counter" in exposed(registry)


def test_without_counting_nothing_is_counted() -> None:
    registry = prometheus.CollectorRegistry()
    silent = MetricsCollector(registry, counting=False)
    counter, gauge = silent.counter("runs", "Runs.").labels(), silent.gauge("slots", "Slots.").labels()
    seconds = silent.histogram("seconds", "Seconds.", BOUNDS).labels()
    counter.inc(3)
    gauge.set(3)
    seconds.observe(1.0, 3)
    seconds.observe_traced(1.0, "a" * 32)
    for name in ("runs_total", "slots", "seconds_count", "seconds_sum"):
        assert registry.get_sample_value(name) == 0
