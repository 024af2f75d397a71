"""Counter, gauge and histogram types without locks, written on the event loop and read at a scrape.

MetricFactory -> MetricFamily -> labels() -> Counter, Gauge or Histogram; at a scrape: collect() -> exposition

The types of prometheus_client take a lock and check their arguments at each observation: about 16 us for
the dozen observations of a request, whose whole call costs 200 us. The server records all metrics on the
event loop, so it needs no lock; a scrape from another thread may see only part of a request's
observations. Names, buckets and exposition formats are those of prometheus_client, which exports exemplars
only in the OpenMetrics format.
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


class Counter:
    """The value of a counter for one set of label values. What counts for each request adds to `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount


class Gauge(Counter):
    """The value of a gauge for one set of label values. `inc` takes negative amounts too."""

    __slots__ = ()

    def set(self, value: float) -> None:
        self.value = value


class Histogram:
    """The buckets of a histogram for one set of label values.

    Args:
        bounds: upper bounds of the buckets, ascending and inclusive; a last bucket has no bound.
    """

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # per bucket, not cumulative
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}  # the newest traced observation of a bucket

    def observe(self, value: float, count: int = 1) -> None:
        """Record `count` observations of the same value."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    def observe_traced(self, value: float, trace_id: str) -> None:
        """Record one observation and keep the trace id as the exemplar of its bucket."""
        self.observe(value)
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar({"trace_id": trace_id}, value, time.time())


Child = TypeVar("Child", Counter, Gauge, Histogram)


class MetricFamily(Collector, Generic[Child]):
    """A metric with one child per set of label values. It registers itself when it is created."""

    def __init__(
        self,
        registry: CollectorRegistry,
        type_: type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily],
        name: str,
        help_: str,
        labels: Sequence[str],
        create: Callable[[], Child],
        *,
        enabled: bool = True,
    ) -> None:
        self._type, self._name, self._help, self._labels = type_, name, help_, labels
        self._create: Callable[[], Child] = create
        self._enabled = enabled
        self._children: dict[tuple[str, ...], Child] = {}
        registry.register(self)

    def labels(self, *values: str) -> Child:
        """Return the child for these label values, given in the order of the label names.

        Raises:
            ValueError: wrong number of label values.
        """
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} needs values for the labels {self._labels}, not {values}")
            child = self._children[values] = self._create()
        return child

    def collect(self) -> Iterator[Metric]:
        family = self._type(self._name, self._help, labels=self._labels)
        for values, counted in list(self._children.items()):
            child = counted if self._enabled else self._create()
            if isinstance(child, Histogram):
                assert isinstance(family, HistogramMetricFamily)
                family.add_metric(values, _buckets(child), child.total)
            else:
                assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
                family.add_metric(values, child.value)
        yield family


class ScrapedFamily(Collector):
    """A metric whose values are read at each scrape, on the scrape's thread. It registers itself."""

    def __init__(
        self,
        registry: CollectorRegistry,
        type_: type[CounterMetricFamily | GaugeMetricFamily],
        name: str,
        help_: str,
        labels: Sequence[str],
    ) -> None:
        self._type, self._name, self._help, self._labels = type_, name, help_, labels
        self.read: Callable[[], Iterable[tuple[Sequence[str], float]]] = tuple
        """Returns (label values in the order of the label names, value) pairs."""
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        family = self._type(self._name, self._help, labels=self._labels)
        for values, value in self.read():
            family.add_metric(values, value)
        yield family


def _buckets(child: Histogram) -> list[Any]:
    """(upper bound, cumulative count, exemplar or None) of each bucket, as prometheus_client expects them."""
    cumulative = 0.0
    buckets: list[Any] = []
    exemplars = dict(child.exemplars)
    for index, (bound, count) in enumerate(
        zip((*child.bounds, float("inf")), list(child.counts), strict=True)
    ):
        cumulative += count
        buckets.append((floatToGoString(bound), cumulative, exemplars.get(index)))  # type: ignore[no-untyped-call]
    return buckets


class MetricFactory:
    """Creates metric families in one registry. With `enabled=False` they export nothing but zeros."""

    def __init__(self, registry: CollectorRegistry, *, enabled: bool = True) -> None:
        self._registry, self._enabled = registry, enabled

    def counter(self, name: str, help_: str, *labels: str) -> MetricFamily[Counter]:
        return self._family(CounterMetricFamily, name, help_, labels, Counter)

    def gauge(self, name: str, help_: str, *labels: str) -> MetricFamily[Gauge]:
        return self._family(GaugeMetricFamily, name, help_, labels, Gauge)

    def histogram(
        self, name: str, help_: str, bounds: Sequence[float], *labels: str
    ) -> MetricFamily[Histogram]:
        return self._family(HistogramMetricFamily, name, help_, labels, lambda: Histogram(bounds))

    def _family(
        self, type_: Any, name: str, help_: str, labels: Sequence[str], create: Callable[[], Child]
    ) -> MetricFamily[Child]:
        return MetricFamily(self._registry, type_, name, help_, labels, create, enabled=self._enabled)

    def scraped(self, name: str, help_: str, *labels: str) -> ScrapedFamily:
        """Create a gauge, or a counter if the name ends in `_total`, that is read at each scrape."""
        type_ = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        return ScrapedFamily(self._registry, type_, name, help_, labels)
