"""The generation sequences of one model, from their wait for a slot to their end.

add → (slot) → start → running → remove. A running sequence that is out of credit is paused; once it has
credit it is resuming, and it runs again in the next plan. It keeps its slot meanwhile.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from ...errors import ErrorCode, ServingError
from .sequence import FailedSequence

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .sequence import GenerationSequence
    from .slot_pool import SlotPool


class GenerationQueue:
    """Which generation sequences run, are paused, or leave their batch. Not thread-safe.

    `stalled_s`: a stream whose client reads nothing for this long is ended.
    """

    def __init__(self, pool: SlotPool, stalled_s: float) -> None:
        self._pool, self._stalled_s = pool, stalled_s
        self._running: dict[GenerationSequence, None] = {}
        self._paused: OrderedDict[GenerationSequence, None] = OrderedDict()  # longest pause first
        self._resuming: dict[GenerationSequence, None] = {}
        self._cancelled: list[GenerationSequence] = []  # may still be in a batch

    # --- requests -----------------------------------------------------------------------------------

    def add(self, sequence: GenerationSequence, now: float) -> ServingError | None:
        """Queue a sequence for a slot. Returns the error if it is rejected."""
        return self._pool.add(sequence, sequence.deadline, now)

    def cancel(self, sequence: GenerationSequence) -> None:
        """Remove a sequence; if it had a slot, the next plan removes it from its batch."""
        if sequence.has_slot:
            self._cancelled.append(sequence)
        self.remove(sequence)

    def credit(self, sequence: GenerationSequence, n: int) -> None:
        """Add credit for `n` chunks; a paused sequence resumes once its credit is positive."""
        sequence.credits += n
        if sequence in self._paused and sequence.credits > 0:
            del self._paused[sequence]
            self._resuming[sequence] = None

    # --- steps --------------------------------------------------------------------------------------

    def start(self, sequences: Iterable[GenerationSequence]) -> None:
        """Run sequences that got a slot."""
        self._running.update(dict.fromkeys(sequences))

    def resume(self) -> tuple[GenerationSequence, ...]:
        """Run the sequences that got credit, and return them."""
        if not self._resuming:
            return ()
        resumed = tuple(self._resuming)
        self._running.update(self._resuming)
        self._resuming.clear()
        return resumed

    def take_cancelled(self) -> tuple[GenerationSequence, ...]:
        """The sequences cancelled since the last call that held a slot."""
        cancelled, self._cancelled = tuple(self._cancelled), []
        return cancelled

    def pause(self, sequence: GenerationSequence, now: float) -> None:
        """Pause a sequence that is out of credit, if it is running."""
        if sequence in self._running:
            del self._running[sequence]
            sequence.paused_at = now
            self._paused[sequence] = None

    def finish(self, sequence: GenerationSequence, now: float) -> None:
        """Remove a sequence that has generated its last token."""
        self._pool.learn_slot_time(now - sequence.since)
        self.remove(sequence)

    def remove(self, sequence: GenerationSequence) -> None:
        """Remove a sequence in any state and free its slot."""
        self._running.pop(sequence, None)
        self._paused.pop(sequence, None)
        self._resuming.pop(sequence, None)
        self._pool.release(sequence)

    def end_stalled(self, now: float) -> list[FailedSequence]:
        """Remove the sequences that have been paused for `stalled_s`."""
        stalled = []
        while self.due() <= now:
            sequence = next(iter(self._paused))
            self.remove(sequence)
            stalled.append(FailedSequence(sequence, self._stalled_error()))
        return stalled

    def _stalled_error(self) -> ServingError:
        why = f"the client read nothing for {self._stalled_s:g} s; read the stream or cancel the call"
        return ServingError(ErrorCode.SEQUENCE_LOST, why)

    # --- state --------------------------------------------------------------------------------------

    def due(self) -> float:
        """When the next paused sequence is stalled; infinity if none is paused."""
        return next(iter(self._paused)).paused_at + self._stalled_s if self._paused else math.inf

    def has_work(self) -> bool:
        """Whether a sequence runs, or is to be added to or removed from a batch."""
        return bool(self._running or self._resuming or self._cancelled)

    @property
    def running(self) -> int:
        """The number of sequences that run, or will in the next plan."""
        return len(self._running) + len(self._resuming)

    @property
    def paused(self) -> int:
        return len(self._paused)
