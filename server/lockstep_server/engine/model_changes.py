"""Loads, reloads and unloads models, one change of a model at a time.

`Load` → the loader → engines → swapped in → READY → `LoadDone`. The replaced engines end what they hold.

An error while loading a model makes that model UNAVAILABLE; the others keep serving.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from .. import messages
from ..errors import LoadError
from .loading import repository
from .loading.load_queue import LoadQueue
from .loading.loader import describe
from .model_table import Reports
from .stepwise.engine import StepEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from ..model.spec import ModelSpec
    from .loading.loader import LoadedModel, Loader
    from .loading.repository import RepositoryEntry
    from .model_table import ModelTable
    from .runtime.run_watch import RunWatch

log = logging.getLogger(__name__)

_STOPPING = "the server is stopping"
_UNLOAD_S = 10.0
"""How long a model that is being unloaded may take to answer its requests."""


class ModelChanges:
    """Changes a `ModelTable` and reports each change. `flush_s` is given to new engines."""

    def __init__(
        self,
        config: messages.EngineConfig,
        loader: Loader,
        table: ModelTable,
        report: Callable[[messages.EngineUpdate], None],
        watch: RunWatch,
    ) -> None:
        self._roots = tuple(map(Path, (config.models, *config.more_models)))
        self._grace_s = config.reload_grace_s
        self._loader, self._table, self._report = loader, table, report
        self._reports: dict[tuple[str, int], Reports] = {}
        self._watch, self._excluded = watch, config.excluded
        self._loads = LoadQueue(watch.slow_loads)
        self._stopping = threading.Event()
        self.flush_s = 0.0

    def start(self, entries: Iterable[RepositoryEntry]) -> None:
        """Report versions as LOADING, then load them one by one."""
        entries = list(entries)
        begun, reasons = time.monotonic(), list[str]()

        def log_end(load: Future[str]) -> None:
            reasons.append(load.result() if not load.cancelled() else _STOPPING)
            if len(reasons) == len(loads) and not self._stopping.is_set():
                seconds = time.monotonic() - begun
                log.info("%d of %d model versions loaded in %.1f s", reasons.count(""), len(loads), seconds)

        for entry in entries:
            self._report_state(entry, "LOADING")
        loads = [entry for entry in entries if entry.name not in self._excluded]
        for entry in entries:
            if why := self._excluded.get(entry.name):
                log.error("model %s/%d is not loaded: %s", entry.name, entry.version, why)
                self._report_state(entry, "UNAVAILABLE", LoadError(why))
            else:
                self._loads.submit(entry.name, self._load, entry).add_done_callback(log_end)

    def begin(self, message: messages.Load | messages.Unload) -> None:
        """Load or unload a model. Reports `LoadDone`, with the reason if it failed."""
        is_load = isinstance(message, messages.Load)
        done = messages.LoadDone(message.model, "load" if is_load else "unload", key=message.key)

        def report(future: Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            reason = _STOPPING if future.cancelled() else _encodable(str(error)) if error else ""
            temporary = bool(reason) and self._stopping.is_set()
            self._report(structs.replace(done, reason=reason, temporary=temporary))

        future = self._loads.submit(message.model, self._reload if is_load else self._unload, message.model)
        future.add_done_callback(report)

    def advance(self) -> None:
        """Start the next change if only slow ones run."""
        self._loads.advance()

    def give_up(self, name: str, version: int, reason: str) -> None:
        """Take a version out of service whose run or load does not end, and fail what it holds."""
        modes = self._table.swap(name, version, [])
        for mode in {name, *(loaded.spec.name for loaded in modes)}:
            self._report(
                messages.ModelUpdate(
                    model=mode, version=version, state="UNAVAILABLE", reason=reason, public_reason=reason
                )
            )
        for loaded in modes:
            loaded.engine.stop(0.0)
            with self._table.lock:
                self._table.replaced.remove(loaded)

    def stop(self) -> None:
        self._stopping.set()
        self._loads.close()

    # --- on the threads of the queue ----------------------------------------------------------------

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
        for root in (*(root.resolve() for root in self._roots), *self._roots):
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
        self._report(messages.LoadStarted(entry.name, entry.version))
        try:
            reports = Reports(self._report)
            with self._watch.load(f"{entry.name}/{entry.version}"):
                loaded_models = self._loader.load(entry, reports)
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
            self._replace(entry, loaded_models, reports, time.monotonic() - begun)
            return ""
        if (entry.name, entry.version) in self._table.modes:
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
            served = self._table.modes.get((name, version))
            if served is not None and served.spec.model != model:
                raise LoadError(
                    f"model {model!r}: a form of it is named {name!r}, as is a model of that name;"
                    " rename one of the two folders"
                )

    def _replace(
        self, entry: RepositoryEntry, loaded_models: list[LoadedModel], reports: Reports, load_s: float
    ) -> None:
        """Serve a version's modes in place of their predecessors, which end what they hold."""
        for loaded in loaded_models:
            if isinstance(loaded.engine, StepEngine):
                loaded.engine.set_flush_interval(self.flush_s)
            loaded.engine.start()
        before = self._table.swap(entry.name, entry.version, loaded_models)
        if old_reports := self._reports.get((entry.name, entry.version)):
            old_reports.replaced = True
        self._reports[entry.name, entry.version] = reports
        for loaded in loaded_models:
            self._report_ready(loaded, load_s)
        for old in before:
            if (old.spec.name, entry.version) not in self._table.modes:  # the new one has no such mode
                self._report_unloading(old)
        for old in before:
            self._finish(old)

    def _report_ready(self, loaded: LoadedModel, load_s: float) -> None:
        spec = loaded.spec
        level = logging.WARNING if spec.notice else logging.INFO
        log.log(
            level, "model %s/%d is ready after %.1f s (%s)", spec.name, spec.version, load_s, describe(spec)
        )
        ready = messages.ModelUpdate(
            model=spec.name,
            version=spec.version,
            state="READY",
            spec=spec,
            costs=loaded.costs(),
            tokenizer=loaded.vocabulary.content if loaded.vocabulary else b"",
            load_s=load_s,
            load=loaded.load,
        )
        self._report(ready)

    def _finish(self, old: LoadedModel) -> None:
        """Let a replaced mode end what it holds: sequences on a thread of its own, all else at once."""
        engine = old.engine
        if not isinstance(engine, StepEngine) or not (engine.in_flight() or engine.live_sequences()):
            self._end(old, _UNLOAD_S)
            return
        grace_s = self._grace_s
        threading.Thread(target=self._end, args=(old, grace_s), name="replaced", daemon=True).start()

    def _end(self, old: LoadedModel, within_s: float) -> None:
        """Stop the engine of a mode that gets no new requests. Reports its end if nothing took its place."""
        spec, engine = old.spec, old.engine
        if isinstance(engine, StepEngine):
            engine.stop(within_s, finish_sequences=True)
        else:
            engine.stop(within_s)
        with self._table.lock:
            lost = self._table.replaced.remove(old)
            successor = self._table.modes.get((spec.name, spec.version))
            if lost is not None and successor is None:
                self._report_unloaded(spec)  # under the lock, so that no later READY comes before it
        if lost is None or successor is None:
            return
        if isinstance(engine, StepEngine) and isinstance(successor.engine, StepEngine):
            why = f"was ended {within_s:g} s after its model was loaded again"
            successor.engine.remember({**engine.ended_sequences(), **dict.fromkeys(lost, why)})

    def _reload(self, name: str) -> None:
        """
        Raises:
            LoadError: a version could not be loaded, and why. The others are served.
        """
        entries = [entry for root in self._roots for entry in repository.find_versions(root, name)]
        if not entries:
            raise LoadError(f"{self._roots[0] / name}: no model of this name in the repository")
        failures = []
        for entry in entries:
            if (entry.name, entry.version) not in self._table.modes:
                self._report_state(entry, "LOADING")
            if reason := self._load(entry):
                failures.append(f"version {entry.version} failed to load: {reason}")
        found = {entry.version for entry in entries}
        for version in self._table.versions_of(name) - found:
            for old in self._take_out(name, version):
                self._finish(old)
        if failures:
            raise LoadError("; ".join(failures))

    def _unload(self, name: str) -> None:
        versions = self._table.versions_of(name)
        if not versions and not self._table.replaced.modes(name):
            modes = list(self._table.modes.values())
            mode = next((loaded for loaded in modes if loaded.spec.name == name), None)
            hint = f"; it is a form of model {mode.spec.model!r}: unload that" if mode else ""
            raise LoadError(f"model {name!r} is not loaded{hint}")
        for version in versions:
            self._take_out(name, version)
        for old in self._table.replaced.modes(name):
            if isinstance(old.engine, StepEngine):
                old.engine.stop(_UNLOAD_S)  # before `_end`, which would wait for idle sequences
            self._end(old, _UNLOAD_S)

    def _take_out(self, name: str, version: int) -> list[LoadedModel]:
        """Give the modes of a version no new requests. Returns them."""
        modes = self._table.swap(name, version, [])
        for loaded in modes:
            self._report_unloading(loaded)
        return modes

    def _report_unloading(self, loaded: LoadedModel) -> None:
        spec = loaded.spec
        self._report(messages.ModelUpdate(model=spec.name, version=spec.version, state="UNLOADING"))

    def _report_unloaded(self, spec: ModelSpec) -> None:
        unloaded = messages.ModelUpdate(
            model=spec.name,
            version=spec.version,
            state="UNAVAILABLE",
            reason="unloaded",
            public_reason="it was unloaded",
            withdrawn=True,
        )
        self._report(unloaded)


def _encodable(text: str) -> str:
    """A text in which what is not UTF-8, as in some file names, is replaced."""
    return text.encode(errors="replace").decode()
