"""The flight recorder: the latest runs of each model, kept in memory for whoever asks.

engine thread → `ModelRecorder.add` → a ring per model and kind of run → `RunRecorder.read` → `RunRecords`

Each model and kind has a ring of its own, so that thousands of steps a second push no one-shot run out.
A record refers to the `Run` that metrics get anyway. It holds sizes, times and request keys.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ..messages import RunRecord

if TYPE_CHECKING:
    from ..messages import Run
    from ..model.spec import ModelSpec

_NUMBER = attrgetter("number")

_MOST_SHAPES = 4096
"""Shapes of runs that are remembered as seen, of each loaded model. Later ones count as seen."""


class RunRecorder:
    """The runs of all models, numbered from 1 in the order in which they are recorded. Thread-safe.

    Args:
        size: the most runs to keep of each model and kind; 0 records nothing.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._last = 0
        self._rings: dict[tuple[str, int, str], tuple[str, deque[RunRecord]]] = {}

    def of(self, spec: ModelSpec) -> ModelRecorder:
        """The recorder of a model that is loaded. Runs of the same model loaded before stay in its rings."""
        return ModelRecorder(self, spec)

    def ring(self, spec: ModelSpec, kind: str) -> deque[RunRecord]:
        with self._lock:
            key = spec.name, spec.version, kind
            return self._rings.setdefault(key, (spec.model, deque(maxlen=self.size)))[1]

    def append(self, ring: deque[RunRecord], *fields: Any) -> None:
        """Append a record of the next number and the other fields."""
        with self._lock:  # so that `read` misses no number below the last
            self._last = number = self._last + 1
            ring.append(RunRecord(number, *fields))

    def read(self, after: int, model: str, most: int) -> tuple[list[RunRecord], bool]:
        """The first `most` runs with a number above `after`, and whether there are more.

        Args:
            after: a number above the last one is of an engine process that has ended; it counts as 0.
            model: only runs of this model, or of this form of one; "" is every model.
        """
        with self._lock:
            last, rings = self._last, list(self._rings.items())
        after = after if after <= last else 0
        found: list[RunRecord] = []
        for (name, _, _), (base, ring) in rings:
            if model in ("", name, base):
                runs = list(ring)  # at once: the interpreter lock is not released meanwhile
                start = bisect_right(runs, after, key=_NUMBER)
                found += runs[start : start + most + 1]
        found = sorted((run for run in found if run.number <= last), key=_NUMBER)
        return found[:most], len(found) > most


class ModelRecorder:
    """Records the runs of one loaded model or form of a model. Any of the engine's threads may call it."""

    def __init__(self, recorder: RunRecorder, spec: ModelSpec) -> None:
        self._recorder, self._spec = recorder, spec
        self._name, self._version = spec.name, spec.version
        self._rings: dict[str, deque[RunRecord]] = {}
        self._shapes: set[tuple[str, int, int]] = set()

    def add(
        self,
        kind: str,
        begun: float,
        rows: int,
        run: Run,
        requests: tuple[int, ...],
        queue_s: float = 0.0,
        joined: tuple[int, ...] = (),
        left: tuple[int, ...] = (),
        failed: bool = False,
    ) -> None:
        """Record a run. The arguments are the fields of `RunRecord`."""
        if not self._recorder.size:
            return
        ring = self._rings.get(kind)
        if ring is None:
            ring = self._rings[kind] = self._recorder.ring(self._spec, kind)
        shape = (kind, run.padded_elements, run.length)
        if cold := shape not in self._shapes and len(self._shapes) < _MOST_SHAPES:
            self._shapes.add(shape)
        self._recorder.append(
            ring,
            self._name,
            self._version,
            kind,
            begun,
            rows,
            run,
            requests,
            joined,
            left,
            queue_s,
            cold,
            failed,
        )


OFF = RunRecorder(0)
"""Records nothing."""
