"""Sequences that take no step while they are moved to another server.

`GetSequence` with `freeze` → frozen, with a copy of its state → `ThawSequence`: it goes on, or its waiting
requests end with the address of the server that has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ErrorCode, ServingError, moved
from . import snapshots
from .sequence import ClientSequence, GenerationSequence

if TYPE_CHECKING:
    from collections.abc import Callable

    from ... import messages
    from ...model.spec import ModelSpec
    from .batches import StepBatches
    from .output import OutputProcessor
    from .scheduler import Scheduler


class FrozenSequences:
    """The frozen sequences of an engine, by the key of the request that froze them. Engine thread only."""

    def __init__(
        self,
        spec: ModelSpec,
        scheduler: Scheduler,
        batches: StepBatches,
        output: OutputProcessor,
        clock: Callable[[], float],
    ) -> None:
        self._spec, self._scheduler, self._batches = spec, scheduler, batches
        self._output, self._clock = output, clock
        self._frozen: dict[int, ClientSequence | GenerationSequence | messages.SequenceId] = {}

    def client(self, key: int, sequence: ClientSequence) -> messages.SequenceState:
        """Freeze a client sequence. Returns its state.

        Raises:
            ServingError: UNAVAILABLE, it is frozen, or its first step has not run.
        """
        if error := self._scheduler.clients.freeze(sequence):
            raise error
        self._frozen[key] = sequence
        return snapshots.of_client(self._spec, sequence)

    def text(
        self, key: int, sequence: messages.SequenceId, text: GenerationSequence
    ) -> messages.SequenceState:
        """Freeze a text that was put here and that no stream has taken. Returns its state."""
        state = snapshots.of_generation(text)
        self._scheduler.put_texts.freeze(sequence)
        self._frozen[key] = sequence
        return state

    def stream(self, key: int, sequence: GenerationSequence) -> messages.SequenceState:
        """Freeze the text of a stream. Returns its state.

        Raises:
            ServingError: as `snapshots.of_generation`.
        """
        if sequence.search is None:
            self._batches.remove(sequence, keep_states=True)
        state = snapshots.of_generation(sequence)
        self._scheduler.generation.freeze(sequence)
        self._frozen[key] = sequence
        return state

    def thaw(self, end: messages.ThawSequence) -> None:
        """Let a frozen sequence go on, or end it here. Nothing, if it has ended."""
        sequence, now = self._frozen.pop(end.key, None), self._clock()
        if sequence is None:
            return
        goes_on = not (end.moved_to or end.lost)
        if isinstance(sequence, ClientSequence):
            if goes_on:
                self._scheduler.clients.thaw(sequence, now)
            else:
                where = {"address": end.moved_to, "resumes": end.resumes, "why": end.lost}
                for step in self._scheduler.leave(sequence, **where):
                    self._output.emit_failed(step, _error(end))
        elif isinstance(sequence, GenerationSequence):
            if self._scheduler.get(sequence.key) is not sequence:
                return
            if goes_on:
                self._scheduler.generation.thaw(sequence)
            else:
                self._output.emit_failed(sequence, _error(end))
                self._scheduler.finish((sequence,), (), now)
        elif goes_on:
            self._scheduler.put_texts.thaw(sequence, now)
        else:
            self._scheduler.put_texts.leave(sequence, end.moved_to)
        self._output.flush(self._scheduler.counts(), self._batches.state_bytes)


def _error(end: messages.ThawSequence) -> ServingError:
    if end.moved_to:
        return moved(end.moved_to, end.resumes)
    return ServingError(ErrorCode.SEQUENCE_LOST, f"the sequence {end.lost}; start it again")
