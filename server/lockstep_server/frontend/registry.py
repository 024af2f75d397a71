"""The models that the front end serves, kept current by the engine's updates.

ModelUpdate -> version table -> on READY: spec, admission controller, meters. A request's model name and
version -> ServedModel, or the error for it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import messages
from ..errors import ServingError, bad_input, unavailable
from ..metrics.families import Metrics, ModelMeters
from .admission import AdmissionController
from .callers import current
from .loads import Loads
from .request_log import RequestLog
from .served_model import ModelStatisticsCounters, ServedModel
from .tokenization import Tokenizers
from .versions import VersionState, VersionTable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Any

    from ..model.spec import ModelSpec
    from .shared_usage import SharedUsage
    from .versions import ModelVersion

    AskOthers = Callable[[], Awaitable[list[tuple[str, int, dict[str, Any]]]]]
    """Asks the other front ends for their statistics: name, version, fields of `ModelStatisticsCounters`."""

log = logging.getLogger(__name__)


_STARTING = "the server is starting, or starts its engine again; retry after 1 s"
_FORGET_S = 10.0
"""How long after its end a replaced version is remembered, for the errors of its sequences."""


class ModelRegistry:
    """The model versions by name and number. Event loop only, except `served_models`."""

    def __init__(
        self,
        metrics: Metrics,
        on_change: Callable[[ModelRegistry], Awaitable[None]],
        request_log: RequestLog | None = None,
        tokenizers: Tokenizers | None = None,
        require_ready: float = 0.0,
        reload_grace_s: float = 0.0,
        first_key: int = 1,
    ) -> None:
        self.shared_usage: SharedUsage | None = None  # if there are several front ends
        self.others_ready = True  # the other front ends are
        self.ask: Callable[[messages.Message], None] | None = None  # the engine, if there are several
        self.ask_others: AskOthers | None = None
        self._finds: dict[int, asyncio.Future[int]] = {}
        self._reload_grace_s = reload_grace_s
        self._replaced: list[ServedModel] = []  # with live sequences
        self.versions = VersionTable()
        self._require_ready = require_ready
        self.tokenizers = tokenizers or Tokenizers()
        self.device = "cpu"
        self._request_log = request_log or RequestLog()
        self._metrics, self._on_change = metrics, on_change
        self._served: dict[tuple[str, int], ServedModel] = {}
        self._defaults: dict[str, ServedModel] = {}  # of requests without a version, since the last change
        self.loads = Loads(first_key)
        self._changes: set[asyncio.Task[None]] = set()
        self._listed = False
        self._unlisted: set[tuple[str, int]] = set()  # not reported by the engine since its restart

    def resolve(self, name: str, version: str = "", method: str = "", requests: int = 1) -> ServedModel:
        """
        Args:
            method: if given, an error is recorded as the refusal of `requests` requests of this method.

        Raises:
            ServingError: as `VersionTable.resolve`; UNAVAILABLE until the engine has named its models.
        """
        if not version and (default := self._defaults.get(name)) is not None:
            return default
        try:
            self.check_known(name)
            entry = self.versions.resolve(name, version, current.get().may_use)
        except ServingError as error:
            if method:
                self.record_refusal(name, version, method, error, requests)
            raise
        served = self._served[entry.name, entry.version]
        if not version:
            self._defaults[name] = served
        return served

    def resolve_step(
        self, name: str, version: str, sequence: messages.SequenceId, *, start: bool, method: str = ""
    ) -> ServedModel:
        """The model version for a step. A step that starts no sequence goes to the version that the sequence
        began on, even if that was replaced or is not the default any more.

        Raises:
            ServingError: as `resolve`.
        """
        served = None
        with suppress(ServingError):
            entry = self.versions.resolve(name, version)
            served = self._served[entry.name, entry.version]
            if sequence in served.sequences and not start:
                return served
        for other in itertools.chain(self._served.values(), self._replaced):
            if other is served or sequence not in other.sequences or other.spec.name != name:
                continue
            if not start and version in ("", str(other.spec.version)):
                return other
            if start and served is not None and (not version or other.spec.version == served.spec.version):
                del other.sequences[sequence]  # the id means the new sequence from now on
        return served if served is not None else self.resolve(name, version, method)

    async def statistics(
        self, found: Iterable[ServedModel]
    ) -> list[tuple[ServedModel, ModelStatisticsCounters]]:
        """What all front ends have counted of these models."""
        found = list(found)
        others = await self.ask_others() if self.ask_others is not None else []
        counted = []
        for served in found:
            total = deepcopy(served.statistics)
            for name, version, fields in others:
                if (name, version) == (served.spec.name, served.spec.version):
                    total.add(ModelStatisticsCounters(**fields))
            counted.append((served, total))
        return counted

    async def locate(self, name: str, sequence: messages.SequenceId) -> None:
        """Learn from the engine where a sequence is, for `resolve_step`: another of several front ends may
        have started it, and on a version that is not the default, or not in service, any more."""
        places = [
            one for one in itertools.chain(self._served.values(), self._replaced) if one.spec.name == name
        ]
        if self.ask is None or len(places) < 2:
            return
        key = next(self.loads.keys)
        found = self._finds[key] = asyncio.get_running_loop().create_future()
        self.ask(messages.FindSequence(key, name, sequence))
        load = await asyncio.shield(found)
        for place in places if load else ():
            if place.load == load:
                place.sequences[sequence] = None
            else:
                place.sequences.pop(sequence, None)

    def record_refusal(
        self, name: str, version: str, method: str, error: ServingError, requests: int = 1
    ) -> None:
        """Count and log refused requests. Unknown model names and versions are recorded as ""."""
        known = {str(entry.version): entry.spec for entry in self.versions.snapshot() if entry.name == name}
        model = next((spec.model for spec in known.values() if spec is not None), name if known else "")
        labels = (model, version if version in known else "")
        self._metrics.refused.labels(*labels, method, error.code.value).inc(requests)
        self._request_log.refused(*labels, method, error)

    def stepwise(self, name: str, version: str, method: str) -> ServedModel:
        """The step-wise form of a model.

        Raises:
            ServingError: as `VersionTable.resolve`; BAD_INPUT, the model has no step-wise form.
        """
        served = self.resolve(name, version, method)
        if served.spec.is_stepwise:
            return served
        stepwise = self.get(f"{name}.step", served.spec.version)
        if stepwise is None or stepwise.spec.model != name:
            error = bad_input("model", f"model {name!r} has no step-wise form, which {method} needs")
            served.record_refusal(method, error)
            raise error
        return stepwise

    def stepwise_if_any(self, name: str, version: str, method: str) -> ServedModel:
        """The step-wise form of a model, or the model itself if it has none.

        Raises:
            ServingError: as `VersionTable.resolve`.
        """
        served = self.resolve(name, version, method)
        stepwise = self.get(f"{name}.step", served.spec.version)
        return stepwise if stepwise is not None and stepwise.spec.model == name else served

    def served_models(self) -> list[ServedModel]:
        """All READY versions, sorted by name and version. Safe to call from any thread."""
        return [one for _, one in sorted(self._served.copy().items(), key=lambda item: item[0])]

    def get(self, name: str, version: int) -> ServedModel | None:
        return self._served.get((name, version))

    def ready(self) -> bool:
        """Whether this front end is ready, and so are the others."""
        return self.ready_here() and self.others_ready

    def ready_here(self) -> bool:
        """Whether the repository has been listed, no model is loading, and enough versions are READY."""
        return self._listed and self.versions.settled() and self.versions.share_ready() >= self._require_ready

    def check_known(self, name: str) -> None:
        """
        Raises:
            ServingError: UNAVAILABLE, no model has this name yet, but one may soon.
        """
        if name in self.versions:
            return
        self.check_listed()
        model = name.removesuffix(".step")  # its forms are known once it is loaded
        if model in self.versions and not self.versions.settled(model):
            raise unavailable(f"model {model!r} is loading; retry when it is ready")

    def check_listed(self) -> None:
        """
        Raises:
            ServingError: UNAVAILABLE, the engine has not named its models yet.
        """
        if not self._listed:
            raise unavailable(_STARTING)

    async def mark_listed(self) -> None:
        """The engine has reported every model in the repository."""
        self._listed = True
        for name, version in self._unlisted.copy():
            gone = "it is not in the repository any more"
            self.update(_withdrawn(name, version, gone))
        await self._on_change(self)

    def serving(self, name: str) -> bool:
        """Whether a request for this model without a version would be accepted."""
        try:
            self.versions.resolve(name)
        except ServingError:
            return False
        return True

    def apply(self, update: messages.EngineUpdate) -> None:
        """Apply what the engine says of a model."""
        match update:
            case messages.ModelUpdate():
                self.update(update)
            case messages.Costs():
                self.set_costs(update)
            case messages.Verified():
                self.verified(update)
            case messages.BatchingOff():
                self.batching_off(update)
            case messages.ModelPaused():
                self.pause(update)
            case messages.LoadStep():
                self.versions.load_step(update.model, update.version, update.step)
            case messages.LoadDone():
                self.loads.done(update)
            case messages.SequenceFound(key, load):
                self._finds.pop(key).set_result(load)

    def update(self, update: messages.ModelUpdate) -> None:
        """Apply a model's new state."""
        state = VersionState[update.state]
        self._unlisted.discard((update.model, update.version))
        entry = self.versions.get(update.model, update.version)
        ready_again = (
            state is VersionState.READY and entry is not None and entry.state is not VersionState.LOADING
        )
        if entry is None or state is VersionState.LOADING or ready_again:
            # A version that is loaded again is READY in place of the one that served until now.
            entry = self.versions.begin(update.model, update.version)
        if state is VersionState.READY and update.spec is not None:
            self._begin_serving(update.spec, update)  # first: other threads ask whether all are ready
        entry.advance(
            state,
            update.reason,
            update.spec,
            public_reason=update.public_reason,
            withdrawn=update.withdrawn,
        )
        if state is VersionState.UNAVAILABLE:
            self._served.pop((update.model, update.version), None)
        self._report_change()

    def _report_change(self) -> None:
        self._defaults.clear()
        self._warn_if_too_few()
        change = asyncio.ensure_future(self._on_change(self))
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)

    def _warn_if_too_few(self) -> None:
        """Say why the server is not ready although no model is loading any more."""
        share = self.versions.share_ready()
        if self._listed and self.versions.settled() and share < self._require_ready:
            log.warning(
                "not ready: %.0f%% of the model versions have loaded, require_models asks for %.0f%%",
                share * 100,
                self._require_ready * 100,
            )

    def _begin_serving(self, spec: ModelSpec, update: messages.ModelUpdate) -> None:
        version, methods = update.version, methods_of(spec)
        meters = ModelMeters(self._metrics, spec.model, version, self.device, spec.mode, methods)
        if self.shared_usage is not None:
            self.shared_usage.begin_model(spec.name, spec.version)
        admission = AdmissionController(spec, update.costs or {}, self.shared_usage)
        vocabulary = self.tokenizers.open(update.tokenizer) if update.tokenizer else None
        served = ServedModel(
            spec,
            admission,
            meters,
            self._request_log,
            vocabulary=vocabulary,
            load_s=update.load_s,
            load=update.load,
        )
        replaced = self._served.get((update.model, version))
        if replaced is not None:
            replaced.admission.shared_usage = None  # what it still holds is not in the new one's queue
        self._served[update.model, version] = served
        if replaced is not None and (replaced.sequences or self.shared_usage is not None):
            self._replaced.append(replaced)
            forget = self._replaced.remove
            asyncio.get_running_loop().call_later(self._reload_grace_s + _FORGET_S, forget, replaced)

    def engine_lost(self) -> None:
        """The engine process ended. Its models load again, except those that were unloaded."""
        self._listed = False
        for entry in list(self.versions):
            if entry.spec is not None and entry.spec.model != entry.name:
                self.versions.remove(entry)
            elif not entry.withdrawn and entry.state is not VersionState.UNLOADING:
                self.update(loading(entry))
                self._unlisted.add((entry.name, entry.version))
            elif not entry.withdrawn:
                self.update(_withdrawn(entry.name, entry.version, "it was unloaded"))
        self._served.clear()
        self._defaults.clear()
        for replaced in self._replaced:
            replaced.sequences.clear()
        self.loads.engine_lost()
        for found in self._finds.values():
            found.set_result(0)
        self._finds.clear()

    def set_costs(self, update: messages.Costs) -> None:
        if (served := self.get(update.model, update.version)) is not None:
            served.admission.set_costs(update.costs)

    def verified(self, update: messages.Verified) -> None:
        if (served := self.get(update.model, update.version)) is not None:
            served.meters.verified.inc(update.answers)

    def batching_off(self, update: messages.BatchingOff) -> None:
        if (served := self.get(update.model, update.version)) is not None:
            served.spec = replace(served.spec, batched=False, notice=f"not batched: {update.reason}")
            served.admission.batching_off()
            if self.shared_usage is None:  # otherwise the supervisor counts it
                served.meters.batch_mismatch.inc()
            if (entry := self.versions.get(update.model, update.version)) is not None:
                entry.spec = served.spec

    def pause(self, update: messages.ModelPaused) -> None:
        """Refuse requests of a model while a thread of its engine is restarted."""
        served, entry = (
            self.get(update.model, update.version),
            self.versions.get(update.model, update.version),
        )
        if served is None or entry is None:
            return
        if update.reason and self.shared_usage is None:
            served.meters.thread_restarts.inc()
        entry.paused = update.reason
        self._report_change()


def _withdrawn(name: str, version: int, why: str) -> messages.ModelUpdate:
    state = VersionState.UNAVAILABLE.name
    return messages.ModelUpdate(
        model=name, version=version, state=state, reason=why, public_reason=why, withdrawn=True
    )


def loading(entry: ModelVersion) -> messages.ModelUpdate:
    return messages.ModelUpdate(model=entry.name, version=entry.version, state=VersionState.LOADING.name)


def methods_of(spec: ModelSpec) -> list[str]:
    """The RPC methods that can use this mode of the model, by its manifest."""
    methods = ["ModelInfer", "ModelStreamInfer"]
    roles, task = spec.manifest.roles, spec.manifest.task
    if spec.is_stepwise:
        methods += [name for name in ("Generate", "Translate") if task == name.lower()]
        return [*methods, "Follow"]
    if spec.text_input and spec.classifies:
        methods += ["Classify", "ClassifyMany"]
    if spec.text_input and spec.classifies_tokens:
        methods += ["ClassifyTokens", "ClassifyTokensMany"]
    if spec.transcribes:
        methods += ["Transcribe"]
    return [*methods, "Encode", "EncodeMany"] if spec.text_input and roles.vector else methods
