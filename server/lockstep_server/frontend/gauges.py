"""Gauges of the served models, read at each scrape, on the scrape's thread.

A gauge without a version label covers all versions that serve: sums, and the longest wait.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ..metrics.families import STATES
from .versions import VersionState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..metrics.families import Metrics
    from .registry import ModelRegistry
    from .served_model import ServedModel

GaugeSample = tuple[tuple[str, ...], float]

_ROWS = (1, 4, 16, 64)
_LENGTHS = (16, 64, 256)
"""Batch shapes whose costs are exported for a one-shot model."""


class GaugeReader:
    """Reads the registry from the scrape's thread. It copies first, because the event loop keeps writing.

    `all_`: what is the same at each of several front ends too.
    """

    def __init__(self, metrics: Metrics, registry: ModelRegistry, *, all_: bool = True) -> None:
        self._registry = registry
        metrics.estimated_wait.read = lambda: _longest(
            (one.spec.model, one.admission.estimated_wait_s()) for one in self._oneshot()
        )
        metrics.run_cost.read = self._costs
        if not all_:
            return
        metrics.ready.read = self._ready
        metrics.state.read = self._states
        metrics.load_seconds.read = lambda: [(_labels(one), one.load_s) for one in self._served()]
        metrics.batched.read = lambda: [(_labels(one), float(one.spec.batched)) for one in self._served()]
        metrics.provider.read = self._providers
        metrics.queue_limit.read = lambda: _longest(
            (one.spec.model, one.admission.max_queue_s) for one in self._oneshot()
        )
        metrics.sequences.read = self._sequences
        metrics.slots.read = lambda: _sums(
            ((one.spec.model,), float(one.slots)) for one in self._served() if one.slots
        )
        metrics.state_bytes.read = lambda: _sums(
            ((one.spec.model,), float(one.state_bytes)) for one in self._served() if one.slots
        )

    def _served(self) -> list[ServedModel]:
        return self._registry.served_models()

    def _oneshot(self) -> Iterator[ServedModel]:
        return (one for one in self._served() if not one.spec.is_stepwise)

    def _ready(self) -> list[GaugeSample]:
        return [
            ((entry.name, str(entry.version)), float(entry.serves))
            for entry in self._registry.versions.snapshot()
        ]

    def _states(self) -> list[GaugeSample]:
        return [
            ((entry.name, str(entry.version), state.name.lower()), float(entry.state is state))
            for entry in self._registry.versions.snapshot()
            for state in VersionState
        ]

    def _providers(self) -> list[GaugeSample]:
        found = {(one.spec.name, one.spec.provider) for one in self._served()}
        return [(labels, 1.0) for labels in sorted(found)]

    def _sequences(self) -> Iterable[GaugeSample]:
        return _sums(
            ((one.spec.model, state), float(count))
            for one in self._served()
            if one.slots
            for state, count in zip(STATES, one.sequence_counts, strict=True)
        )

    def _costs(self) -> list[GaugeSample]:
        """The costs of the highest version of each model and mode."""
        newest = {(one.spec.name): one for one in self._served()}
        return [sample for one in newest.values() for sample in _cost_samples(one)]


def _labels(served: ServedModel) -> tuple[str, str]:
    return served.spec.name, str(served.spec.version)


def _cost_samples(served: ServedModel) -> Iterator[GaugeSample]:
    spec, admission = served.spec, served.admission
    if spec.is_stepwise:
        for rows, seconds in sorted(served.step_costs.copy().items()):
            yield (spec.model, spec.mode, str(rows), "1"), seconds
        return
    longest = sum(length.max for length in spec.manifest.lengths.values())
    for length in (length for length in _LENGTHS if length <= longest):
        for rows in (rows for rows in _ROWS if admission.fits(rows, length)):
            yield (spec.model, spec.mode, str(rows), str(length)), admission.run_s(rows, length)


def _sums(samples: Iterable[GaugeSample]) -> Iterable[GaugeSample]:
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for labels, value in samples:
        found[labels] += value
    return found.items()


def _longest(waits: Iterable[tuple[str, float]]) -> list[GaugeSample]:
    found: dict[str, float] = {}
    for model, wait in waits:
        found[model] = max(found.get(model, 0.0), wait)
    return [((model,), wait) for model, wait in found.items()]
