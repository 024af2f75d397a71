"""Metrics of several processes as one page.

a process's registry -> `take` -> families as plain data, which can be sent -> `merge` -> one set of families
-> `PageCollector`, for the exposition
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

from ..supervision import MetricPage, MetricSample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client import CollectorRegistry

_ADDED = frozenset(
    (
        "lockstep_queue_depth",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
    )
)
"""Gauges of which the processes have a part each."""

_LEAST = frozenset(("process_max_fds", "process_start_time_seconds"))
"""Gauges that show their lowest value. All other gauges show their highest."""


def take(registry: CollectorRegistry) -> list[MetricPage]:
    """The families of a registry."""
    return [
        MetricPage(
            family.name,
            family.documentation,
            family.type,
            [
                MetricSample(one.name, dict(one.labels), float(one.value), _plain(one.exemplar))
                for one in family.samples
            ],
        )
        for family in registry.collect()
    ]


def _plain(exemplar: Exemplar | None) -> tuple[dict[str, str], float, float | None] | None:
    if exemplar is None:
        return None
    at = exemplar.timestamp
    return dict(exemplar.labels), float(exemplar.value), None if at is None else float(at)


def merge(processes: Iterable[Sequence[MetricPage]]) -> list[MetricPage]:
    """One set of families: counters and histograms are added up, gauges as `_ADDED` and `_LEAST` say. The
    newest exemplar of a bucket stays."""
    families: dict[str, MetricPage] = {}
    found: dict[str, dict[tuple[Any, ...], MetricSample]] = {}
    for page in (page for pages in processes for page in pages):
        families.setdefault(page.name, page)
        samples = found.setdefault(page.name, {})
        combine = _how(page)
        for sample in page.samples:
            key = sample.name, *sorted(sample.labels.items())
            before = samples.get(key)
            samples[key] = sample if before is None else _combined(before, sample, combine)
    return [page._replace(samples=list(found[name].values())) for name, page in families.items()]


def _how(page: MetricPage) -> Callable[[float, float], float]:
    if page.type != "gauge" or page.name in _ADDED:
        return float.__add__
    return min if page.name in _LEAST else max


def _combined(one: MetricSample, other: MetricSample, how: Callable[[float, float], float]) -> MetricSample:
    exemplars = [exemplar for exemplar in (one.exemplar, other.exemplar) if exemplar is not None]
    newest = max(exemplars, key=lambda exemplar: exemplar[2] or 0.0, default=None)
    return one._replace(value=how(one.value, other.value), exemplar=newest)


def counted(pages: Sequence[MetricPage]) -> list[MetricPage]:
    """What stays of a process that has ended: its counters and histograms. So no counter of the server ever
    goes back."""
    return [page for page in pages if page.type in ("counter", "histogram")]


class PageCollector(Collector):
    """Shows what `pages` returns at each scrape. Called on the scrape's thread."""

    def __init__(self, pages: Callable[[], Sequence[MetricPage]]) -> None:
        self._pages = pages

    def collect(self) -> Iterator[Metric]:
        for page in self._pages():
            family = Metric(page.name, page.help, page.type)
            family.samples = [
                Sample(
                    one.name, one.labels, one.value, None, Exemplar(*one.exemplar) if one.exemplar else None
                )
                for one in page.samples
            ]
            yield family
