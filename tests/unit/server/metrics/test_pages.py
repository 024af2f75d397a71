"""Metrics of several processes are one page: counters and histograms add up, and never go back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from lockstep_server import supervision
from lockstep_server.ipc import frames
from lockstep_server.metrics import pages
from lockstep_server.metrics.families import Metrics
from lockstep_server.supervision import MetricPage, MetricSample

values = st.integers(0, 1000).map(float)


def page(name: str, type_: str, value: float, **labels: str) -> MetricPage:
    return MetricPage(name, "Help.", type_, [MetricSample(name, labels, value)])


def value_of(merged: list[MetricPage], name: str) -> float:
    (found,) = [one for one in merged if one.name == name]
    return sum(sample.value for sample in found.samples)


def counted(requests: int, seconds: list[float], trace: str = "") -> Metrics:
    metrics = Metrics()
    metrics.accepted.labels("m", "1", "Classify").inc(requests)
    for one in seconds:
        metrics.request_seconds.labels("m", "Classify").observe(one)
    if trace:
        metrics.request_seconds.labels("m", "Classify").observe_traced(0.001, trace)
    return metrics


def test_the_page_of_several_is_that_of_one_that_counted_all() -> None:
    parts = [counted(3, [0.001, 0.2]), counted(4, [0.003, 20.0]), Metrics()]
    merged = pages.merge([pages.take(part.registry) for part in parts])
    shown = CollectorRegistry()
    shown.register(pages.PageCollector(lambda: merged))
    whole = generate_latest(counted(7, [0.001, 0.2, 0.003, 20.0]).registry).decode().splitlines()
    own = ("python_", "process_")  # of this process, three times
    lines = [line for line in generate_latest(shown).decode().splitlines() if not any(o in line for o in own)]
    assert lines == [line for line in whole if not any(o in line for o in own)]


def test_pages_travel_as_messages_and_keep_their_exemplars() -> None:
    found = pages.take(counted(1, [], trace="0af7").registry)
    sent = b"".join(bytes(part) for part in frames.Encoder().encode([supervision.Report(1, found)]))
    ((report,),) = frames.Decoder().feed(sent)
    merged = pages.merge([report.pages, pages.take(counted(1, [0.001]).registry)])
    shown = CollectorRegistry()
    shown.register(pages.PageCollector(lambda: merged))
    (bucket,) = [
        line
        for line in openmetrics(shown).decode().splitlines()
        if line.startswith("lockstep_request_seconds_bucket") and "0af7" in line
    ]
    assert '} 2.0 # {trace_id="0af7"} 0.001' in bucket


@given(st.lists(values, min_size=1, max_size=5))
def test_gauges_are_added_where_each_process_has_a_part(of_each: list[float]) -> None:
    def merged(name: str) -> float:
        return value_of(pages.merge([[page(name, "gauge", value)] for value in of_each]), name)

    assert merged("lockstep_queue_depth") == sum(of_each)
    assert merged("process_resident_memory_bytes") == sum(of_each)
    assert merged("lockstep_model_ready") == max(of_each)
    assert merged("process_start_time_seconds") == min(of_each)


@given(st.lists(st.tuples(st.integers(0, 2), values), max_size=20))
def test_no_counter_goes_back_when_processes_end(events: list[tuple[int, float]]) -> None:
    """Processes count, and end; what they had at the last scrape stays."""
    running, ended, shown = [0.0, 0.0], list[MetricPage](), 0.0
    for which, value in events:
        if which < 2:
            running[which] += value
        else:
            last = [page("c", "counter", running[0]), page("lockstep_queue_depth", "gauge", 5.0)]
            ended = pages.merge([ended, pages.counted(last)])
            running[0] = 0.0
        merged = pages.merge([ended, *([page("c", "counter", value)] for value in running)])
        assert value_of(merged, "c") >= shown
        shown = value_of(merged, "c")
        assert {one.name for one in merged} == {"c"}
