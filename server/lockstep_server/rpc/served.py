"""Models as the gRPC side sees them: the catalog, kept true by the host's news."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import port
from ..errors import ServingError, bad_input, not_found
from ..metrics import Metrics, ModelMeters, length_bucket
from ..models.catalog import Catalog, State
from .admission import Backlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..models.card import Card
    from ..models.catalog import Entry


@dataclass
class Statistics:
    """Counts and seconds since the model became ready, for ModelStatistics."""

    succeeded: int = 0
    success_s: float = 0.0
    failed: int = 0
    fail_s: float = 0.0
    queue_s: float = 0.0
    rows: int = 0
    runs: int = 0
    input_s: float = 0.0
    compute_s: float = 0.0
    output_s: float = 0.0
    last_ms: int = 0
    by_rows: Counter[int] = field(default_factory=Counter)
    seconds_by_rows: dict[int, tuple[float, float, float]] = field(default_factory=dict)

    def add_run(self, run: port.Run) -> None:
        self.runs += 1
        self.rows += run.rows
        self.input_s += run.input_s
        self.compute_s += run.compute_s
        self.output_s += run.output_s
        self.by_rows[run.rows] += 1
        a, b, c = self.seconds_by_rows.get(run.rows, (0.0, 0.0, 0.0))
        self.seconds_by_rows[run.rows] = (a + run.input_s, b + run.compute_s, c + run.output_s)

    def add_end(self, event: port.Event, seconds: float) -> None:
        self.queue_s += event.timings.queue_s
        self.last_ms = int(time.time() * 1000)
        if event.error is None:
            self.succeeded += 1
            self.success_s += seconds
        else:
            self.failed += 1
            self.fail_s += seconds


@dataclass(eq=False)
class Served:
    """A model version that is ready: its card, its backlog, its counts."""

    card: Card
    backlog: Backlog
    meters: ModelMeters
    statistics: Statistics = field(default_factory=Statistics)

    def take_runs(self, events: port.Events) -> None:
        """Count what the engine's runs did."""
        if events.sequences is not None:
            self.meters.populated(events.sequences)
        for run in events.runs:
            if not self.card.steps:
                self.backlog.learn_run(run)
            self.statistics.add_run(run)
            self.meters.rows(run.face).observe(run.rows)
            self.meters.elements.inc(run.elements)
            self.meters.padded.inc(run.padded_elements)
            self.meters.gate_wait.observe(run.gate_wait_s)

    def take_end(self, event: port.Event, seconds: float) -> None:
        self.statistics.add_end(event, seconds)
        if event.timings.steps:
            self.meters.queue.observe(event.timings.queue_s)
            self.meters.compute[length_bucket(event.length)].observe(event.timings.compute_s)


class Directory:
    """Who is served. All on the event loop."""

    def __init__(self, metrics: Metrics, on_change: Callable[[Directory], Awaitable[None]]) -> None:
        self.catalog = Catalog()
        self.device = "cpu"
        self._metrics, self._on_change = metrics, on_change
        self._served: dict[tuple[str, int], Served] = {}
        self._loads: dict[tuple[str, str], list[asyncio.Future[str]]] = {}
        self._changes: set[asyncio.Task[None]] = set()
        self._listed = False

    def resolve(self, name: str, version: str = "") -> Served:
        """
        Raises:
            ServingError: as `Catalog.resolve`.
        """
        entry = self.catalog.resolve(name, version)
        return self._served[entry.name, entry.version]

    def stepwise(self, name: str, version: str = "") -> Served:
        """The step-wise face of a model.

        Raises:
            ServingError: as `Catalog.resolve`; BAD_INPUT, the model has none.
        """
        served = self.resolve(name, version)
        if served.card.steps:
            return served
        face = self.get(f"{name}.step", served.card.version)
        if face is None or face.card.model != name:
            raise bad_input("model", f"model {name!r} has no step-wise face")
        return face

    def following(self, name: str, version: str = "") -> Served:
        """The face that follows a text element by element: the step-wise one where there is one.

        Raises:
            ServingError: as `Catalog.resolve`.
        """
        served = self.resolve(name, version)
        face = self.get(f"{name}.step", served.card.version)
        return face if face is not None and face.card.model == name else served

    def get(self, name: str, version: int) -> Served | None:
        return self._served.get((name, version))

    def ready(self) -> bool:
        """The repository has been read, and every model in it has ended its loading."""
        return self._listed and self.catalog.settled()

    async def listed(self) -> None:
        """Every model that there is has been told of."""
        self._listed = True
        await self._on_change(self)

    def serving(self, name: str) -> bool:
        """A request that names no version would be answered."""
        try:
            self.catalog.resolve(name)
        except ServingError:
            return False
        return True

    def update(self, news: port.ModelUpdate) -> None:
        """Take a model's new state in."""
        state = State[news.state]
        entry = self.catalog.entry(news.model, news.version)
        if entry is None or state is State.LOADING:
            entry = self.catalog.begin(news.model, news.version)
        entry.advance(state, news.reason, news.card)
        if state is State.READY and news.card is not None:
            self._begin_serving(entry, news)
        if state is State.UNAVAILABLE:
            self._served.pop((news.model, news.version), None)
        self._metrics.ready.labels(news.model, str(news.version)).set(state is State.READY)
        change = asyncio.ensure_future(self._on_change(self))
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)

    def _begin_serving(self, entry: Entry, news: port.ModelUpdate) -> None:
        card = entry.card
        assert card is not None
        stepwise = card.manifest.stepwise if card.steps else None
        slots = stepwise.max_sequences if stepwise else 0
        meters = ModelMeters(self._metrics, card.model, entry.version, self.device, card.face, slots)
        self._served[entry.name, entry.version] = Served(card, Backlog(card, news.costs or {}), meters)
        self._metrics.self_test.labels(entry.name, str(entry.version)).set(card.batched)
        self._metrics.provider.labels(entry.name, card.provider).set(1)

    def lost(self) -> None:
        """The engines have gone: no model is served until it has been loaded again."""
        for entry in list(self.catalog):
            if entry.card is not None and entry.card.model != entry.name:
                self.catalog.forget(entry)
            else:
                self.update(port.ModelUpdate(entry.name, entry.version, State.LOADING.name))
            self._metrics.ready.labels(entry.name, str(entry.version)).set(0)
        self._served.clear()
        for name, verb in list(self._loads):
            self.load_done(port.LoadDone(name, verb, "the engine process ended meanwhile"))

    def load_done(self, news: port.LoadDone) -> None:
        for future in self._loads.pop((news.model, news.verb), []):
            if not future.done():
                future.set_result(news.reason)

    async def wait_for(self, name: str, verb: str) -> None:
        """Until a Load or Unload that was sent has ended.

        Raises:
            ServingError: NOT_FOUND, with the reason why it went wrong.
        """
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._loads.setdefault((name, verb), []).append(future)
        if reason := await future:
            raise not_found(name, reason)
