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

from . import port
from .errors import LoadError, ServingError, bad_input, in_field, unavailable
from .loading import STEP_SUFFIX, Loader, described
from .models import repository
from .models.gate import Gate
from .models.measure import measure
from .models.session import RUNTIME_VERSION, choose_device
from .oneshot.engine import OneShotEngine
from .oneshot.request import Request
from .stepwise.engine import StepEngine
from .text.tokenizer import Encoded, Reader, TokenizerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .loading import Face
    from .models.datatypes import Arrays
    from .models.repository import Found

log = logging.getLogger(__name__)

Accepted = dict[OneShotEngine, list[tuple[Request, "Arrays"]]]
"""One-shot requests on their way into the engines' queues."""

_SHORT_TEXT = 512
"""Characters: reading them costs less than handing them to another thread."""

_UNLOAD_S = 10.0
"""How long an unloading model may take to answer what it holds."""


class Host:
    """Implements `port.Host`. Messages come from one thread at a time; loading has its own.

    `reads_here`: that thread is no event loop, and tokenizes short texts itself.
    """

    def __init__(self, config: port.HostConfig, *, reads_here: bool = False) -> None:
        self._config = config
        self._root = Path(config.models)
        device = choose_device(config.device)
        self.about = port.About(device, RUNTIME_VERSION, _permits(device))
        self._gate = Gate(device, self.about.permits, config.max_run_s)
        self._preparing = Loader(config, self._root, device, self._gate)
        self._faces: dict[tuple[str, int], Face] = {}
        self._engine_of: dict[int, OneShotEngine | StepEngine] = {}
        self._reading: set[int] = set()  # keys whose text is with the tokenizers
        self._pool = TokenizerPool(config.tokenizer_workers)
        self._reader = Reader() if reads_here else None
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._report: Callable[[port.News], None] = lambda _: None
        self._stopping = threading.Event()
        self._flush_s = 0.0

    # --- the port -----------------------------------------------------------------------------------

    def start(self, report: Callable[[port.News], None]) -> None:
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

    def receive(self, messages: Sequence[port.Message]) -> None:
        accepted: Accepted = {}
        for message in messages:
            match message:
                case port.Submit():
                    self._submit(message, accepted)
                case port.Cancel(key):
                    self._queue(accepted)
                    self._cancel(key)
                case port.Load(name):
                    self._watch(self._loader.submit(self._reload, name), name, "load")
                case port.Unload(name):
                    self._watch(self._loader.submit(self._unload, name), name, "unload")
                case port.Read():
                    self._read(message)
                case port.Credit(key, n):
                    if isinstance(engine := self._engine_of.get(key), StepEngine):
                        engine.credit(key, n)
                case port.Leave(name, version, sequence):
                    self._leave(name, version, sequence)
                case port.Inquire():
                    self._report(port.Vitals(gc.get_stats()))
                case port.Pace(flush_s):
                    self._flush_s = flush_s
                    for face in list(self._faces.values()):
                        if isinstance(face.engine, StepEngine):
                            face.engine.pace(flush_s)
        self._queue(accepted)

    def stop(self, within_s: float) -> None:
        self._stopping.set()
        self._loader.shutdown(wait=False, cancel_futures=True)
        for face in list(self._faces.values()):
            face.engine.stop(within_s)
        self._pool.close()

    # --- requests -----------------------------------------------------------------------------------

    def _submit(self, submit: port.Submit, accepted: Accepted) -> None:
        face = self._faces.get((submit.model, submit.version))
        if face is None:
            self._refuse(submit, unavailable(f"model {submit.model!r} is being unloaded"))
        elif submit.text is None:
            self._accept(submit, face, submit.inputs, (), accepted)
        else:
            self._tokenize(submit, face, lambda encoded: self._encoded(submit, face, encoded))

    def _tokenize(
        self, message: port.Submit | port.Read, face: Face, done: Callable[[Encoded], None]
    ) -> None:
        """Hand the text to the tokenizers; `done` is called on one of their threads, unless the
        request is cancelled or its text has no ids."""
        if face.vocabulary is None:
            why = f"model {message.model!r} has no tokenizer; send ids"
            self._refuse(message, bad_input(message.field, why))
            return

        def told(encoded: Encoded | Exception) -> None:
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
            told(self._reader.encode(face.vocabulary, message.text))
            return
        self._pool.encode(face.vocabulary, message.text, told)

    def _encoded(self, submit: port.Submit, face: Face, encoded: Encoded) -> None:
        may_be_empty = face.card.steps and face.card.manifest.task == "generate"
        if not encoded.ids and not may_be_empty:
            self._refuse(submit, bad_input(submit.field, "the text has no tokens; send at least one word"))
            return
        inputs = {face.card.text_input: np.array([encoded.ids], np.int64)}
        accepted: Accepted = {}
        self._accept(submit, face, inputs, tuple(encoded.tokens) if submit.tokens else (), accepted)
        self._queue(accepted)

    def _read(self, read: port.Read) -> None:
        face = self._faces.get((read.model, read.version))
        if face is None:
            self._refuse(read, unavailable(f"model {read.model!r} is being unloaded"))
        elif read.text is not None:
            self._tokenize(read, face, lambda encoded: self._told(read, encoded))
        else:
            names = face.vocabulary.names(read.ids) if face.vocabulary else [""] * len(read.ids)
            self._told(read, Encoded(list(read.ids), names))

    def _told(self, read: port.Read, encoded: Encoded) -> None:
        ids = {"ids": np.array(encoded.ids, np.int64)}
        event = port.Event(read.key, ids, tokens=tuple(encoded.tokens))
        self._report(port.Events(read.model, read.version, [event]))

    def _accept(
        self, submit: port.Submit, face: Face, inputs: Arrays, tokens: tuple[str, ...], accepted: Accepted
    ) -> None:
        """Put a request among those `accepted` for its engine, or refuse it."""
        engine = face.engine
        if isinstance(engine, StepEngine):
            self._engine_of[submit.key] = engine
            engine.submit(submit, inputs, tokens)
            return
        try:
            request = Request(submit, submit.measure or measure(face.card, inputs), tokens)
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

    def _leave(self, name: str, version: int, sequence: port.SequenceId) -> None:
        face = self._faces.get((name, version))
        if face is not None and isinstance(face.engine, StepEngine):
            face.engine.leave(sequence)

    def _refuse(self, submit: port.Submit | port.Read, error: ServingError) -> None:
        self._report(port.Events(submit.model, submit.version, [port.Event(submit.key, None, error)]))

    def _cancel(self, key: int) -> None:
        self._reading.discard(key)
        engine = self._engine_of.pop(key, None)
        if engine is not None:
            engine.cancel(key)

    def _from_engine(self, events: port.Events) -> None:
        for event in events.events:
            self._engine_of.pop(event.key, None)
        self._report(events)

    # --- loading ------------------------------------------------------------------------------------

    def _tell(self, found: Found, state: str, reason: str = "") -> None:
        self._report(port.ModelUpdate(found.name, found.version, state, reason))

    def _load(self, found: Found) -> None:
        if self._stopping.is_set():
            return
        begun = time.monotonic()
        try:
            faces = self._preparing.prepare(found, self._from_engine)
        except LoadError as error:
            log.error("model %s/%d is not served: %s", found.name, found.version, error)
            self._tell(found, "UNAVAILABLE", str(error))
        except Exception as error:
            log.exception("model %s/%d is not served", found.name, found.version)
            self._tell(found, "UNAVAILABLE", f"{type(error).__name__}; see the server's log")
        else:
            for face in faces:
                self._serve(face, time.monotonic() - begun)

    def _serve(self, face: Face, load_s: float) -> None:
        card = face.card
        if isinstance(face.engine, StepEngine):
            face.engine.pace(self._flush_s)
        face.engine.start()
        self._faces[card.name, card.version] = face
        level = logging.WARNING if card.notice else logging.INFO
        log.log(level, "model %s/%d is ready%s", card.name, card.version, described(card))
        self._report(port.ModelUpdate(card.name, card.version, "READY", "", card, face.costs(), load_s))

    def _reload(self, name: str) -> None:
        found = repository.find_model(self._root, name)
        if not found:
            raise LoadError(f"{self._root / name}: there is no model of this name in the repository")
        for one in found:
            self._retire(one.name, one.version)
            self._tell(one, "LOADING")
            self._load(one)
        failed = [one for one in found if (one.name, one.version) not in self._faces]
        if len(failed) == len(found):
            raise LoadError(
                f"no version of {name!r} could be loaded; see the repository index for the reasons"
            )

    def _unload(self, name: str) -> None:
        versions = [version for model, version in list(self._faces) if model == name]
        if not versions:
            raise LoadError(f"model {name!r} is not loaded")
        for version in versions:
            self._retire(name, version)

    def _retire(self, name: str, version: int) -> None:
        """Take a version out of service, all its faces, once what it holds has ended."""
        keys = [key for key in ((name + STEP_SUFFIX, version), (name, version)) if key in self._faces]
        faces = [self._faces.pop(key) for key in keys if self._faces[key].card.model == name]
        for face in faces:
            self._report(port.ModelUpdate(face.card.name, version, "UNLOADING"))
        for face in faces:
            face.engine.stop(_UNLOAD_S)
            self._report(port.ModelUpdate(face.card.name, version, "UNAVAILABLE", "it was unloaded"))

    def _watch(self, done: Future[None], name: str, verb: str) -> None:
        def tell(future: Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            reason = "the server is stopping" if future.cancelled() else str(error) if error else ""
            self._report(port.LoadDone(name, verb, reason))

        done.add_done_callback(tell)


def _permits(device: str) -> int:
    """Runs at one time from which the device gains."""
    return 1 if device == "cuda" else os.cpu_count() or 1
