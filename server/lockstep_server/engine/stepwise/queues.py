"""The sequences of one model from their wait for a slot to their end: a queue for each kind.

`GenerationQueue`: add → (slot) → start → running → remove. A running sequence that is out of credit is
paused; once it has credit it is resuming, and it runs again in the next plan. It keeps its slot meanwhile.
A sequence of either kind may lose its slot to another caller: it is suspended, and resumes with a new slot.

`ClientQueue`: add → (slot) → start → ready → next_steps → finish → ready or idle → … → end. A sequence is
live from its first step until its end is requested; then its waiting steps run, and it ends. A sequence that
is idle for too long is evicted. Ended ids are remembered for a while. A sequence that is moved to another
server is frozen meanwhile: freeze → thaw, or leave.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar

from ...errors import ErrorCode, ServingError, moved, unavailable
from .sequence import FailedSequence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ...messages import SequenceId
    from .sequence import ClientSequence, GenerationSequence, StepRequest
    from .slot_pool import SlotPool

_End = TypeVar("_End")

_MAX_ENDED_IDS = 4096
"""Ids of ended sequences to remember, so that the error of their next step says why."""

UNKNOWN_SEQUENCE = "unknown sequence: this server does not hold it; start it with sequence_start"


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
            if sequence.has_slot:
                self._resuming[sequence] = None
            else:
                self._pool.wait_again(sequence)

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

    def suspend(self, sequence: GenerationSequence) -> bool:
        """Stop a sequence that has lost its slot. Returns whether it ran, and may be in a batch."""
        ran = sequence in self._running
        if sequence not in self._paused and not sequence.frozen:
            self._running.pop(sequence, None)
            self._resuming.pop(sequence, None)
            self._pool.wait_again(sequence)
        return ran

    def reinstate(self, sequence: GenerationSequence) -> None:
        """Resume a suspended sequence that has a slot again."""
        self._resuming[sequence] = None

    def freeze(self, sequence: GenerationSequence) -> None:
        """Step a sequence no more. It keeps its slot, and is in no batch."""
        sequence.frozen = True
        self._running.pop(sequence, None)
        self._resuming.pop(sequence, None)
        self._paused.pop(sequence, None)
        self._pool.stop_waiting(sequence)

    def thaw(self, sequence: GenerationSequence) -> None:
        """Go on with a frozen sequence, which has not ended."""
        sequence.frozen = False
        if sequence.has_slot:
            self._resuming[sequence] = None
        else:
            self._pool.wait_again(sequence)

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


class ClientQueue:
    """Which client sequences exist, and which have a step to run. Not thread-safe.

    `idle_timeout_s`: a sequence without a step for this long is evicted.
    """

    def __init__(self, pool: SlotPool, idle_timeout_s: float) -> None:
        self._pool, self._idle_timeout_s = pool, idle_timeout_s
        self._live: dict[SequenceId, ClientSequence] = {}  # accept steps
        self._ready: dict[ClientSequence, None] = {}  # have a slot and a step to run
        self._idle: OrderedDict[ClientSequence, None] = OrderedDict()  # have states; longest idle first
        self._ended: OrderedDict[SequenceId, str] = OrderedDict()  # why, for the caller
        self._frozen: dict[SequenceId, ClientSequence] = {}
        self._moved: OrderedDict[SequenceId, tuple[str, str]] = OrderedDict()  # where to, and the id there

    # --- requests -----------------------------------------------------------------------------------

    def add(self, step: StepRequest, *, start: bool, end: bool, now: float) -> ServingError | None:
        """Queue one step, and set `step.sequence` to the live sequence with its id. Returns the error if
        the step is rejected."""
        live = self._live.get(step.sequence.id)
        if start:
            if step.sequence.id in self._frozen:
                return being_moved()
            if error := self._pool.add(step.sequence, step.deadline, now):
                return error
            if live is not None:
                self._close(live)
            live = self._live[step.sequence.id] = step.sequence
            self._forget(live.id)
        elif live is None:
            return self.lost(step.sequence.id)
        step.sequence = live
        live.waiting.append(step)
        if live.frozen:
            pass
        elif live.has_slot:
            self._idle.pop(live, None)
            self._ready[live] = None
        elif live in self._idle:  # suspended
            del self._idle[live]
            self._pool.wait_again(live)
        if end:
            self._close(live)
        return None

    def put(self, sequence: ClientSequence, now: float) -> ServingError | None:
        """Take a sequence over that has states. Returns the error if it is rejected."""
        if sequence.id in self._live:
            return id_in_use()
        if error := self._pool.put(sequence, now):
            return error
        sequence.since = now
        self._live[sequence.id] = sequence
        self._idle[sequence] = None
        self._forget(sequence.id)
        return None

    def get(self, sequence_id: SequenceId) -> ClientSequence | None:
        """The live sequence with an id."""
        return self._live.get(sequence_id)

    def lost(self, key: SequenceId) -> ServingError:
        """Why a sequence is not live, without its id, which is the caller's: it is logged."""
        if (place := self._moved.get(key)) is not None:
            return moved(*place)
        why = self._ended.get(key)
        reason = f"the sequence {why}; start it again" if why else UNKNOWN_SEQUENCE
        return ServingError(ErrorCode.SEQUENCE_LOST, reason)

    def drop(self, step: StepRequest) -> None:
        """Drop a step. A sequence that loses its only steps while it waits for a slot ends."""
        step.dropped = True
        sequence = step.sequence
        if sequence.frozen:
            return
        if sequence.has_slot:
            _discard_dropped(sequence)
            if not sequence.waiting and sequence in self._ready:
                self._after_step(sequence, sequence.since)
        elif all(other.dropped for other in sequence.waiting):
            sequence.waiting.clear()
            if sequence in self._pool.suspended and not sequence.closing:
                self._pool.stop_waiting(sequence)
                self._idle[sequence] = None
            else:
                self._close(sequence)

    def end(self, sequence_id: SequenceId) -> list[StepRequest]:
        """End a sequence whose client has gone. Returns its waiting steps, which are dropped."""
        live = self._live.get(sequence_id)
        if live is None:
            return []
        dropped = list(live.waiting)
        for step in dropped:
            step.dropped = True
        live.waiting.clear()
        self._close(live)
        return dropped

    # --- moves --------------------------------------------------------------------------------------

    def freeze(self, sequence: ClientSequence) -> ServingError | None:
        """Run no more steps of a live sequence. Returns the error if that is not possible now."""
        if sequence.frozen:
            return being_moved()
        if not (sequence.has_slot or sequence in self._pool.suspended):
            return unavailable("the first step of the sequence has not run yet; retry", 0.1)
        sequence.frozen = True
        self._frozen[sequence.id] = sequence
        self._ready.pop(sequence, None)
        self._idle.pop(sequence, None)
        self._pool.stop_waiting(sequence)
        return None

    def thaw(self, sequence: ClientSequence, now: float) -> None:
        """Go on with a frozen sequence."""
        if not sequence.frozen:
            return  # it has ended
        sequence.frozen, sequence.since = False, now
        del self._frozen[sequence.id]
        _discard_dropped(sequence)
        if sequence.closing and not sequence.waiting:
            self._release(sequence)
        elif not sequence.waiting:
            self._idle[sequence] = None
        elif sequence.has_slot:
            self._ready[sequence] = None
        else:
            self._pool.wait_again(sequence)

    def leave(
        self, sequence: ClientSequence, *, address: str = "", resumes: str = "", why: str = ""
    ) -> list[StepRequest]:
        """End a frozen sequence, which another server has now, or nobody. Returns its waiting steps."""
        left = [step for step in sequence.waiting if not step.dropped]
        sequence.waiting.clear()
        if sequence.frozen:
            self._close(sequence, why)
            if address:
                self._ended.pop(sequence.id, None)
                remember(self._moved, sequence.id, (address, resumes))
        return left

    # --- steps --------------------------------------------------------------------------------------

    def start(self, sequence: ClientSequence) -> None:
        """Make a sequence that got a slot ready."""
        self._ready[sequence] = None

    def suspend(self, sequence: ClientSequence) -> None:
        """Stop a sequence that has lost its slot. An idle one waits for a slot when its next step comes."""
        if sequence in self._ready:
            del self._ready[sequence]
            self._pool.wait_again(sequence)

    def next_steps(self) -> tuple[StepRequest, ...]:
        """Take one step of each ready sequence."""
        steps = []
        for sequence in list(self._ready):
            _discard_dropped(sequence)
            if sequence.waiting:
                steps.append(sequence.waiting.popleft())
            else:
                self._after_step(sequence, sequence.since)
        return tuple(steps)

    def finish(self, step: StepRequest, now: float) -> None:
        """Record that a step has been answered."""
        self._after_step(step.sequence, now)

    def evict(self, now: float) -> None:
        """End the sequences that have been idle for `idle_timeout_s`."""
        while self.due() <= now:
            first = next(iter(self._idle))
            self._close(first, f"was evicted after {self._idle_timeout_s:g} s without a step")

    # --- states of a sequence -----------------------------------------------------------------------

    def _after_step(self, sequence: ClientSequence, now: float) -> None:
        """Make a sequence ready for its next step, or idle, or end it if it is closing."""
        if not sequence.has_slot:
            return
        _discard_dropped(sequence)  # a step that was dropped before the sequence had a slot is still there
        if sequence.waiting:
            self._ready[sequence] = None
            return
        self._ready.pop(sequence, None)
        if sequence.closing:
            self._release(sequence)
        else:
            sequence.since = now
            self._idle[sequence] = None
            self._idle.move_to_end(sequence)

    def _close(self, sequence: ClientSequence, why: str = "has ended") -> None:
        """Accept no more steps for a sequence; it ends once its waiting steps have run."""
        sequence.closing = True
        if self._live.get(sequence.id) is sequence:
            del self._live[sequence.id]
            self._remember_end(sequence.id, why)
        if not sequence.waiting and sequence not in self._ready:
            self._release(sequence)

    def _remember_end(self, sequence_id: SequenceId, why: str) -> None:
        remember(self._ended, sequence_id, why)

    def _forget(self, sequence_id: SequenceId) -> None:
        """Forget the end of an earlier sequence of an id that is live."""
        self._ended.pop(sequence_id, None)
        self._moved.pop(sequence_id, None)

    def _release(self, sequence: ClientSequence) -> None:
        self._idle.pop(sequence, None)
        self._ready.pop(sequence, None)
        sequence.states = None
        if sequence.frozen:
            sequence.frozen = False
            del self._frozen[sequence.id]
        self._pool.release(sequence)

    # --- state --------------------------------------------------------------------------------------

    def due(self) -> float:
        """When the next idle sequence is evicted; infinity if none is idle."""
        return next(iter(self._idle)).since + self._idle_timeout_s if self._idle else math.inf

    @property
    def ready(self) -> int:
        """The number of sequences that have a slot and a step to run."""
        return len(self._ready)

    def live_ids(self) -> list[SequenceId]:
        """The sequences that accept steps. Safe to call from any thread."""
        return list(self._live)

    def ended(self) -> dict[SequenceId, str]:
        """Why sequences have ended, by id. Safe to call from any thread."""
        return dict(self._ended)

    def remember(self, ended: Mapping[SequenceId, str]) -> None:
        """Answer the next step of these sequences, which another queue had, with the reason of their end."""
        for sequence_id, why in ended.items():
            if sequence_id not in self._live:
                self._remember_end(sequence_id, why)

    @property
    def idle(self) -> int:
        return len(self._idle) + len(self._frozen)


def remember(ends: OrderedDict[SequenceId, _End], sequence_id: SequenceId, end: _End) -> None:
    ends[sequence_id] = end
    if len(ends) > _MAX_ENDED_IDS:
        ends.popitem(last=False)


def being_moved() -> ServingError:
    return unavailable("the sequence is being moved to another server; retry", 0.05)


def id_in_use() -> ServingError:
    why = "a live sequence has this id; end it, or send another id"
    return ServingError(ErrorCode.REFUSED_STATE, why)


def _discard_dropped(sequence: ClientSequence) -> None:
    while sequence.waiting and sequence.waiting[0].dropped:
        sequence.waiting.popleft()
