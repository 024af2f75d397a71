"""The engines' side of the port: owns the models and their engines, and routes messages to them.

What goes wrong while a model is loaded (`loading.py`) belongs to that model; the others serve.
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
from .loading.loader import STEP_SUFFIX, Loader, described
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

Accepted = dict[OneShotEngine, list[tuple[QueuedRequest, "Arrays"]]]
"""One-shot requests on their way into the engines' queues."""

_SHORT_TEXT = 512
"""Characters: reading them costs less than handing them to another thread."""

_UNLOAD_S = 10.0
"""How long an unloading model may take to answer what it holds."""


class LoadedModels:
    """Implements `port.Host`. Messages come from one thread at a time; loading has its own.

    `reads_here`: that thread is no event loop, and tokenizes short texts itself.
    """

    def __init__(self, config: messages.EngineConfig, *, reads_here: bool = False) -> None:
        self._config = config
        self._root = Path(config.models)
        device = choose_device(config.device)
        self.info = messages.EngineInfo(device, RUNTIME_VERSION, _leases(device))
        self._device_scheduler = DeviceScheduler(device, self.info.leases, config.max_run_s)
        self._preparing = Loader(config, self._root, device, self._device_scheduler)
        self._models: dict[tuple[str, int], LoadedModel] = {}
        self._engine_of: dict[int, OneShotEngine | StepEngine] = {}
        self._reading: set[int] = set()  # keys whose text is with the tokenizers
        self._pool = TokenizerPool(config.tokenizer_workers)
        self._reader = TextEncoder() if reads_here else None
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._report: Callable[[messages.EngineUpdate], None] = lambda _: None
        self._stopping = threading.Event()
        self._flush_s = 0.0

    # --- the port -----------------------------------------------------------------------------------

    def start(self, report: Callable[[messages.EngineUpdate], None]) -> None:
        """Tell of every model that is there, then load them one by one.

        Raises:
            LoadError: there is no repository.
        """
        self._report = report
        found = repository.find(self._root)
        for name in repository.without_versions(self._root):
            log.warning("%s holds no version of a model; put one into it as 1/model.onnx", self._root / name)
        if self._config.selected:
            there = {one.name for one in found}
            for name in self._config.selected:
                if name not in there:
                    told = ", ".join(sorted(there)) or "none"
                    raise LoadError(
                        f"--only {name}: there is no such model in {self._root}; there are: {told}"
                    )
            found = [one for one in found if one.name in self._config.selected]
        if not found:
            log.warning("there is no model in %s; put one into it as NAME/1/model.onnx", self._root)
        for one in found:
            self._tell(one, "LOADING")
        for one in found:
            self._loader.submit(self._load, one)

    def receive(self, batch: Sequence[messages.Message]) -> None:
        accepted: Accepted = {}
        for message in batch:
            match message:
                case messages.Submit():
                    self._submit(message, accepted)
                case messages.Cancel(key):
                    self._queue(accepted)
                    self._cancel(key)
                case messages.Load(name):
                    self._watch(self._loader.submit(self._reload, name), name, "load")
                case messages.Unload(name):
                    self._watch(self._loader.submit(self._unload, name), name, "unload")
                case messages.Tokenize():
                    self._read(message)
                case messages.Credit(key, n):
                    if isinstance(engine := self._engine_of.get(key), StepEngine):
                        engine.credit(key, n)
                case messages.EndSequence(name, version, sequence):
                    self._leave(name, version, sequence)
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
        self._loader.shutdown(wait=False, cancel_futures=True)
        for loaded in list(self._models.values()):
            loaded.engine.stop(within_s)
        self._pool.close()

    # --- requests -----------------------------------------------------------------------------------

    def _submit(self, submit: messages.Submit, accepted: Accepted) -> None:
        loaded = self._models.get((submit.model, submit.version))
        if loaded is None:
            self._refuse(submit, unavailable(f"model {submit.model!r} is being unloaded"))
        elif submit.text is None:
            self._accept(submit, loaded, submit.inputs, (), accepted)
        else:
            self._tokenize(submit, loaded, lambda encoded: self._encoded(submit, loaded, encoded))

    def _tokenize(
        self,
        message: messages.Submit | messages.Tokenize,
        loaded: LoadedModel,
        done: Callable[[EncodedText], None],
    ) -> None:
        """Hand the text to the tokenizers; `done` is called on one of their threads, unless the
        request is cancelled or its text has no ids."""
        if loaded.vocabulary is None:
            why = f"model {message.model!r} has no tokenizer; send ids"
            self._refuse(message, bad_input(message.field, why))
            return

        def told(encoded: EncodedText | Exception) -> None:
            try:
                self._reading.remove(message.key)
            except KeyError:  # cancelled meanwhile
                return
            if isinstance(encoded, Exception):
                self._refuse(message, bad_input(message.field, f"the text cannot be tokenized: {encoded}"))
            else:
                done(encoded)

        assert message.text is not None
        self._reading.add(message.key)
        if self._reader is not None and len(message.text) <= _SHORT_TEXT:
            told(self._reader.encode(loaded.vocabulary, message.text))
            return
        self._pool.encode(loaded.vocabulary, message.text, told)

    def _encoded(self, submit: messages.Submit, loaded: LoadedModel, encoded: EncodedText) -> None:
        may_be_empty = loaded.spec.is_stepwise and loaded.spec.manifest.task == "generate"
        if not encoded.ids and not may_be_empty:
            self._refuse(submit, bad_input(submit.field, "the text has no tokens; send at least one word"))
            return
        inputs = {loaded.spec.text_input: np.array([encoded.ids], np.int64)}
        accepted: Accepted = {}
        self._accept(submit, loaded, inputs, tuple(encoded.tokens) if submit.tokens else (), accepted)
        self._queue(accepted)

    def _read(self, read: messages.Tokenize) -> None:
        loaded = self._models.get((read.model, read.version))
        if loaded is None:
            self._refuse(read, unavailable(f"model {read.model!r} is being unloaded"))
        elif read.text is not None:
            self._tokenize(read, loaded, lambda encoded: self._told(read, encoded))
        else:
            names = loaded.vocabulary.names(read.ids) if loaded.vocabulary else [""] * len(read.ids)
            self._told(read, EncodedText(list(read.ids), names))

    def _told(self, read: messages.Tokenize, encoded: EncodedText) -> None:
        ids = {"ids": np.array(encoded.ids, np.int64)}
        event = messages.Event(read.key, ids, tokens=tuple(encoded.tokens))
        self._report(messages.Events(read.model, read.version, [event]))

    def _accept(
        self,
        submit: messages.Submit,
        loaded: LoadedModel,
        inputs: Arrays,
        tokens: tuple[str, ...],
        accepted: Accepted,
    ) -> None:
        """Put a request among those `accepted` for its engine, or refuse it."""
        engine = loaded.engine
        if isinstance(engine, StepEngine):
            self._engine_of[submit.key] = engine
            engine.submit(submit, inputs, tokens)
            return
        try:
            request = QueuedRequest(submit, submit.measure or measure_request(loaded.spec, inputs), tokens)
        except ServingError as error:
            self._refuse(submit, in_field(error, submit.field))
            return
        self._engine_of[submit.key] = engine
        accepted.setdefault(engine, []).append((request, inputs))

    def _queue(self, accepted: Accepted) -> None:
        """Hand each engine what was accepted for it, all at once: one wake-up."""
        for engine, requests in accepted.items():
            engine.submit(requests)
        accepted.clear()

    def _leave(self, name: str, version: int, sequence: messages.SequenceId) -> None:
        loaded = self._models.get((name, version))
        if loaded is not None and isinstance(loaded.engine, StepEngine):
            loaded.engine.end_sequence(sequence)

    def _refuse(self, submit: messages.Submit | messages.Tokenize, error: ServingError) -> None:
        self._report(messages.Events(submit.model, submit.version, [messages.Event(submit.key, None, error)]))

    def _cancel(self, key: int) -> None:
        self._reading.discard(key)
        engine = self._engine_of.pop(key, None)
        if engine is not None:
            engine.cancel(key)

    def _from_engine(self, events: messages.Events) -> None:
        for event in events.events:
            self._engine_of.pop(event.key, None)
        self._report(events)

    # --- loading ------------------------------------------------------------------------------------

    def _tell(self, found: RepositoryEntry, state: str, reason: str = "") -> None:
        self._report(messages.ModelUpdate(found.name, found.version, state, reason))

    def _load(self, found: RepositoryEntry) -> None:
        if self._stopping.is_set():
            return
        begun = time.monotonic()
        try:
            loaded_models = self._preparing.prepare(found, self._from_engine)
        except LoadError as error:
            log.error("model %s/%d is not served: %s", found.name, found.version, error)
            self._tell(found, "UNAVAILABLE", str(error))
        except Exception as error:
            log.exception("model %s/%d is not served", found.name, found.version)
            self._tell(found, "UNAVAILABLE", f"{type(error).__name__}; see the server's log")
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
        log.log(level, "model %s/%d is ready%s", spec.name, spec.version, described(spec))
        self._report(messages.ModelUpdate(spec.name, spec.version, "READY", "", spec, loaded.costs(), load_s))

    def _reload(self, name: str) -> None:
        found = repository.find_model(self._root, name)
        if not found:
            raise LoadError(f"{self._root / name}: there is no model of this name in the repository")
        for one in found:
            self._retire(one.name, one.version)
            self._tell(one, "LOADING")
            self._load(one)
        failed = [one for one in found if (one.name, one.version) not in self._models]
        if len(failed) == len(found):
            raise LoadError(
                f"no version of {name!r} could be loaded; see the repository index for the reasons"
            )

    def _unload(self, name: str) -> None:
        versions = [version for model, version in list(self._models) if model == name]
        if not versions:
            raise LoadError(f"model {name!r} is not loaded")
        for version in versions:
            self._retire(name, version)

    def _retire(self, name: str, version: int) -> None:
        """Take a version out of service, all its loaded_models, once what it holds has ended."""
        keys = [key for key in ((name + STEP_SUFFIX, version), (name, version)) if key in self._models]
        loaded_models = [self._models.pop(key) for key in keys if self._models[key].spec.model == name]
        for loaded in loaded_models:
            self._report(messages.ModelUpdate(loaded.spec.name, version, "UNLOADING"))
        for loaded in loaded_models:
            loaded.engine.stop(_UNLOAD_S)
            self._report(messages.ModelUpdate(loaded.spec.name, version, "UNAVAILABLE", "it was unloaded"))

    def _watch(self, done: Future[None], name: str, verb: str) -> None:
        def tell(future: Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            reason = "the server is stopping" if future.cancelled() else str(error) if error else ""
            self._report(messages.LoadDone(name, verb, reason))

        done.add_done_callback(tell)


def _leases(device: str) -> int:
    """Runs at one time from which the device gains."""
    return 1 if device == "cuda" else os.cpu_count() or 1
