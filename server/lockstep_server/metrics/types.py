"""Counters and histograms for one writing thread, read by Prometheus at a scrape.

prometheus_client's own take a lock and check their arguments at each observation: about 16 us a
request for the dozen that a request makes, where a plain call costs 200 us in all. Everything the
server counts is counted on the event loop, so plain numbers do; a scrape from another thread may
see one observation of two. Names, buckets and exposition stay prometheus_client's: it leaves
exemplars out of every format but OpenMetrics.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric


class ScalarMetric:
    """A counter's or a gauge's child."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def set(self, value: float) -> None:
        self.value = value


class HistogramMetric:
    """A histogram's child: how many observations fell under each bound, their sum, and whose the
    newest traced one of each bucket was."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, count: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    def observe_traced(self, value: float, trace_id: str) -> None:
        """One observation, made in a trace."""
        self.observe(value)
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar({"trace_id": trace_id}, value, time.time())


class _SilentNumber(ScalarMetric):
    __slots__ = ()

    def inc(self, amount: float = 1) -> None:
        """Not counted."""

    def set(self, value: float) -> None:
        """Not kept."""


class _SilentDistribution(HistogramMetric):
    __slots__ = ()

    def observe(self, value: float, count: int = 1) -> None:
        """Not counted."""

    def observe_traced(self, value: float, trace_id: str) -> None:
        """Not counted."""


Child = TypeVar("Child", ScalarMetric, HistogramMetric)


class MetricFamily(Collector, Generic[Child]):
    """A metric with its children by label values, registered where it is made."""

    def __init__(
        self,
        registry: CollectorRegistry,
        kind: type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily],
        name: str,
        text: str,
        labels: Sequence[str],
        make: Callable[[], Child],
    ) -> None:
        self._kind, self._name, self._text, self._labels = kind, name, text, labels
        self._make: Callable[[], Child] = make
        self._children: dict[tuple[str, ...], Child] = {}
        registry.register(self)

    def labels(self, *values: str) -> Child:
        """The child of these label values, in the order of the labels."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {self._labels}")
            child = self._children[values] = self._make()
        return child

    def collect(self) -> Iterator[Metric]:
        family = self._kind(self._name, self._text, labels=self._labels)
        for values, child in list(self._children.items()):
            if isinstance(child, HistogramMetric):
                assert isinstance(family, HistogramMetricFamily)
                family.add_metric(values, _buckets(child), child.total)
            else:
                assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
                family.add_metric(values, child.value)
        yield family


class Scraped(Collector):
    """A metric whose values are read when they are asked for, on the thread that asks."""

    def __init__(
        self,
        registry: CollectorRegistry,
        kind: type[CounterMetricFamily | GaugeMetricFamily],
        name: str,
        text: str,
        labels: Sequence[str],
    ) -> None:
        self._kind, self._name, self._text, self._labels = kind, name, text, labels
        self.read: Callable[[], Iterable[tuple[Sequence[str], float]]] = tuple
        """Label values, in the order of the labels, and the value of each."""
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        family = self._kind(self._name, self._text, labels=self._labels)
        for values, value in self.read():
            family.add_metric(values, value)
        yield family


def _buckets(child: HistogramMetric) -> list[Any]:
    """Cumulative counts by upper bound, and an exemplar or none, as the exposition wants them."""
    below = 0.0
    buckets: list[Any] = []
    exemplars = dict(child.exemplars)
    for index, (bound, count) in enumerate(
        zip((*child.bounds, float("inf")), list(child.counts), strict=True)
    ):
        below += count
        buckets.append((floatToGoString(bound), below, exemplars.get(index)))  # type: ignore[no-untyped-call]
    return buckets


class MetricsCollector:
    """Makes families in one registry. `counting`: else what they are told goes nowhere."""

    def __init__(self, registry: CollectorRegistry, *, counting: bool = True) -> None:
        self._registry, self._counting = registry, counting

    def counter(self, name: str, text: str, *labels: str) -> MetricFamily[ScalarMetric]:
        make = ScalarMetric if self._counting else _SilentNumber
        return MetricFamily(self._registry, CounterMetricFamily, name, text, labels, make)

    def gauge(self, name: str, text: str, *labels: str) -> MetricFamily[ScalarMetric]:
        make = ScalarMetric if self._counting else _SilentNumber
        return MetricFamily(self._registry, GaugeMetricFamily, name, text, labels, make)

    def histogram(
        self, name: str, text: str, bounds: Sequence[float], *labels: str
    ) -> MetricFamily[HistogramMetric]:
        make = HistogramMetric if self._counting else _SilentDistribution
        return MetricFamily(self._registry, HistogramMetricFamily, name, text, labels, lambda: make(bounds))

    def scraped(self, name: str, text: str, *labels: str) -> Scraped:
        """A gauge, or a counter where the name ends in `_total`."""
        kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        return Scraped(self._registry, kind, name, text, labels)
