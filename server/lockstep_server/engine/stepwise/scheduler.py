"""Decides between any two steps which sequences join, step and leave.

add_generation, add_step → waiting → slot → plan → finish, pause. A sequence holds a slot from its
admission to its end. While all slots are in use, new sequences wait; if too many wait, they are rejected.
Deterministic: it has no clock and no session, and `now` is an argument.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ...errors import ErrorCode, ServingError, bad_input, deadline_passed, overloaded
from ...messages import SequenceCounts
from .sequence import ClientSequence, GenerationSequence, StepRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...messages import Feed, SequenceId

_MAX_EVICTED_IDS = 4096
"""Evicted ids to remember, so that their next step gets SEQUENCE_LOST instead of BAD_INPUT."""

_LEARNING_RATE = 0.1


@dataclass(frozen=True)
class SequenceLimits:
    """Bounds of one model's sequences."""

    slots: int
    max_waiting: int  # sequences that may wait for a slot
    max_queue_s: float  # longest wait for a slot
    idle_timeout_s: float  # a client sequence without a step for this long is evicted
    stalled_s: float  # a stream whose client reads nothing for this long is ended


class FailedSequence(NamedTuple):
    """A request that ends with an error."""

    request: GenerationSequence | StepRequest
    error: ServingError


@dataclass(frozen=True)
class StepPlan:
    """What the next step consists of."""

    failed: tuple[FailedSequence, ...]  # report these errors; remove generation sequences from their batches
    cancelled: tuple[GenerationSequence, ...]  # remove from their batches; report nothing
    admitted: tuple[GenerationSequence, ...]  # got a slot; prefill them
    resumed: tuple[GenerationSequence, ...]  # got credit; add them to a batch again
    client_steps: tuple[StepRequest, ...]  # one of each client sequence that has any
    generating: bool  # whether any generation sequence runs


@dataclass
class Scheduler:
    """Schedules the sequences of one model version. Not thread-safe."""

    limits: SequenceLimits
    slot_time_s: float = 0.0  # moving average of how long a sequence holds its slot
    _requests: dict[int, GenerationSequence | StepRequest] = field(default_factory=dict)
    _waiting: list[GenerationSequence | ClientSequence] = field(default_factory=list)
    _running: dict[GenerationSequence, None] = field(default_factory=dict)
    _paused: OrderedDict[GenerationSequence, None] = field(default_factory=OrderedDict)
    _resuming: dict[GenerationSequence, None] = field(default_factory=dict)
    _cancelled: list[GenerationSequence] = field(default_factory=list)
    _live: dict[SequenceId, ClientSequence] = field(default_factory=dict)
    _ready: dict[ClientSequence, None] = field(default_factory=dict)
    _idle: OrderedDict[ClientSequence, None] = field(default_factory=OrderedDict)
    _evicted: OrderedDict[SequenceId, None] = field(default_factory=OrderedDict)
    _timers: list[tuple[float, int, GenerationSequence | StepRequest]] = field(default_factory=list)
    _tie_break: itertools.count[int] = field(default_factory=itertools.count)
    _slots_used: int = 0
    _virtual_time: float = 0.0
    _virtual_starts: dict[str, float] = field(default_factory=dict)

    # --- requests -----------------------------------------------------------------------------------

    def add_generation(self, sequence: GenerationSequence, now: float) -> ServingError | None:
        """Queue a generation sequence. Returns the error if it is rejected."""
        if error := self._admission_error(now, sequence.deadline):
            return error
        self._enqueue(sequence)
        self._register(sequence.key, sequence, sequence.deadline, now)
        return None

    def add_step(self, step: StepRequest, options: Feed, now: float) -> ServingError | None:
        """Queue one step of a client sequence and set `step.sequence` to that sequence. Returns the
        error if the step is rejected."""
        live = self._live.get(options.sequence)
        if options.start:
            if error := self._admission_error(now, step.deadline):
                return error
            if live is not None:
                self._close(live)
            live = self._start_sequence(step, options.sequence)
        elif live is None:
            return self._unknown_sequence_error(options.sequence)
        step.sequence = live
        live.waiting.append(step)
        if live.has_slot:
            self._idle.pop(live, None)
            self._ready[live] = None
        self._register(step.key, step, step.deadline, now)
        if options.end:
            self._close(live)
        return None

    def cancel(self, key: int) -> None:
        """Cancel a request: it is in no further step, and its slot is free in the next plan."""
        request = self._requests.pop(key, None)
        if isinstance(request, GenerationSequence):
            if self._remove(request):
                self._cancelled.append(request)
        elif request is not None:
            self._drop_step(request)

    def end_sequence(self, sequence_id: SequenceId) -> None:
        """End a client sequence whose client has gone; its waiting steps are dropped."""
        live = self._live.get(sequence_id)
        if live is not None:
            for step in live.waiting:
                step.dropped = True
                self._requests.pop(step.key, None)
            live.waiting.clear()
            self._close(live)

    def credit(self, key: int, n: int) -> None:
        """Add credit for `n` chunks to a generation sequence; a paused one resumes."""
        request = self._requests.get(key)
        if isinstance(request, GenerationSequence):
            request.credits += n
            if request in self._paused and request.credits > 0:
                del self._paused[request]
                self._resuming[request] = None

    # --- steps --------------------------------------------------------------------------------------

    def plan(self, now: float) -> StepPlan:
        """Plan the next step, after timeouts, evictions and admissions."""
        due = self.due()
        failed = (*self._expire(now), *self._end_stalled(now)) if due is not None and due <= now else ()
        self._evict(now)
        admitted = self._admit(now) if self._waiting else ()
        resumed = tuple(self._resuming)
        for sequence in (*resumed, *admitted):
            self._running[sequence] = None
        cancelled = tuple(self._cancelled)
        self._resuming.clear()
        self._cancelled.clear()
        client_steps = self._next_steps() if self._ready else ()
        return StepPlan(failed, cancelled, admitted, resumed, client_steps, bool(self._running))

    def pause(self, sequence: GenerationSequence, now: float) -> None:
        """Pause a sequence that is out of credit: it keeps its slot, and steps again once it has credit."""
        if sequence in self._running:
            del self._running[sequence]
            sequence.paused_at = now
            self._paused[sequence] = None

    def finish(
        self, sequences: Iterable[GenerationSequence], steps: Iterable[StepRequest], now: float
    ) -> None:
        """Record that these generation sequences have ended and these client steps have been answered."""
        for sequence in sequences:
            if self._requests.pop(sequence.key, None) is not None:
                self._learn_slot_time(now - sequence.since)
                self._remove(sequence)
        for step in steps:
            self._requests.pop(step.key, None)
            self._after_step(step.sequence, now)

    def due(self) -> float | None:
        """When the next timeout expires and a plan is needed; None if there is no timeout."""
        dues = [self._timers[0][0]] if self._timers else []
        if self._idle:
            dues.append(next(iter(self._idle)).since + self.limits.idle_timeout_s)
        if self._paused:
            dues.append(next(iter(self._paused)).paused_at + self.limits.stalled_s)
        return min(dues, default=None)

    def has_work(self) -> bool:
        """Whether a plan would do anything now, apart from timeouts."""
        free = self.limits.slots - self._slots_used
        return bool(
            self._running or self._ready or self._resuming or self._cancelled or (self._waiting and free)
        )

    def open_keys(self) -> list[int]:
        """The keys of all requests that have not ended."""
        return list(self._requests)

    def counts(self) -> SequenceCounts:
        running = len(self._running) + len(self._resuming) + len(self._ready)
        return SequenceCounts(running, len(self._waiting), len(self._paused) + len(self._idle))

    # --- waiting ------------------------------------------------------------------------------------

    def _admission_error(self, now: float, deadline: float | None) -> ServingError | None:
        over = len(self._waiting) + 1 - (self.limits.slots - self._slots_used)
        if over <= 0:
            return None
        wait = self.slot_time_s * over / self.limits.slots
        if over > self.limits.max_waiting or wait > self.limits.max_queue_s:
            slots, retry_s = self.limits.slots, min(max(wait, 0.05), 60.0)
            why = f"no free slot ({slots} of {slots} in use, {over - 1} waiting); retry after {retry_s:.2f} s"
            return overloaded(why, retry_s)
        if deadline is not None and now + wait > deadline:
            why = f"the expected wait for a slot ({wait:.2f} s) exceeds the deadline"
            return overloaded(why, max(wait, 0.05))
        return None

    def _enqueue(self, sequence: GenerationSequence | ClientSequence) -> None:
        """Start-time fair queueing: a caller with many waiting sequences does not delay the others."""
        sequence.virtual_start = max(self._virtual_time, self._virtual_starts.get(sequence.caller, 0.0))
        self._virtual_starts[sequence.caller] = sequence.virtual_start + 1
        self._waiting.append(sequence)

    def _admit(self, now: float) -> tuple[GenerationSequence, ...]:
        """Give free slots to waiting sequences. Those that have waited for more than half of
        `max_queue_s` come first, oldest first; the others by priority, then by fair queueing."""
        generation: list[GenerationSequence] = []
        free = self.limits.slots - self._slots_used
        if free and self._waiting:
            patience = self.limits.max_queue_s / 2

            def urgency(sequence: GenerationSequence | ClientSequence) -> tuple[float, float, float, float]:
                if now - sequence.accepted > patience:
                    return (0, sequence.accepted, 0, 0)
                return (1, -sequence.priority, sequence.virtual_start, sequence.accepted)

            self._waiting.sort(key=urgency)
            admitted, self._waiting = self._waiting[:free], self._waiting[free:]
            for sequence in admitted:
                sequence.has_slot, sequence.since = True, now
                self._virtual_time = max(self._virtual_time, sequence.virtual_start)
                if isinstance(sequence, GenerationSequence):
                    generation.append(sequence)
                else:
                    self._ready[sequence] = None
            self._slots_used += len(admitted)
            if not self._waiting:
                self._virtual_starts.clear()
        return tuple(generation)

    def _register(
        self, key: int, request: GenerationSequence | StepRequest, deadline: float | None, now: float
    ) -> None:
        self._requests[key] = request
        dues = [now + self.limits.max_queue_s] if not self._has_slot(request) else []
        for due in (*dues, *([] if deadline is None else [deadline])):
            heapq.heappush(self._timers, (due, next(self._tie_break), request))
        if len(self._timers) > 4 * len(self._requests) + 64:  # most belong to ended requests
            self._timers = [entry for entry in self._timers if self._requests.get(entry[2].key) is entry[2]]
            heapq.heapify(self._timers)

    def _has_slot(self, request: GenerationSequence | StepRequest) -> bool:
        return request.has_slot if isinstance(request, GenerationSequence) else request.sequence.has_slot

    def _expire(self, now: float) -> Iterable[FailedSequence]:
        """Fail requests that are past their deadline or waited too long for a slot."""
        while self._timers and self._timers[0][0] <= now:
            _, _, request = heapq.heappop(self._timers)
            if self._requests.get(request.key) is not request:
                continue
            if request.deadline is not None and request.deadline <= now:
                yield self._fail(request, deadline_passed("before the sequence ended"))
            elif not self._has_slot(request):
                why = f"no slot became free within {self.limits.max_queue_s:g} s; retry after 1 s"
                yield self._fail(request, overloaded(why, 1.0))

    def _end_stalled(self, now: float) -> Iterable[FailedSequence]:
        while self._paused:
            first = next(iter(self._paused))
            if now - first.paused_at < self.limits.stalled_s:
                return
            stalled_s = self.limits.stalled_s
            why = f"the client read nothing for {stalled_s:g} s; read the stream or cancel the call"
            yield self._fail(first, ServingError(ErrorCode.SEQUENCE_LOST, why))

    def _fail(self, request: GenerationSequence | StepRequest, error: ServingError) -> FailedSequence:
        del self._requests[request.key]
        if isinstance(request, GenerationSequence):
            self._remove(request)
        else:
            self._drop_step(request)
        return FailedSequence(request, error)

    def _remove(self, sequence: GenerationSequence) -> bool:
        """Remove a sequence from every queue. Returns whether it had a slot, and so may be in a batch."""
        if not sequence.has_slot:
            self._waiting.remove(sequence)
            return False
        self._running.pop(sequence, None)
        self._paused.pop(sequence, None)
        self._resuming.pop(sequence, None)
        sequence.has_slot = False
        self._slots_used -= 1
        return True

    def _learn_slot_time(self, seconds: float) -> None:
        self.slot_time_s += _LEARNING_RATE * (seconds - self.slot_time_s) if self.slot_time_s else seconds

    # --- client sequences ---------------------------------------------------------------------------

    def _start_sequence(self, step: StepRequest, sequence_id: SequenceId) -> ClientSequence:
        sequence = step.sequence
        sequence.id = sequence_id
        self._live[sequence_id] = sequence
        self._evicted.pop(sequence_id, None)
        self._enqueue(sequence)
        return sequence

    def _unknown_sequence_error(self, sequence_id: SequenceId) -> ServingError:
        if sequence_id in self._evicted:
            idle_s = self.limits.idle_timeout_s
            why = f"sequence {sequence_id!r} was evicted after {idle_s:g} s without a step; start it again"
            return ServingError(ErrorCode.SEQUENCE_LOST, why)
        why = f"unknown sequence {sequence_id!r}; start it with sequence_start"
        return bad_input("parameters.sequence_id", why)

    def _next_steps(self) -> tuple[StepRequest, ...]:
        steps = []
        for sequence in list(self._ready):
            while sequence.waiting and sequence.waiting[0].dropped:
                sequence.waiting.popleft()
            if sequence.waiting:
                steps.append(sequence.waiting.popleft())
            else:
                self._after_step(sequence, sequence.since)
        return tuple(steps)

    def _after_step(self, sequence: ClientSequence, now: float) -> None:
        """Make a sequence ready for its next step, or idle, or end it if it is closing."""
        if not sequence.has_slot:
            return
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

    def _close(self, sequence: ClientSequence) -> None:
        """Accept no more steps for a sequence; it ends once its waiting steps have run."""
        sequence.closing = True
        if self._live.get(sequence.id) is sequence:
            del self._live[sequence.id]
        if not sequence.waiting and sequence not in self._ready:
            self._release(sequence)

    def _release(self, sequence: ClientSequence) -> None:
        self._idle.pop(sequence, None)
        self._ready.pop(sequence, None)
        sequence.states = None
        if sequence.has_slot:
            sequence.has_slot = False
            self._slots_used -= 1
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def _drop_step(self, step: StepRequest) -> None:
        step.dropped = True
        sequence = step.sequence
        while sequence.has_slot and sequence.waiting and sequence.waiting[0].dropped:
            sequence.waiting.popleft()
        if sequence.has_slot and not sequence.waiting and sequence in self._ready:
            self._after_step(sequence, sequence.since)
        if not sequence.has_slot and all(other.dropped for other in sequence.waiting):
            sequence.waiting.clear()
            self._close(sequence)

    def _evict(self, now: float) -> None:
        while self._idle:
            first = next(iter(self._idle))
            if now - first.since < self.limits.idle_timeout_s:
                return
            self._evicted[first.id] = None
            if len(self._evicted) > _MAX_EVICTED_IDS:
                self._evicted.popitem(last=False)
            self._close(first)
