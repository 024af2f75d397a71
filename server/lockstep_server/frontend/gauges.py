"""What is true of the models now, told to Prometheus at each scrape, on the scrape's thread.

Where a name has several versions, what is told of the name is of all that serve: sums, and the
longest wait.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ..metrics.families import STATES
from .catalog import VersionState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..metrics.families import Metrics
    from .registry import ModelRegistry, ServedModel

Level = tuple[tuple[str, ...], float]

_ROWS = (1, 4, 16, 64)
_LENGTHS = (16, 64, 256)
"""The cells of a one-shot model's costs that are told."""


class GaugeReader:
    """Reads a directory that the event loop writes: copies first, for it goes on writing."""

    def __init__(self, metrics: Metrics, registry: ModelRegistry) -> None:
        self._registry = registry
        metrics.ready.read = self._ready
        metrics.state.read = self._states
        metrics.load_seconds.read = lambda: [(_who(one), one.load_s) for one in self._served()]
        metrics.batched.read = lambda: [(_who(one), float(one.spec.batched)) for one in self._served()]
        metrics.provider.read = self._providers
        metrics.estimated_wait.read = lambda: _worst(
            (one.spec.model, one.admission.estimated_wait_s()) for one in self._oneshot()
        )
        metrics.queue_limit.read = lambda: _worst(
            (one.spec.model, one.admission.max_queue_s) for one in self._oneshot()
        )
        metrics.sequences.read = self._sequences
        metrics.slots.read = lambda: _sums(
            ((one.spec.model,), float(one.slots)) for one in self._served() if one.slots
        )
        metrics.run_cost.read = self._costs

    def _served(self) -> list[ServedModel]:
        return self._registry.served()

    def _oneshot(self) -> Iterator[ServedModel]:
        return (one for one in self._served() if not one.spec.steps)

    def _ready(self) -> list[Level]:
        return [
            ((entry.name, str(entry.version)), float(entry.state is VersionState.READY))
            for entry in self._registry.catalog.snapshot()
        ]

    def _states(self) -> list[Level]:
        return [
            ((entry.name, str(entry.version), state.name.lower()), float(entry.state is state))
            for entry in self._registry.catalog.snapshot()
            for state in VersionState
        ]

    def _providers(self) -> list[Level]:
        found = {(one.spec.name, one.spec.provider) for one in self._served()}
        return [(labels, 1.0) for labels in sorted(found)]

    def _sequences(self) -> Iterable[Level]:
        return _sums(
            ((one.spec.model, state), float(count))
            for one in self._served()
            if one.slots
            for state, count in zip(STATES, one.population, strict=True)
        )

    def _costs(self) -> list[Level]:
        """Of one version of each face, the highest."""
        newest = {(one.spec.name): one for one in self._served()}
        return [level for one in newest.values() for level in _cells(one)]


def _who(served: ServedModel) -> tuple[str, str]:
    return served.spec.name, str(served.spec.version)


def _cells(served: ServedModel) -> Iterator[Level]:
    spec, admission = served.spec, served.admission
    if spec.steps:
        for rows, seconds in sorted(served.step_costs.copy().items()):
            yield (spec.model, spec.mode, str(rows), "1"), seconds
        return
    longest = sum(length.max for length in spec.manifest.lengths.values())
    for length in (length for length in _LENGTHS if length <= longest):
        for rows in (rows for rows in _ROWS if admission.fits(rows, length)):
            yield (spec.model, spec.mode, str(rows), str(length)), admission.run_s(rows, length)


def _sums(gauges: Iterable[Level]) -> Iterable[Level]:
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for labels, value in gauges:
        found[labels] += value
    return found.items()


def _worst(waits: Iterable[tuple[str, float]]) -> list[Level]:
    found: dict[str, float] = {}
    for model, wait in waits:
        found[model] = max(found.get(model, 0.0), wait)
    return [((model,), wait) for model, wait in found.items()]
