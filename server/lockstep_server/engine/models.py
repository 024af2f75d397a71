"""The loaded models: routes messages to their engines, and loads and unloads to `ModelChanges`.

`Infer`, `Generate` or `Step` → the model's engine → `Events`
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .. import messages
from ..errors import ErrorCode, LoadError, ServingError, failed, unavailable
from .loading import repository
from .loading.loader import Loader
from .model_changes import ModelChanges
from .model_table import ModelTable
from .oneshot.engine import OneShotEngine
from .recorder import RunRecorder
from .runtime.device import RUNTIME_VERSION, choose_device
from .runtime.device_scheduler import DeviceScheduler
from .runtime.run_watch import RunWatch
from .stepwise.engine import StepEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .loading.loader import LoadedModel

log = logging.getLogger(__name__)

AcceptedRequests = dict[OneShotEngine, list[messages.Infer]]
"""One-shot requests that are about to be queued, by engine."""

_END_S = 3.0
"""How long the engines may take to end, beyond the time that their requests get."""


class LoadedModels:
    """Implements `messages.Engine`. `receive` is called by one thread at a time; loading has another."""

    def __init__(self, config: messages.EngineConfig) -> None:
        self._config = config
        self._roots = tuple(map(Path, (config.models, *config.more_models)))
        memory_bytes = config.gpu_memory_mb << 20
        device = choose_device(config.device, config.device_id, memory_bytes, config.state_values)
        self.info = messages.EngineInfo(device.name, RUNTIME_VERSION, _leases(device.name))
        self.device_scheduler = DeviceScheduler(self.info.leases, config.max_run_s)
        self._watch = RunWatch(
            config.run_limit_s, config.load_limit_s, self._slow, self._stuck, on_step=self._load_step
        )
        self._recorder = RunRecorder(config.recorded_runs)
        loader = Loader(config, device, self.device_scheduler, self._watch, self._recorder)
        self._table = ModelTable()
        self._changes = ModelChanges(config, loader, self._table, self._report_results, self._watch)
        self._engine_of: dict[int, OneShotEngine | StepEngine] = {}
        self._frozen_at: dict[int, StepEngine] = {}  # by the key of the request that froze a sequence
        self._report: Callable[[messages.EngineUpdate], None] = lambda _: None

    # --- messages.Engine ----------------------------------------------------------------------------

    def start(self, report: Callable[[messages.EngineUpdate], None]) -> None:
        """Report every model of the repository as LOADING, then load them one by one.

        Raises:
            LoadError: the repository does not exist, or a selected model does not.
        """
        self._report = report
        entries, places = repository.find_models(*self._roots), ", ".join(map(str, self._roots))
        for root in self._roots:
            for name in repository.folders_without_versions(root):
                log.warning("%s holds no model version; add one as 1/model.onnx", root / name)
        config = self._config
        if config.selected:
            names = {entry.name for entry in entries}
            for name in config.selected:
                if name not in names and not config.restart:
                    available = ", ".join(sorted(names)) or "none"
                    raise LoadError(f"--only {name}: unknown model in {places}; available: {available}")
            entries = [entry for entry in entries if entry.name in config.selected]
        entries = [entry for entry in entries if entry.name not in config.unloaded]
        if not entries:
            log.warning("no model in %s; add one as NAME/1/model.onnx", places)
        self._watch.start()
        self._changes.start(entries)

    def receive(
        self, batch: Sequence[messages.Message], *, may_run: bool = False
    ) -> Callable[[], None] | None:
        """Take over messages. `may_run` and the returned run as in `OneShotEngine.submit`."""
        with self._table.lock:
            return self._receive(batch, may_run=may_run)

    def _receive(self, batch: Sequence[messages.Message], *, may_run: bool) -> Callable[[], None] | None:
        accepted: AcceptedRequests = {}
        for message in batch:
            try:
                if isinstance(message, messages.Infer):
                    self._accept_oneshot(message, accepted)
                else:
                    self._receive_one(message, accepted)
            except Exception:  # concerns this message only
                log.exception("handling a %s failed", type(message).__name__)
                if isinstance(message, messages.Infer | messages.Generate | messages.Step):
                    self._engine_of.pop(message.key, None)
                    self._reject(message, failed(message.model))
                elif isinstance(message, messages.GetSequence | messages.PutSequence):
                    error = failed(message.model)
                    self._report(messages.SequenceAnswer(key=message.key, model=message.model, error=error))
        return self._queue(accepted, may_run=may_run and len(accepted) == 1)

    def _receive_one(self, message: messages.Message, accepted: AcceptedRequests) -> None:
        match message:
            case messages.Generate() | messages.Step():
                self._accept(message)
            case messages.Cancel(key):
                self._queue(accepted)
                self._cancel(key)
            case messages.Load() | messages.Unload():
                self._changes.begin(message)
            case messages.Credit(key, n):
                if isinstance(engine := self._engine_of.get(key), StepEngine):
                    engine.credit(key, n)
            case messages.EndSequence():
                self._end_sequence(message)
            case messages.Heartbeat():
                self._report(message)
            case messages.FindSequence(key, model, sequence):
                self._report(messages.SequenceFound(key, self._table.load_of(model, sequence)))
            case messages.GetSequence() | messages.PutSequence():
                self._carry(message)
            case messages.ThawSequence():
                if (frozen := self._frozen_at.pop(message.key, None)) is not None:
                    frozen.thaw_sequence(message)
            case messages.ListSequences(key):
                self._report(messages.SequenceList(key, self._live_sequences()))
            case messages.GetEngineStats():
                self._report(messages.EngineStats(gc.get_stats(), self._sequences()))
            case messages.GetRuns(key, after, model, most):
                self._report(messages.RunRecords(key, *self._recorder.read(after, model, most)))
            case messages.SetFlushInterval(flush_s):
                self._changes.flush_s = flush_s
                for engine in self._engines():
                    if isinstance(engine, StepEngine):
                        engine.set_flush_interval(flush_s)

    def end_front_end(self, number: int) -> None:
        """A front end has ended: cancel its requests, and end the sequences of its `Follow` streams. Those
        that callers drive by an id of their own go on over another front end, but for those that it was
        moving: another server may have them."""
        with self._table.lock:
            for key in list(self._frozen_at):
                if messages.front_end_of(key) == number:
                    lost = "was being moved by a process that has ended"
                    self._frozen_at.pop(key).thaw_sequence(messages.ThawSequence(key=key, lost=lost))
            for key in list(self._engine_of):
                if messages.front_end_of(key) == number:
                    self._cancel(key)
            modes = [*self._table.modes.values(), *self._table.replaced.modes()]
            for spec, engine in [(mode.spec, mode.engine) for mode in modes]:
                for sequence in engine.live_sequences() if isinstance(engine, StepEngine) else ():
                    if isinstance(sequence, tuple) and not sequence[0]:
                        own = isinstance(sequence[1], int) and messages.front_end_of(sequence[1]) == number
                        if own:
                            self._end_sequence(messages.EndSequence(spec.name, spec.version, sequence))

    def stop(self, within_s: float) -> None:
        self._changes.stop()
        stops = [
            threading.Thread(target=engine.stop, args=(within_s,), daemon=True) for engine in self._engines()
        ]
        for stop in stops:
            stop.start()
        end = time.monotonic() + within_s + _END_S
        for stop in stops:
            stop.join(max(end - time.monotonic(), 0.0))
        self._watch.terminate()  # loads

    # --- inspection ---------------------------------------------------------------------------------

    def get(self, name: str, version: int) -> LoadedModel:
        """The model in service with this name; a step-wise form beside a one-shot form is `name.step`.

        Raises:
            KeyError: no such model is in service.
        """
        return self._table.modes[name, version]

    def names(self) -> list[tuple[str, int]]:
        """The names and versions of all models in service."""
        return list(self._table.modes)

    def replaced(self) -> list[LoadedModel]:
        """The modes that others have replaced and that still hold sequences."""
        return self._table.replaced.modes()

    def in_flight(self) -> int:
        """The number of requests that are routed to an engine or held by one."""
        return max(sum(engine.in_flight() for engine in self._engines()), len(self._engine_of))

    def _sequences(self) -> list[tuple[str, int, messages.SequenceCounts, int]]:
        modes = list(self._table.modes.values())
        return [
            (mode.spec.name, mode.spec.version, *mode.engine.counts())
            for mode in modes
            if isinstance(mode.engine, StepEngine)
        ]

    def _live_sequences(self) -> list[messages.LiveSequence]:
        """Each sequence that a caller drives, and each text that waits for its stream."""
        modes = [*self._table.modes.values(), *self._table.replaced.modes()]
        return [
            messages.LiveSequence(mode.spec.name, mode.spec.version, sequence)
            for mode in modes
            if isinstance(mode.engine, StepEngine)
            for sequence in (*mode.engine.live_sequences(), *mode.engine.put_texts())
        ]

    def _engines(self) -> list[OneShotEngine | StepEngine]:
        modes = [*list(self._table.modes.values()), *self._table.replaced.modes()]
        return [mode.engine for mode in modes]

    # --- requests -----------------------------------------------------------------------------------

    def _accept_oneshot(self, request: messages.Infer, accepted: AcceptedRequests) -> None:
        """Add a request to `accepted`, or reject it."""
        loaded = self._table.modes.get((request.model, request.version))
        if loaded is None:
            self._reject(request, unavailable(f"model {request.model!r} is being unloaded"))
            return
        engine = self._engine_of[request.key] = loaded.engine
        assert isinstance(engine, OneShotEngine)  # the front end checked it against the spec
        accepted.setdefault(engine, []).append(request)

    def _accept(self, request: messages.Generate | messages.Step) -> None:
        """Submit a request to its step-wise engine, or reject it."""
        if isinstance(request, messages.Step) and request.start:
            self._table.note_start(request)
        if (
            isinstance(request, messages.Step)
            and (engine := self._table.replaced.engine_of(request)) is not None
        ):
            self._engine_of[request.key] = engine
            engine.submit(request)
            return
        loaded = self._table.modes.get((request.model, request.version))
        if loaded is None:
            self._reject(request, unavailable(f"model {request.model!r} is being unloaded"))
            return
        self._engine_of[request.key] = loaded.engine
        assert isinstance(loaded.engine, StepEngine)
        loaded.engine.submit(request)

    def _queue(self, accepted: AcceptedRequests, *, may_run: bool = False) -> Callable[[], None] | None:
        """Submit all accepted requests, with one call per engine, which wakes it once."""
        run = None
        for engine, requests in accepted.items():
            try:
                run = engine.submit(requests, may_run=may_run)
            except Exception:  # concerns this model's requests only
                log.exception("%s: queueing requests failed", engine.spec.name)
                for request in requests:
                    self._cancel(request.key)
                    self._reject(request, failed(request.model))
        accepted.clear()
        return run

    def _end_sequence(self, end: messages.EndSequence) -> None:
        if self._table.replaced.end_sequence(end):
            return
        loaded = self._table.modes.get((end.model, end.version))
        if loaded is not None and isinstance(loaded.engine, StepEngine):
            loaded.engine.end_sequence(end.sequence)

    def _carry(self, request: messages.GetSequence | messages.PutSequence) -> None:
        """Pass a request for the state of a sequence to its engine."""
        key, loaded = (
            (request.model, request.version),
            self._table.modes.get((request.model, request.version)),
        )
        engine = loaded.engine if loaded is not None else None
        if isinstance(request, messages.PutSequence):
            self._table.note_start(request)
        elif request.sequence is None:
            engine = self._engine_of.get(request.stream)
        else:
            engine = self._table.replaced.engine_with(key, request.sequence) or engine
        if not isinstance(engine, StepEngine):
            if isinstance(request, messages.GetSequence) and request.sequence is None:
                why = "no stream of this id is open; it may have ended"
                error = ServingError(ErrorCode.SEQUENCE_LOST, why)
            else:
                error = unavailable(f"model {request.model!r} is being unloaded")
            self._report(messages.SequenceAnswer(key=request.key, model=request.model, error=error))
        elif isinstance(request, messages.PutSequence):
            engine.put_sequence(request)
        else:
            if request.freeze:
                self._frozen_at[request.key] = engine
            engine.get_sequence(request)

    def _reject(self, request: messages.Request, error: ServingError) -> None:
        rejected = messages.Event(key=request.key, error=error)
        self._report(messages.Events(model=request.model, version=request.version, events=[rejected]))

    def _cancel(self, key: int) -> None:
        engine = self._engine_of.pop(key, None)
        if engine is not None:
            engine.cancel(key)

    def _report_results(self, update: messages.EngineUpdate) -> None:
        if isinstance(update, messages.Events):
            for event in update.events:
                self._engine_of.pop(event.key, None)
        elif isinstance(update, messages.BatchingOff):
            model, version, reason = update.model, update.version, update.reason
            log.error(
                "model %s/%d is not batched any more: %s; each request runs alone", model, version, reason
            )
        self._report(update)

    # --- runs and loads that take too long ------------------------------------------------------------

    def _slow(self, thread: int) -> None:
        """Let other runs and loads go on beside a slow one."""
        self.device_scheduler.give_up(thread)
        self._changes.advance()

    def _stuck(self, owner: str, why: str) -> None:
        """A run or load does not end. The front end ends the engine's process, if it has one of its own;
        otherwise the model is taken out of service, and the thread is lost."""
        name, _, version = owner.rpartition("/")
        reason = f"{why}; it is not loaded again by itself"
        log.error("model %s is stuck: %s", owner, reason)
        self._report(messages.ModelStuck(name, int(version), reason))
        self._changes.give_up(name, int(version), reason)

    def _load_step(self, owner: str, step: str) -> None:
        name, _, version = owner.rpartition("/")
        self._report(messages.LoadStep(name, int(version), step))


def _leases(device: str) -> int:
    """The number of concurrent runs from which the device gains throughput."""

    return 1 if device == "cuda" else os.cpu_count() or 1
