"""The engines' side of the port: owns the models and their engines, and routes messages to them.

What goes wrong while a model is loaded (`loading.py`) belongs to that model; the others serve.
"""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import port
from .errors import LoadError, ServingError, bad_input, in_field, unavailable
from .loading import Loader, described
from .models import repository
from .models.gate import Gate
from .models.measure import measure
from .models.session import choose_device
from .oneshot.engine import OneShotEngine
from .oneshot.request import Request
from .text.tokenizer import Encoded, TokenizerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .loading import Loaded
    from .models.datatypes import Arrays
    from .models.repository import Found

log = logging.getLogger(__name__)

Accepted = dict[OneShotEngine, list[tuple[Request, "Arrays"]]]
"""Requests on their way into the engines' queues."""

_UNLOAD_S = 10.0
"""How long an unloading model may take to answer what it holds."""


class Host:
    """Implements `port.Host`. Messages come from one thread at a time; loading has its own."""

    def __init__(self, config: port.HostConfig) -> None:
        self._config = config
        self._root = Path(config.models)
        self.device = choose_device(config.device)
        self._gate = Gate(self.device, _permits(self.device), config.max_run_s)
        self._preparing = Loader(config, self._root, self.device, self._gate)
        self._loaded: dict[tuple[str, int], Loaded] = {}
        self._engine_of: dict[int, OneShotEngine] = {}
        self._reading: set[int] = set()  # keys whose text is with the tokenizers
        self._pool = TokenizerPool(config.tokenizer_workers)
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._report: Callable[[port.News], None] = lambda _: None
        self._stopping = threading.Event()

    # --- the port -----------------------------------------------------------------------------------

    def start(self, report: Callable[[port.News], None]) -> None:
        """Tell of every model that is there, then load them one by one.

        Raises:
            LoadError: there is no repository.
        """
        self._report = report
        found = repository.find(self._root)
        if self._config.selected:
            found = [one for one in found if one.name in self._config.selected]
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
                case port.Credit():
                    pass  # one-shot answers are one message: there is nothing to pause
        self._queue(accepted)

    def stop(self, within_s: float) -> None:
        self._stopping.set()
        self._loader.shutdown(wait=False, cancel_futures=True)
        for loaded in list(self._loaded.values()):
            loaded.engine.stop(within_s)
        self._pool.close()

    # --- requests -----------------------------------------------------------------------------------

    def _submit(self, submit: port.Submit, accepted: Accepted) -> None:
        loaded = self._loaded.get((submit.model, submit.version))
        if loaded is None:
            self._refuse(submit, unavailable(f"model {submit.model!r} is being unloaded"))
        elif submit.text is None:
            self._accept(submit, loaded, submit.inputs, (), accepted)
        elif loaded.vocabulary is None:
            self._refuse(
                submit, bad_input(submit.field, f"model {submit.model!r} has no tokenizer; send ids")
            )
        else:
            self._reading.add(submit.key)
            self._pool.encode(
                loaded.vocabulary, submit.text, lambda encoded: self._encoded(submit, loaded, encoded)
            )

    def _encoded(self, submit: port.Submit, loaded: Loaded, encoded: Encoded | Exception) -> None:
        try:
            self._reading.remove(submit.key)
        except KeyError:  # cancelled meanwhile
            return
        if isinstance(encoded, Exception):
            self._refuse(submit, bad_input(submit.field, f"the text cannot be tokenized: {encoded}"))
        elif not encoded.ids:
            self._refuse(submit, bad_input(submit.field, "the text has no tokens; send at least one word"))
        else:
            inputs = {loaded.card.text_input: np.array([encoded.ids], np.int64)}
            accepted: Accepted = {}
            self._accept(submit, loaded, inputs, tuple(encoded.tokens) if submit.tokens else (), accepted)
            self._queue(accepted)

    def _accept(
        self, submit: port.Submit, loaded: Loaded, inputs: Arrays, tokens: tuple[str, ...], accepted: Accepted
    ) -> None:
        """Put a request among those `accepted` for its engine, or refuse it."""
        try:
            request = Request(submit, submit.measure or measure(loaded.card, inputs), tokens)
        except ServingError as error:
            self._refuse(submit, in_field(error, submit.field))
            return
        self._engine_of[submit.key] = loaded.engine
        accepted.setdefault(loaded.engine, []).append((request, inputs))

    def _queue(self, accepted: Accepted) -> None:
        """Hand each engine what was accepted for it, all at once: one wake-up."""
        for engine, requests in accepted.items():
            engine.submit(requests)
        accepted.clear()

    def _refuse(self, submit: port.Submit, error: ServingError) -> None:
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

    def _tell(self, found: Found, state: str, reason: str = "", loaded: Loaded | None = None) -> None:
        card = loaded.card if loaded else None
        costs = loaded.engine.costs.to_dict() if loaded else None
        self._report(port.ModelUpdate(found.name, found.version, state, reason, card, costs))

    def _load(self, found: Found) -> None:
        if self._stopping.is_set():
            return
        try:
            loaded = self._preparing.prepare(found, self._from_engine)
        except LoadError as error:
            log.error("model %s/%d is not served: %s", found.name, found.version, error)
            self._tell(found, "UNAVAILABLE", str(error))
        except Exception as error:
            log.exception("model %s/%d is not served", found.name, found.version)
            self._tell(found, "UNAVAILABLE", f"{type(error).__name__}; see the server's log")
        else:
            loaded.engine.start()
            self._loaded[found.name, found.version] = loaded
            log.info("model %s/%d is ready%s", found.name, found.version, described(loaded.card))
            self._tell(found, "READY", loaded=loaded)

    def _reload(self, name: str) -> None:
        found = repository.find_model(self._root, name)
        if not found:
            raise LoadError(f"{self._root / name}: there is no model of this name in the repository")
        for one in found:
            self._retire(one.name, one.version)
            self._tell(one, "LOADING")
            self._load(one)
        failed = [one for one in found if (one.name, one.version) not in self._loaded]
        if len(failed) == len(found):
            raise LoadError(
                f"no version of {name!r} could be loaded; see the repository index for the reasons"
            )

    def _unload(self, name: str) -> None:
        versions = [version for model, version in list(self._loaded) if model == name]
        if not versions:
            raise LoadError(f"model {name!r} is not loaded")
        for version in versions:
            self._retire(name, version)

    def _retire(self, name: str, version: int) -> None:
        """Take a version out of service, once what it holds has ended."""
        loaded = self._loaded.get((name, version))
        if loaded is None:
            return
        self._report(port.ModelUpdate(name, version, "UNLOADING"))
        del self._loaded[name, version]
        loaded.engine.stop(_UNLOAD_S)
        self._report(port.ModelUpdate(name, version, "UNAVAILABLE", "it was unloaded"))

    def _watch(self, done: Future[None], name: str, verb: str) -> None:
        def tell(future: Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            reason = "the server is stopping" if future.cancelled() else str(error) if error else ""
            self._report(port.LoadDone(name, verb, reason))

        done.add_done_callback(tell)


def _permits(device: str) -> int:
    """Runs at one time from which the device gains: one core is left to the front end."""
    return 1 if device == "cuda" else max(1, (os.cpu_count() or 1) - 1)
