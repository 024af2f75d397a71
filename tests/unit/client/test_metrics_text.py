"""The reader of the Prometheus text format."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lockstep_client.metrics_text import Scrape, samples

TEXT = """# HELP rows Rows.
# TYPE rows counter
rows{mode="oneshot",model="m"} 3.0
rows{mode="step",model="m"} 4.0
rows{mode="step",model="n"} 5.0
other{model="m"} 1
up 1
not a sample
broken nine
"""


def test_the_samples_equal_those_of_the_parser_of_prometheus_client():
    registry = CollectorRegistry()
    Counter("calls", "Calls.", ["model", "code"], registry=registry).labels("a b", "OK").inc(3)
    Gauge("odd", "Odd.", ["label"], registry=registry).labels('a "b", c="d"}} \\ \n 7').set(float("inf"))
    Histogram("seconds", "Seconds.", ["model"], registry=registry).labels("m").observe(0.3)
    Gauge("bare", "Bare.", registry=registry).set(1e-9)
    text = generate_latest(registry).decode()
    families = text_string_to_metric_families(text)
    assert samples(text) == {
        (one.name, tuple(one.labels.items())): one.value for family in families for one in family.samples
    }


def test_lines_that_are_no_samples_are_ignored():
    assert {name for name, _ in samples(TEXT)} == {"rows", "other", "up"}


@pytest.mark.parametrize(
    ("labels", "total"), [({}, 12.0), ({"model": "m"}, 7.0), ({"model": "m", "mode": "step"}, 4.0)]
)
def test_totals_sum_the_samples_with_the_labels(labels, total):
    assert Scrape(samples(TEXT)).total("rows", **labels) == total


def test_values_are_those_of_the_family_with_the_labels():
    scrape = Scrape(samples(TEXT))
    assert scrape.values("rows", "mode", model="n") == {"step"}
    assert scrape.values("up", "mode") == set()
    assert list(scrape.select("rows", model="n")) == [({"mode": "step", "model": "n"}, 5.0)]
