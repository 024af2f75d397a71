"""The modes in service, and those that others have replaced, until their sequences have ended.

A generation stream has its engine by its key. A client-driven sequence has it by its id: a step goes to the
engine that the sequence began on, and a new start with the same id goes to the new engine.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from msgspec import structs

from .. import messages
from .stepwise.engine import StepEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .loading.loader import LoadedModel

Key = tuple[str, int]
"""The name and version of a mode."""


_MAX_STARTED = 16_384
"""Client-driven sequences whose version is remembered, for a front end that did not start them."""


class ModelTable:
    """The modes in service by name and version. `lock` is held while messages are routed, and for a swap."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.modes: dict[Key, LoadedModel] = {}
        self.replaced = ReplacedEngines()
        self._started: OrderedDict[tuple[str, messages.SequenceId], int] = OrderedDict()

    def note_start(self, step: messages.Step | messages.PutSequence) -> None:
        """Remember the version that a client-driven sequence begins on, or is put on."""
        self._started[step.model, step.sequence] = step.version
        self._started.move_to_end((step.model, step.sequence))
        if len(self._started) > _MAX_STARTED:
            self._started.popitem(last=False)

    def load_of(self, model: str, sequence: messages.SequenceId) -> int:
        """The number of the load of the mode that a sequence was last started on; 0 if it is not known."""
        version = self._started.get((model, sequence), 0)
        engine = self.replaced.engine_with((model, version), sequence)
        modes = [*self.replaced.modes(), *self.modes.values()]
        if engine is not None:
            return next((mode.load for mode in modes if mode.engine is engine), 0)
        mode = self.modes.get((model, version))
        return mode.load if mode is not None else 0

    def versions_of(self, model: str) -> set[int]:
        return {mode.spec.version for mode in list(self.modes.values()) if mode.spec.model == model}

    def swap(self, model: str, version: int, modes: Iterable[LoadedModel]) -> list[LoadedModel]:
        """Put modes in the place of those of a model version. Returns the latter, which are now replaced."""
        with self.lock:
            before = [
                mode
                for mode in self.modes.values()
                if (mode.spec.model, mode.spec.version) == (model, version)
            ]
            for mode in before:
                self.replaced.add(mode)
                del self.modes[mode.spec.name, version]
            self.modes.update({(mode.spec.name, version): mode for mode in modes})
        return before


class ReplacedEngines:
    """The replaced modes of models, and the engines of the client sequences that are left. Not locked."""

    def __init__(self) -> None:
        self._modes: list[LoadedModel] = []
        self._engine_of: dict[Key, dict[messages.SequenceId, StepEngine]] = {}

    def add(self, mode: LoadedModel) -> None:
        """Keep a mode that gets no new requests from now on."""
        self._modes.append(mode)
        if isinstance(mode.engine, StepEngine) and (live := mode.engine.live_sequences()):
            engine_of = self._engine_of.setdefault((mode.spec.name, mode.spec.version), {})
            engine_of.update(dict.fromkeys(live, mode.engine))

    def remove(self, mode: LoadedModel) -> set[messages.SequenceId] | None:
        """Forget a mode that has ended. Returns its client sequences that had not; None if it was unknown."""
        if mode not in self._modes:
            return None
        self._modes.remove(mode)
        key = (mode.spec.name, mode.spec.version)
        engine_of = self._engine_of.pop(key, {})
        if rest := {id_: engine for id_, engine in engine_of.items() if engine is not mode.engine}:
            self._engine_of[key] = rest
        lost = engine_of.keys() - rest.keys()
        return lost & mode.engine.live_sequences() if isinstance(mode.engine, StepEngine) else set()

    def engine_of(self, step: messages.Step) -> StepEngine | None:
        """The replaced engine that the step's sequence is on; None if it is on none, or starts again."""
        if not self._engine_of:
            return None
        engines = self._engine_of.get((step.model, step.version), {})
        if not step.start:
            return engines.get(step.sequence)
        if (engine := engines.pop(step.sequence, None)) is not None:
            engine.end_sequence(step.sequence)
        return None

    def engine_with(self, key: Key, sequence: messages.SequenceId) -> StepEngine | None:
        """The replaced engine that a sequence is on, if it is on one."""
        return self._engine_of.get(key, {}).get(sequence)

    def end_sequence(self, end: messages.EndSequence) -> bool:
        """End a client sequence whose client has gone, if it is on a replaced engine."""
        engine = self._engine_of.get((end.model, end.version), {}).pop(end.sequence, None)
        if engine is not None:
            engine.end_sequence(end.sequence)
        return engine is not None

    def modes(self, model: str = "") -> list[LoadedModel]:
        """The replaced modes, of this model or of all."""
        return [mode for mode in self._modes if model in ("", mode.spec.model)]


class Reports:
    """Passes an engine's updates on; after it was replaced, only what concerns its requests."""

    def __init__(self, report: Callable[[messages.EngineUpdate], None]) -> None:
        self._report = report
        self.replaced = False

    def __call__(self, update: messages.EngineUpdate) -> None:
        if self.replaced:
            if isinstance(update, messages.Costs | messages.BatchingOff | messages.ModelPaused):
                return
            if isinstance(update, messages.Events) and update.sequences is not None:
                update = structs.replace(update, sequences=None)  # the new engine counts its own
        self._report(update)
