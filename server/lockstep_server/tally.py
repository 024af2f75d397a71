"""Counters and histograms for one writing thread, read by Prometheus at a scrape.

prometheus_client's own take a lock and check their arguments at each observation: about 16 us a
request for the dozen that a request makes, where a plain call costs 200 us in all. Everything the
server counts is counted on the event loop, so plain numbers do; a scrape from another thread may
see one observation of two. Names, buckets and exposition stay prometheus_client's.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric


class Number:
    """A counter's or a gauge's child."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def set(self, value: float) -> None:
        self.value = value


class Distribution:
    """A histogram's child: how many observations fell under each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count


Child = TypeVar("Child", Number, Distribution)


class Family(Collector, Generic[Child]):
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
            if isinstance(child, Distribution):
                assert isinstance(family, HistogramMetricFamily)
                family.add_metric(values, _buckets(child), child.total)
            else:
                assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
                family.add_metric(values, child.value)
        yield family


def _buckets(child: Distribution) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound, as the exposition wants them."""
    below = 0.0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*child.bounds, float("inf")), list(child.counts), strict=True):
        below += count
        buckets.append((floatToGoString(bound), below))  # type: ignore[no-untyped-call]
    return buckets


def counter(registry: CollectorRegistry, name: str, text: str, labels: Sequence[str]) -> Family[Number]:
    return Family(registry, CounterMetricFamily, name, text, labels, Number)


def gauge(registry: CollectorRegistry, name: str, text: str, labels: Sequence[str]) -> Family[Number]:
    return Family(registry, GaugeMetricFamily, name, text, labels, Number)


def histogram(
    registry: CollectorRegistry, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]
) -> Family[Distribution]:
    return Family(registry, HistogramMetricFamily, name, text, labels, lambda: Distribution(bounds))
