"""The loaded models: loads and unloads them, and routes messages to their engines.

`Infer`, `Generate` or `Step` → the model's engine → `Events`

An error while loading a model makes that model UNAVAILABLE; the others keep serving.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from .. import messages
from ..errors import LoadError, unavailable
from .loading import repository
from .loading.loader import Loader, describe
from .oneshot.engine import OneShotEngine
from .runtime.device_scheduler import DeviceScheduler
from .runtime.session import RUNTIME_VERSION, choose_device
from .stepwise.engine import StepEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..errors import ServingError
    from .loading.loader import LoadedModel
    from .loading.repository import RepositoryEntry

log = logging.getLogger(__name__)

AcceptedRequests = dict[OneShotEngine, list[messages.Infer]]
"""One-shot requests that are about to be queued, by engine."""

_STOPPING = "the server is stopping"
_UNLOAD_S = 10.0
"""How long a model that is being unloaded may take to answer its requests."""


class LoadedModels:
    """Implements `messages.Engine`. `receive` is called by one thread at a time; loading has another."""

    def __init__(self, config: messages.EngineConfig) -> None:
        self._config = config
        self._root = Path(config.models)
        device = choose_device(config.device)
        self.info = messages.EngineInfo(device, RUNTIME_VERSION, _leases(device))
        self.device_scheduler = DeviceScheduler(self.info.leases, config.max_run_s)
        self._loader = Loader(config, self._root, device, self.device_scheduler)
        self._models: dict[tuple[str, int], LoadedModel] = {}
        self._engine_of: dict[int, OneShotEngine | StepEngine] = {}
        self._loading_thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._report: Callable[[messages.EngineUpdate], None] = lambda _: None
        self._stopping = threading.Event()
        self._flush_s = 0.0

    # --- messages.Engine ----------------------------------------------------------------------------

    def start(self, report: Callable[[messages.EngineUpdate], None]) -> None:
        """Report every model of the repository as LOADING, then load them one by one.

        Raises:
            LoadError: the repository does not exist, or a selected model does not.
        """
        self._report = report
        entries = repository.find_models(self._root)
        for name in repository.folders_without_versions(self._root):
            log.warning("%s holds no model version; add one as 1/model.onnx", self._root / name)
        config = self._config
        if config.selected:
            names = {entry.name for entry in entries}
            for name in config.selected:
                if name not in names and not config.restart:
                    available = ", ".join(sorted(names)) or "none"
                    raise LoadError(f"--only {name}: unknown model in {self._root}; available: {available}")
            entries = [entry for entry in entries if entry.name in config.selected]
        entries = [entry for entry in entries if entry.name not in config.unloaded]
        if not entries:
            log.warning("no model in %s; add one as NAME/1/model.onnx", self._root)
        for entry in entries:
            self._report_state(entry, "LOADING")
        for entry in entries:
            self._loading_thread.submit(self._load, entry)

    def receive(self, batch: Sequence[messages.Message]) -> None:
        accepted: AcceptedRequests = {}
        for message in batch:
            match message:
                case messages.Infer() | messages.Generate() | messages.Step():
                    self._accept(message, accepted)
                case messages.Cancel(key):
                    self._queue(accepted)
                    self._cancel(key)
                case messages.Load(name, key):
                    self._begin(self._reload, messages.LoadDone(name, "load", key=key))
                case messages.Unload(name, key):
                    self._begin(self._unload, messages.LoadDone(name, "unload", key=key))
                case messages.Credit(key, n):
                    if isinstance(engine := self._engine_of.get(key), StepEngine):
                        engine.credit(key, n)
                case messages.EndSequence(name, version, sequence):
                    self._end_sequence(name, version, sequence)
                case messages.GetEngineStats():
                    self._report(messages.EngineStats(gc.get_stats()))
                case messages.SetFlushInterval(flush_s):
                    self._flush_s = flush_s
                    for loaded in list(self._models.values()):
                        if isinstance(loaded.engine, StepEngine):
                            loaded.engine.set_flush_interval(flush_s)
        self._queue(accepted)

    def stop(self, within_s: float) -> None:
        self._stopping.set()
        self._loading_thread.shutdown(wait=False, cancel_futures=True)
        for loaded in list(self._models.values()):
            loaded.engine.stop(within_s)

    # --- inspection ---------------------------------------------------------------------------------

    def get(self, name: str, version: int) -> LoadedModel:
        """The model in service with this name; a step-wise form beside a one-shot form is `name.step`.

        Raises:
            KeyError: no such model is in service.
        """
        return self._models[name, version]

    def names(self) -> list[tuple[str, int]]:
        """The names and versions of all models in service."""
        return list(self._models)

    def in_flight(self) -> int:
        """The number of requests that are routed to an engine or held by one."""
        engines = [loaded.engine for loaded in list(self._models.values())]
        return max(sum(engine.in_flight() for engine in engines), len(self._engine_of))

    # --- requests -----------------------------------------------------------------------------------

    def _accept(self, request: messages.Request, accepted: AcceptedRequests) -> None:
        """Submit the request to its step-wise engine, add it to `accepted`, or reject it."""
        loaded = self._models.get((request.model, request.version))
        if loaded is None:
            self._reject(request, unavailable(f"model {request.model!r} is being unloaded"))
            return
        self._engine_of[request.key] = loaded.engine
        if isinstance(request, messages.Infer):
            assert isinstance(loaded.engine, OneShotEngine)  # the front end checked it against the spec
            accepted.setdefault(loaded.engine, []).append(request)
        else:
            assert isinstance(loaded.engine, StepEngine)
            loaded.engine.submit(request)

    def _queue(self, accepted: AcceptedRequests) -> None:
        """Submit all accepted requests, with one call per engine, which wakes it once."""
        for engine, requests in accepted.items():
            engine.submit(requests)
        accepted.clear()

    def _end_sequence(self, name: str, version: int, sequence: messages.SequenceId) -> None:
        loaded = self._models.get((name, version))
        if loaded is not None and isinstance(loaded.engine, StepEngine):
            loaded.engine.end_sequence(sequence)

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

    # --- loading ------------------------------------------------------------------------------------

    def _report_state(self, entry: RepositoryEntry, state: str, error: LoadError | None = None) -> None:
        self._report(
            messages.ModelUpdate(
                model=entry.name,
                version=entry.version,
                state=state,
                reason=_encodable(str(error)) if error else "",
                public_reason=_encodable(self._without_root(error.message)) if error else "",
            )
        )

    def _without_root(self, text: str) -> str:
        """A text with paths relative to the repository: callers see no others."""
        for root in (self._root.resolve(), self._root):
            text = text.replace(f"{root}{os.sep}", "")
        return text

    def _load(self, entry: RepositoryEntry) -> str:
        """Load a version, and only then replace what serves as that version.

        Returns:
            Why it failed; "" if it is served. After a failure the version goes on as it was.
        """
        if self._stopping.is_set():
            return _STOPPING
        begun = time.monotonic()
        try:
            loaded_models = self._loader.load(entry, self._report_results)
            self._check_names(loaded_models)
        except LoadError as error:
            log.error("model %s/%d failed to load: %s", entry.name, entry.version, error)
            failure = error
        except OSError as error:
            log.error("model %s/%d failed to load: %s", entry.name, entry.version, error)
            failure = LoadError(f"{error.filename or entry.folder}: {error.strerror}; mend the file")
        except Exception as error:
            log.exception("model %s/%d failed to load", entry.name, entry.version)
            failure = LoadError(f"{type(error).__name__}; see the server's log")
        else:
            self._replace(entry, loaded_models, time.monotonic() - begun)
            return ""
        if (entry.name, entry.version) in self._models:
            log.warning("model %s/%d: the one loaded before goes on serving", entry.name, entry.version)
        else:
            self._report_state(entry, "UNAVAILABLE", failure)
        return str(failure)

    def _check_names(self, loaded_models: list[LoadedModel]) -> None:
        """
        Raises:
            LoadError: another model is served under the name of one of these modes.
        """
        for loaded in loaded_models:
            name, version, model = loaded.spec.name, loaded.spec.version, loaded.spec.model
            served = self._models.get((name, version))
            if served is not None and served.spec.model != model:
                raise LoadError(
                    f"{self._root / model}: a form of it is named {name!r}, as is a model of that name;"
                    " rename one of the two folders"
                )

    def _replace(self, entry: RepositoryEntry, loaded_models: list[LoadedModel], load_s: float) -> None:
        """Serve a version's modes, then answer what their predecessors hold."""
        before = self._modes_of(entry.name, entry.version)
        for loaded in loaded_models:
            self._serve(loaded, load_s)
        for old in before:
            if self._models[old.spec.name, entry.version] is old:  # the new one has no such mode
                self._take_out(old)
        for old in before:
            old.engine.stop(_UNLOAD_S)

    def _serve(self, loaded: LoadedModel, load_s: float) -> None:
        spec = loaded.spec
        if isinstance(loaded.engine, StepEngine):
            loaded.engine.set_flush_interval(self._flush_s)
        loaded.engine.start()
        self._models[spec.name, spec.version] = loaded
        level = logging.WARNING if spec.notice else logging.INFO
        log.log(level, "model %s/%d is ready (%s)", spec.name, spec.version, describe(spec))
        ready = messages.ModelUpdate(
            model=spec.name,
            version=spec.version,
            state="READY",
            spec=spec,
            costs=loaded.costs(),
            tokenizer=loaded.vocabulary.content if loaded.vocabulary else b"",
            load_s=load_s,
        )
        self._report(ready)

    def _reload(self, name: str) -> None:
        """
        Raises:
            LoadError: a version could not be loaded, and why. The others are served.
        """
        entries = repository.find_versions(self._root, name)
        if not entries:
            raise LoadError(f"{self._root / name}: no model of this name in the repository")
        failures = []
        for entry in entries:
            if (entry.name, entry.version) not in self._models:
                self._report_state(entry, "LOADING")
            if reason := self._load(entry):
                failures.append(f"version {entry.version} failed to load: {reason}")
        found = {entry.version for entry in entries}
        for version in self._versions_of(name) - found:
            self._retire(name, version)
        if failures:
            raise LoadError("; ".join(failures))

    def _unload(self, name: str) -> None:
        versions = self._versions_of(name)
        if not versions:
            mode = next((loaded for loaded in list(self._models.values()) if loaded.spec.name == name), None)
            hint = f"; it is a form of model {mode.spec.model!r}: unload that" if mode else ""
            raise LoadError(f"model {name!r} is not loaded{hint}")
        for version in versions:
            self._retire(name, version)

    def _retire(self, name: str, version: int) -> None:
        """Take both modes of a version out of service, then answer or fail their requests."""
        modes = self._modes_of(name, version)
        for loaded in modes:
            self._take_out(loaded)
        for loaded in modes:
            loaded.engine.stop(_UNLOAD_S)
            unloaded = messages.ModelUpdate(
                model=loaded.spec.name,
                version=version,
                state="UNAVAILABLE",
                reason="unloaded",
                public_reason="it was unloaded",
                withdrawn=True,
            )
            self._report(unloaded)

    def _versions_of(self, name: str) -> set[int]:
        return {loaded.spec.version for loaded in list(self._models.values()) if loaded.spec.model == name}

    def _modes_of(self, name: str, version: int) -> list[LoadedModel]:
        return [
            loaded
            for loaded in list(self._models.values())
            if (loaded.spec.model, loaded.spec.version) == (name, version)
        ]

    def _take_out(self, loaded: LoadedModel) -> None:
        """Give a mode no more requests."""
        spec = loaded.spec
        del self._models[spec.name, spec.version]
        self._report(messages.ModelUpdate(model=spec.name, version=spec.version, state="UNLOADING"))

    def _begin(self, work: Callable[[str], None], done: messages.LoadDone) -> None:
        """Load or unload on the loading thread. Reports `done`, with the reason if it failed."""

        def report(future: Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            reason = _STOPPING if future.cancelled() else _encodable(str(error)) if error else ""
            self._report(structs.replace(done, reason=reason, temporary=reason == _STOPPING))

        try:
            future = self._loading_thread.submit(work, done.model)
        except RuntimeError:  # stopped
            self._report(structs.replace(done, reason=_STOPPING, temporary=True))
        else:
            future.add_done_callback(report)


def _encodable(text: str) -> str:
    """A text in which what is not UTF-8, as in some file names, is replaced."""
    return text.encode(errors="replace").decode()


def _leases(device: str) -> int:
    """The number of concurrent runs from which the device gains throughput."""

    return 1 if device == "cuda" else os.cpu_count() or 1
