"""The exposition is the same as that of the prometheus_client types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import prometheus_client as prometheus
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from lockstep_server.metrics.types import MetricFactory

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

BOUNDS = (0.1, 1.0, 2.5)
LABELS = ("model", "mode")


def exposed(registry: prometheus.CollectorRegistry) -> list[str]:
    lines = prometheus.generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


def test_the_exposition_equals_that_of_prometheus_client() -> None:
    ours, theirs = prometheus.CollectorRegistry(), prometheus.CollectorRegistry()
    our_families = (
        MetricFactory(ours).counter("runs", "Runs.", *LABELS),
        MetricFactory(ours).gauge("slots", "Slots.", *LABELS),
        MetricFactory(ours).histogram("seconds", "Seconds.", BOUNDS, *LABELS),
    )
    their_families = (
        prometheus.Counter("runs", "Runs.", LABELS, registry=theirs),
        prometheus.Gauge("slots", "Slots.", LABELS, registry=theirs),
        prometheus.Histogram("seconds", "Seconds.", LABELS, buckets=BOUNDS, registry=theirs),
    )
    for runs, slots, seconds in (our_families, their_families):
        for values in (("lm", "stepwise"), ('a "quoted"\nname', "oneshot")):
            runs.labels(*values).inc()
            runs.labels(*values).inc(2.5)
            slots.labels(*values).set(7)
            slots.labels(*values).inc(-2)
            for second in (0.05, 0.1, 0.7, 2.5, 99.0):
                seconds.labels(*values).observe(second)
    assert exposed(ours) == exposed(theirs)


@given(st.lists(st.tuples(st.floats(-1, 4), st.integers(1, 5)), max_size=20))
def test_a_bucket_counts_the_values_up_to_its_bound(observations: list[tuple[float, int]]) -> None:
    registry = prometheus.CollectorRegistry()
    child = MetricFactory(registry).histogram("seconds", "Seconds.", BOUNDS).labels()
    for value, count in observations:
        child.observe(value, count)
    for bound in (*BOUNDS, float("inf")):
        name = {"le": "+Inf" if bound == float("inf") else str(bound)}
        expected = sum(count for value, count in observations if value <= bound)
        assert registry.get_sample_value("seconds_bucket", name) == expected
    total = sum(value * count for value, count in observations)
    assert registry.get_sample_value("seconds_sum") == pytest.approx(total)


def test_a_child_is_created_once() -> None:
    family = MetricFactory(prometheus.CollectorRegistry()).counter("runs", "Runs.", *LABELS)
    assert family.labels("a", "b") is family.labels("a", "b")
    assert family.labels("a", "b") is not family.labels("b", "a")


@pytest.mark.parametrize("values", [(), ("a",), ("a", "b", "c")])
def test_a_wrong_number_of_labels_is_an_error(values: tuple[str, ...]) -> None:
    family = MetricFactory(prometheus.CollectorRegistry()).counter("runs", "Runs.", *LABELS)
    with pytest.raises(ValueError, match="labels"):
        family.labels(*values)


def openmetrics(registry: prometheus.CollectorRegistry) -> list[Sample]:
    text = openmetrics_exposition.generate_latest(registry).decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def test_the_newest_traced_observation_of_a_bucket_is_its_exemplar() -> None:
    registry = prometheus.CollectorRegistry()
    child = MetricFactory(registry).histogram("seconds", "Seconds.", BOUNDS).labels()
    child.observe_traced(0.2, "a" * 32)
    child.observe_traced(0.3, "b" * 32)
    child.observe(0.4)
    child.observe_traced(99.0, "c" * 32)
    exemplars = {s.labels["le"]: s.exemplar for s in openmetrics(registry) if s.exemplar}
    assert {le: (one.labels, one.value) for le, one in exemplars.items()} == {
        "1.0": ({"trace_id": "b" * 32}, 0.3),
        "+Inf": ({"trace_id": "c" * 32}, 99.0),
    }
    assert all(one.timestamp for one in exemplars.values())
    assert registry.get_sample_value("seconds_count") == 4


def test_exemplars_are_in_openmetrics_only() -> None:
    registry = prometheus.CollectorRegistry()
    child = MetricFactory(registry).histogram("seconds", "Seconds.", BOUNDS).labels()
    child.observe(0.2)
    before = exposed(registry)
    child.observe_traced(99.0, "a" * 32)
    assert "trace_id" not in "".join(exposed(registry))
    assert len(exposed(registry)) == len(before)


def test_scraped_families_are_read_at_each_scrape() -> None:
    registry = prometheus.CollectorRegistry()
    gauges, total = (
        MetricFactory(registry).scraped(name, "Now.", "model") for name in ("level", "ends_total")
    )
    assert registry.get_sample_value("level", {"model": "lm"}) is None
    for value in (1.0, 0.5):
        gauges.read = total.read = lambda value=value: [(("lm",), value)]  # type: ignore[misc]
        assert registry.get_sample_value("level", {"model": "lm"}) == value
        assert registry.get_sample_value("ends_total", {"model": "lm"}) == value
    assert "# TYPE ends_total counter" in exposed(registry)


def test_disabled_metrics_record_nothing() -> None:
    registry = prometheus.CollectorRegistry()
    factory = MetricFactory(registry, enabled=False)
    counter, gauge = factory.counter("runs", "Runs.").labels(), factory.gauge("slots", "Slots.").labels()
    seconds = factory.histogram("seconds", "Seconds.", BOUNDS).labels()
    counter.inc(3)
    gauge.set(3)
    seconds.observe(1.0, 3)
    seconds.observe_traced(1.0, "a" * 32)
    for name in ("runs_total", "slots", "seconds_count", "seconds_sum"):
        assert registry.get_sample_value(name) == 0
