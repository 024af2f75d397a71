"""The loaded models: loads and unloads them, and routes messages to their engines.

`Submit` → tokenizers (if it has text) → the model's engine → `Events`

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

import numpy as np

from .. import messages
from ..errors import LoadError, ServingError, bad_input, in_field, unavailable
from ..model.sizes import measure_request
from ..text.tokenizer import EncodedText, TextEncoder, TokenizerPool
from .loading import repository
from .loading.loader import STEP_SUFFIX, Loader, describe
from .oneshot.engine import OneShotEngine
from .oneshot.request import QueuedRequest
from .runtime.device_scheduler import DeviceScheduler
from .runtime.session import RUNTIME_VERSION, choose_device
from .stepwise.engine import StepEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..model.datatypes import Arrays
    from .loading.loader import LoadedModel
    from .loading.repository import RepositoryEntry

log = logging.getLogger(__name__)

AcceptedRequests = dict[OneShotEngine, list[tuple[QueuedRequest, "Arrays"]]]
"""One-shot requests that are about to be queued, by engine."""

_SHORT_TEXT = 512
"""Characters. Tokenizing a shorter text costs less than passing it to another thread."""

_UNLOAD_S = 10.0
"""How long a model that is being unloaded may take to answer its requests."""


class LoadedModels:
    """Implements `messages.Engine`. `receive` is called by one thread at a time; loading has another.

    `tokenize_inline`: the thread that calls `receive` runs no event loop, so it may tokenize short texts.
    """

    def __init__(self, config: messages.EngineConfig, *, tokenize_inline: bool = False) -> None:
        self._config = config
        self._root = Path(config.models)
        device = choose_device(config.device)
        self.info = messages.EngineInfo(device, RUNTIME_VERSION, _leases(device))
        self._device_scheduler = DeviceScheduler(self.info.leases, config.max_run_s)
        self._loader = Loader(config, self._root, device, self._device_scheduler)
        self._models: dict[tuple[str, int], LoadedModel] = {}
        self._engine_of: dict[int, OneShotEngine | StepEngine] = {}
        self._tokenizing: set[int] = set()  # keys of the requests whose text is being tokenized
        self._pool = TokenizerPool(config.tokenizer_workers)
        self._inline_encoder = TextEncoder() if tokenize_inline else None
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
        if self._config.selected:
            names = {entry.name for entry in entries}
            for name in self._config.selected:
                if name not in names:
                    available = ", ".join(sorted(names)) or "none"
                    raise LoadError(f"--only {name}: unknown model in {self._root}; available: {available}")
            entries = [entry for entry in entries if entry.name in self._config.selected]
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
                case messages.Submit():
                    self._submit(message, accepted)
                case messages.Cancel(key):
                    self._queue(accepted)
                    self._cancel(key)
                case messages.Load(name):
                    self._report_when_done(self._loading_thread.submit(self._reload, name), name, "load")
                case messages.Unload(name):
                    self._report_when_done(self._loading_thread.submit(self._unload, name), name, "unload")
                case messages.Tokenize():
                    self._tokenize(message)
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
        self._pool.close()

    # --- requests -----------------------------------------------------------------------------------

    def _submit(self, submit: messages.Submit, accepted: AcceptedRequests) -> None:
        loaded = self._models.get((submit.model, submit.version))
        if loaded is None:
            self._reject(submit, unavailable(f"model {submit.model!r} is being unloaded"))
        elif submit.text is None:
            self._accept(submit, loaded, submit.inputs, (), accepted)
        else:
            self._encode(submit, loaded, lambda encoded: self._accept_encoded(submit, loaded, encoded))

    def _encode(
        self,
        message: messages.Submit | messages.Tokenize,
        loaded: LoadedModel,
        done: Callable[[EncodedText], None],
    ) -> None:
        """Tokenize the message's text. `done` is called on this thread or a tokenizer thread, unless the
        request is cancelled or tokenizing fails."""
        if loaded.vocabulary is None:
            why = f"model {message.model!r} has no tokenizer; send ids"
            self._reject(message, bad_input(message.field, why))
            return

        def finish(encoded: EncodedText | Exception) -> None:
            try:
                self._tokenizing.remove(message.key)
            except KeyError:  # cancelled meanwhile
                return
            if isinstance(encoded, Exception):
                self._reject(message, bad_input(message.field, f"the text cannot be tokenized: {encoded}"))
            else:
                done(encoded)

        assert message.text is not None
        self._tokenizing.add(message.key)
        if self._inline_encoder is not None and len(message.text) <= _SHORT_TEXT:
            finish(self._inline_encoder.encode(loaded.vocabulary, message.text))
            return
        self._pool.encode(loaded.vocabulary, message.text, finish)

    def _accept_encoded(self, submit: messages.Submit, loaded: LoadedModel, encoded: EncodedText) -> None:
        may_be_empty = loaded.spec.is_stepwise and loaded.spec.manifest.task == "generate"
        if not encoded.ids and not may_be_empty:
            self._reject(submit, bad_input(submit.field, "the text has no tokens; send at least one word"))
            return
        inputs = {loaded.spec.text_input: np.array([encoded.ids], np.int64)}
        accepted: AcceptedRequests = {}
        self._accept(submit, loaded, inputs, tuple(encoded.tokens) if submit.tokens else (), accepted)
        self._queue(accepted)

    def _tokenize(self, message: messages.Tokenize) -> None:
        loaded = self._models.get((message.model, message.version))
        if loaded is None:
            self._reject(message, unavailable(f"model {message.model!r} is being unloaded"))
        elif message.text is not None:
            self._encode(message, loaded, lambda encoded: self._report_encoded(message, encoded))
        else:
            names = loaded.vocabulary.names(message.ids) if loaded.vocabulary else [""] * len(message.ids)
            self._report_encoded(message, EncodedText(list(message.ids), names))

    def _report_encoded(self, message: messages.Tokenize, encoded: EncodedText) -> None:
        ids = {"ids": np.array(encoded.ids, np.int64)}
        event = messages.Event(message.key, ids, tokens=tuple(encoded.tokens))
        self._report(messages.Events(message.model, message.version, [event]))

    def _accept(
        self,
        submit: messages.Submit,
        loaded: LoadedModel,
        inputs: Arrays,
        tokens: tuple[str, ...],
        accepted: AcceptedRequests,
    ) -> None:
        """Submit the request to its step-wise engine, add it to `accepted`, or reject it."""
        engine = loaded.engine
        if isinstance(engine, StepEngine):
            self._engine_of[submit.key] = engine
            engine.submit(submit, inputs, tokens)
            return
        try:
            request = QueuedRequest(submit, submit.measure or measure_request(loaded.spec, inputs), tokens)
        except ServingError as error:
            self._reject(submit, in_field(error, submit.field))
            return
        self._engine_of[submit.key] = engine
        accepted.setdefault(engine, []).append((request, inputs))

    def _queue(self, accepted: AcceptedRequests) -> None:
        """Submit all accepted requests, with one call per engine, which wakes it once."""
        for engine, requests in accepted.items():
            engine.submit(requests)
        accepted.clear()

    def _end_sequence(self, name: str, version: int, sequence: messages.SequenceId) -> None:
        loaded = self._models.get((name, version))
        if loaded is not None and isinstance(loaded.engine, StepEngine):
            loaded.engine.end_sequence(sequence)

    def _reject(self, request: messages.Submit | messages.Tokenize, error: ServingError) -> None:
        event = messages.Event(request.key, None, error)
        self._report(messages.Events(request.model, request.version, [event]))

    def _cancel(self, key: int) -> None:
        self._tokenizing.discard(key)
        engine = self._engine_of.pop(key, None)
        if engine is not None:
            engine.cancel(key)

    def _report_events(self, events: messages.Events) -> None:
        for event in events.events:
            self._engine_of.pop(event.key, None)
        self._report(events)

    # --- loading ------------------------------------------------------------------------------------

    def _report_state(self, entry: RepositoryEntry, state: str, reason: str = "") -> None:
        self._report(messages.ModelUpdate(entry.name, entry.version, state, reason))

    def _load(self, entry: RepositoryEntry) -> None:
        if self._stopping.is_set():
            return
        begun = time.monotonic()
        try:
            loaded_models = self._loader.load(entry, self._report_events)
        except LoadError as error:
            log.error("model %s/%d failed to load: %s", entry.name, entry.version, error)
            self._report_state(entry, "UNAVAILABLE", str(error))
        except Exception as error:
            log.exception("model %s/%d failed to load", entry.name, entry.version)
            self._report_state(entry, "UNAVAILABLE", f"{type(error).__name__}; see the server's log")
        else:
            for loaded in loaded_models:
                self._serve(loaded, time.monotonic() - begun)

    def _serve(self, loaded: LoadedModel, load_s: float) -> None:
        spec = loaded.spec
        if isinstance(loaded.engine, StepEngine):
            loaded.engine.set_flush_interval(self._flush_s)
        loaded.engine.start()
        self._models[spec.name, spec.version] = loaded
        level = logging.WARNING if spec.notice else logging.INFO
        log.log(level, "model %s/%d is ready (%s)", spec.name, spec.version, describe(spec))
        self._report(messages.ModelUpdate(spec.name, spec.version, "READY", "", spec, loaded.costs(), load_s))

    def _reload(self, name: str) -> None:
        entries = repository.find_versions(self._root, name)
        if not entries:
            raise LoadError(f"{self._root / name}: no model of this name in the repository")
        for entry in entries:
            self._retire(entry.name, entry.version)
            self._report_state(entry, "LOADING")
            self._load(entry)
        if not any((entry.name, entry.version) in self._models for entry in entries):
            raise LoadError(f"no version of {name!r} could be loaded; the repository index lists the reasons")

    def _unload(self, name: str) -> None:
        versions = [version for model, version in list(self._models) if model == name]
        if not versions:
            raise LoadError(f"model {name!r} is not loaded")
        for version in versions:
            self._retire(name, version)

    def _retire(self, name: str, version: int) -> None:
        """Take both modes of a version out of service, then answer or fail their requests."""
        keys = [key for key in ((name + STEP_SUFFIX, version), (name, version)) if key in self._models]
        loaded_models = [self._models.pop(key) for key in keys if self._models[key].spec.model == name]
        for loaded in loaded_models:
            self._report(messages.ModelUpdate(loaded.spec.name, version, "UNLOADING"))
        for loaded in loaded_models:
            loaded.engine.stop(_UNLOAD_S)
            self._report(messages.ModelUpdate(loaded.spec.name, version, "UNAVAILABLE", "unloaded"))

    def _report_when_done(self, done: Future[None], name: str, verb: str) -> None:
        def report(future: Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            reason = "the server is stopping" if future.cancelled() else str(error) if error else ""
            self._report(messages.LoadDone(name, verb, reason))

        done.add_done_callback(report)


def _leases(device: str) -> int:
    """The number of concurrent runs from which the device gains throughput."""

    return 1 if device == "cuda" else os.cpu_count() or 1
