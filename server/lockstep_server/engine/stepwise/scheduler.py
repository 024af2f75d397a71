"""Decides between any two steps which sequences join, step and leave.

add_generation, add_step → `SlotPool` → `GenerationQueue` or `ClientQueue` → plan → finish, pause. A sequence
holds a slot from its admission to its end; `OpenRequests` has the timers of the requests. Deterministic: it
has no clock and no session, and `now` is an argument.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import deadline_passed
from ...messages import SequenceCounts
from .put_texts import PutTexts
from .queues import ClientQueue, GenerationQueue
from .sequence import ClientSequence, FailedSequence, GenerationSequence, StepRequest
from .slot_pool import SlotPool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ...errors import ServingError
    from ...messages import SequenceId

    Request = GenerationSequence | StepRequest


_MOST_SWAPS = 8
"""Exchanges of slots before one step, as states are copied. Others follow before the next."""


@dataclass(frozen=True)
class SequenceLimits:
    """Bounds of one model's sequences."""

    slots: int
    max_waiting: int  # sequences that may wait for a slot
    max_queue_s: float  # longest wait for a slot
    idle_timeout_s: float  # a client sequence without a step for this long is evicted
    stalled_s: float  # a stream whose client reads nothing for this long is ended


@dataclass(frozen=True)
class StepPlan:
    """What the next step consists of."""

    failed: tuple[FailedSequence, ...]  # report these errors; remove generation sequences from their batches
    cancelled: tuple[GenerationSequence, ...]  # remove from their batches; report nothing
    suspended: tuple[GenerationSequence, ...]  # lost their slot; remove from their batches with their states
    admitted: tuple[GenerationSequence, ...]  # got a slot; prefill them
    resumed: tuple[GenerationSequence, ...]  # got credit, or a slot again; add them to a batch, or prefill
    client_steps: tuple[StepRequest, ...]  # one of each client sequence that has any
    generating: bool  # whether any generation sequence runs


class Scheduler:
    """Schedules the sequences of one model version. Not thread-safe."""

    def __init__(self, limits: SequenceLimits) -> None:
        self.limits = limits
        self.pool = SlotPool(limits.slots, limits.max_waiting, limits.max_queue_s)
        self.generation = GenerationQueue(self.pool, limits.stalled_s)
        self.clients = ClientQueue(self.pool, limits.idle_timeout_s)
        self.put_texts = PutTexts(self.pool, limits.idle_timeout_s)
        self._requests = OpenRequests()

    # --- requests -----------------------------------------------------------------------------------

    def add_generation(self, sequence: GenerationSequence, now: float) -> ServingError | None:
        """Queue a generation sequence. Returns the error if it is rejected."""
        error = self.generation.add(sequence, now)
        if error is None:
            self._register(sequence, now)
        return error

    def add_step(self, request: StepRequest, *, start: bool, end: bool, now: float) -> ServingError | None:
        """Queue one step of a client sequence, and set `request.sequence` to the live sequence with its id.
        Returns the error if the step is rejected."""
        error = self.clients.add(request, start=start, end=end, now=now)
        if error is None:
            self._register(request, now)
        return error

    def continue_text(self, key: SequenceId, sequence: GenerationSequence, now: float) -> None:
        """Go on with a text that was put here, as with one that was suspended."""
        self.put_texts.take(key)
        self.pool.wait_again(sequence)
        self._register(sequence, now)

    def get(self, key: int) -> Request | None:
        """The request with this key, if it has not ended."""
        return self._requests.get(key)

    def _register(self, request: Request, now: float) -> None:
        dues = [] if self._has_begun(request) else [now + self.limits.max_queue_s]
        if request.deadline is not None:
            dues.append(request.deadline)
        self._requests.add(request, dues)

    def cancel(self, key: int) -> None:
        """Cancel a request: it is in no further step, and its slot is free in the next plan."""
        request = self._requests.pop(key)
        if isinstance(request, GenerationSequence):
            self.generation.cancel(request)
        elif request is not None:
            self.clients.drop(request)

    def end_sequence(self, sequence_id: SequenceId) -> None:
        """End a client sequence whose client has gone; its waiting steps are dropped."""
        for step in self.clients.end(sequence_id):
            self._requests.pop(step.key)

    def leave(self, sequence: ClientSequence, **where: str) -> list[StepRequest]:
        """End a frozen client sequence, as `ClientQueue.leave`. Returns the steps that end with it."""
        left = self.clients.leave(sequence, **where)
        return [step for step in left if self._requests.pop(step.key) is not None]

    def credit(self, key: int, n: int) -> None:
        """Add credit for `n` chunks to a generation sequence; a paused one resumes."""
        request = self._requests.get(key)
        if isinstance(request, GenerationSequence):
            self.generation.credit(request, n)

    # --- steps --------------------------------------------------------------------------------------

    def plan(self, now: float) -> StepPlan:
        """Plan the next step, after timeouts, evictions and admissions."""
        failed: list[FailedSequence] = []
        due = list(self._requests.pop_due(now)) if self._next_due() <= now else []
        if due or self.generation.due() <= now:
            failed += self._end_late(due, now)
        self.clients.evict(now)
        self.put_texts.evict(now)
        suspended, admitted = self._admit(now) if self.pool.waiting else ((), ())
        resumed = self.generation.resume()
        if due:  # after the admissions: the plan may be late, and a slot free
            failed += self._end_without_slot(due)
        cancelled = self.generation.take_cancelled()
        client_steps = self.clients.next_steps()
        return StepPlan(
            tuple(failed), cancelled, suspended, admitted, resumed, client_steps, self.generation.running > 0
        )

    def pause(self, sequence: GenerationSequence, now: float) -> None:
        """Pause a sequence that is out of credit: it keeps its slot, and steps again once it has credit."""
        self.generation.pause(sequence, now)

    def finish(
        self, sequences: Iterable[GenerationSequence], steps: Iterable[StepRequest], now: float
    ) -> None:
        """Record that these generation sequences have ended and these client steps have been answered."""
        for sequence in sequences:
            if self._requests.pop(sequence.key) is not None:
                self.generation.finish(sequence, now)
        for step in steps:
            self._requests.pop(step.key)
            self.clients.finish(step, now)

    def due(self) -> float | None:
        """When the next timeout expires and a plan is needed; None if there is no timeout."""
        due = self._next_due()
        return None if due == math.inf else due

    def _next_due(self) -> float:
        return min(
            self._requests.due(),
            self.generation.due(),
            self.clients.due(),
            self.put_texts.due(),
            self.pool.due(),
        )

    def has_work(self) -> bool:
        """Whether a plan would do anything now, apart from timeouts."""
        return self.generation.has_work() or self.clients.ready > 0 or self.pool.can_admit()

    def open_keys(self) -> list[int]:
        """The keys of all requests that have not ended."""
        return self._requests.keys()

    def counts(self) -> SequenceCounts:
        running = self.generation.running + self.clients.ready + self.pool.extra
        idle = self.generation.paused + self.clients.idle + len(self.put_texts)
        return SequenceCounts(running, len(self.pool.waiting), idle)

    # --- plan ---------------------------------------------------------------------------------------

    def _admit(self, now: float) -> tuple[tuple[GenerationSequence, ...], tuple[GenerationSequence, ...]]:
        """Give out the slots that are free, and those that are taken from others.

        Returns:
            The generation sequences that lost their slot and may be in a batch, and those that begin.
        """
        suspended: list[GenerationSequence] = []
        begun = set(self.pool.suspended)
        admitted = self.pool.admit(now)
        for _ in range(_MOST_SWAPS):
            if (swapped := self.pool.swap(now)) is None:
                break
            holders, sequence = swapped
            for last in holders:
                if isinstance(last, ClientSequence):
                    self.clients.suspend(last)
                elif isinstance(last, GenerationSequence) and self.generation.suspend(last):
                    suspended.append(last)
            begun.update(holders)
            admitted += [sequence, *self.pool.admit(now)]  # a beam search may leave more than it takes
        generation: list[GenerationSequence] = []
        for sequence in admitted:
            if isinstance(sequence, ClientSequence):
                self.clients.start(sequence)
            elif isinstance(sequence, GenerationSequence):
                if sequence in begun:
                    self.generation.reinstate(sequence)
                else:
                    generation.append(sequence)
        self.generation.start(generation)
        return tuple(suspended), tuple(generation)

    def _end_late(self, due: list[Request], now: float) -> Iterator[FailedSequence]:
        """End the requests that are past their deadline, and the stalled streams, and yield them."""
        for request in due:
            if request.deadline is not None and request.deadline <= now:
                yield from self._end(request, deadline_passed("before the sequence ended"))
        for stalled in self.generation.end_stalled(now):
            self._requests.pop(stalled.request.key)
            yield stalled

    def _end_without_slot(self, due: list[Request]) -> Iterator[FailedSequence]:
        """End the requests that have waited for a slot for too long, and yield them."""
        for request in due:
            if not self._has_begun(request):
                yield from self._end(request, self.pool.timeout_error())

    def _has_begun(self, request: Request) -> bool:
        """Whether a request's sequence has a slot, or had one and waits for another."""
        sequence = request.sequence if isinstance(request, StepRequest) else request
        return sequence.has_slot or sequence in self.pool.suspended

    def _end(self, request: Request, error: ServingError) -> Iterator[FailedSequence]:
        """End a request, unless it has ended."""
        if self._requests.get(request.key) is request:
            self._requests.pop(request.key)
            self._remove(request)
            yield FailedSequence(request, error)

    def _remove(self, request: Request) -> None:
        if isinstance(request, GenerationSequence):
            self.generation.remove(request)
        else:
            self.clients.drop(request)


class OpenRequests:
    """The requests that have not ended, by key, with the times at which each must be checked. A timer of a
    request that has ended never fires."""

    def __init__(self) -> None:
        self._requests: dict[int, Request] = {}
        self._timers: list[tuple[float, int, Request]] = []  # a heap
        self._tie_break = itertools.count()

    def add(self, request: Request, dues: Iterable[float]) -> None:
        """Add a request with one timer for each time in `dues`."""
        self._requests[request.key] = request
        for due in dues:
            heapq.heappush(self._timers, (due, next(self._tie_break), request))
        if len(self._timers) > 4 * len(self._requests) + 64:  # most belong to ended requests
            self._timers = [entry for entry in self._timers if self._is_open(entry[2])]
            heapq.heapify(self._timers)

    def get(self, key: int) -> Request | None:
        return self._requests.get(key)

    def pop(self, key: int) -> Request | None:
        """Remove a request that ends. Returns None if there is none with this key."""
        return self._requests.pop(key, None)

    def keys(self) -> list[int]:
        return list(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests.values())

    def due(self) -> float:
        """When the next timer fires; infinity if there is none."""
        return self._timers[0][0] if self._timers else math.inf

    def pop_due(self, now: float) -> Iterator[Request]:
        """Remove the timers that have fired, and yield the request of each that is still open."""
        while self.due() <= now:
            _, _, request = heapq.heappop(self._timers)
            if self._is_open(request):
                yield request

    def _is_open(self, request: Request) -> bool:
        return self._requests.get(request.key) is request
