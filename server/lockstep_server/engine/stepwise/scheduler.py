"""Decides between any two steps which sequences join, step and leave.

add_generation, add_step → `SlotPool` → `GenerationQueue` or `ClientQueue` → plan → finish, pause. A sequence
holds a slot from its admission to its end; `OpenRequests` has the timers of the requests. Deterministic: it
has no clock and no session, and `now` is an argument.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import deadline_passed, overloaded
from ...fair_queueing import Backlog, FairQueueing, by_urgency
from ...messages import SequenceCounts
from ...model.cost_model import moving_average
from .queues import ClientQueue, GenerationQueue
from .sequence import ClientSequence, FailedSequence, GenerationSequence, StepRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ...errors import ServingError
    from ...messages import SequenceId
    from .sequence import Sequence

    Request = GenerationSequence | StepRequest

_LEARNING_RATE = 0.1


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
    admitted: tuple[GenerationSequence, ...]  # got a slot; prefill them
    resumed: tuple[GenerationSequence, ...]  # got credit; add them to a batch again
    client_steps: tuple[StepRequest, ...]  # one of each client sequence that has any
    generating: bool  # whether any generation sequence runs


class Scheduler:
    """Schedules the sequences of one model version. Not thread-safe."""

    def __init__(self, limits: SequenceLimits) -> None:
        self.limits = limits
        self.pool = SlotPool(limits.slots, limits.max_waiting, limits.max_queue_s)
        self.generation = GenerationQueue(self.pool, limits.stalled_s)
        self.clients = ClientQueue(self.pool, limits.idle_timeout_s)
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

    def _register(self, request: Request, now: float) -> None:
        dues = [] if request.has_slot else [now + self.limits.max_queue_s]
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
        resumed = self.generation.resume()
        admitted = self._admit(now) if self.pool.waiting else ()
        if due:  # after the admissions: the plan may be late, and a slot free
            failed += self._end_without_slot(due)
        cancelled = self.generation.take_cancelled()
        client_steps = self.clients.next_steps()
        return StepPlan(
            tuple(failed), cancelled, admitted, resumed, client_steps, self.generation.running > 0
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
        return min(self._requests.due(), self.generation.due(), self.clients.due())

    def has_work(self) -> bool:
        """Whether a plan would do anything now, apart from timeouts."""
        return self.generation.has_work() or self.clients.ready > 0 or self.pool.can_admit()

    def open_keys(self) -> list[int]:
        """The keys of all requests that have not ended."""
        return self._requests.keys()

    def counts(self) -> SequenceCounts:
        running = self.generation.running + self.clients.ready
        return SequenceCounts(running, len(self.pool.waiting), self.generation.paused + self.clients.idle)

    # --- plan ---------------------------------------------------------------------------------------

    def _admit(self, now: float) -> tuple[GenerationSequence, ...]:
        """Start the sequences that get a free slot. Returns the generation sequences among them."""
        generation: list[GenerationSequence] = []
        for sequence in self.pool.admit(now):
            if isinstance(sequence, GenerationSequence):
                generation.append(sequence)
            elif isinstance(sequence, ClientSequence):
                self.clients.start(sequence)
        self.generation.start(generation)
        return tuple(generation)

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
            if not request.has_slot:
                yield from self._end(request, self.pool.timeout_error())

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


class SlotPool:
    """A number of slots, shared by all kinds of sequences: which hold one, which wait for one, who is next.

    add → waiting → admit → slot → release. If too many sequences wait, new ones are rejected with a retry
    time. A free slot goes to the caller that holds the fewest; among its sequences, and between callers that
    hold equally many, to the most urgent. The patience is half of `max_queue_s`.
    """

    def __init__(self, slots: int, max_waiting: int, max_queue_s: float) -> None:
        self.slots, self.max_waiting, self.max_queue_s = slots, max_waiting, max_queue_s
        self.used = 0
        self.slot_time_s = 0.0  # moving average of how long a generation sequence holds its slot
        self.waiting: list[Sequence] = []
        self.held: Counter[str] = Counter()  # slots, by caller
        self._backlog = Backlog()  # sequences that wait
        self._fair_queueing = FairQueueing()

    def add(self, sequence: Sequence, deadline: float | None, now: float) -> ServingError | None:
        """Queue a sequence for a slot. Returns the error if it is rejected."""
        if error := self._over_limit(sequence) or self._rejection(sequence.caller, deadline, now):
            return error
        sequence.start_tag = self._fair_queueing.start_tag(sequence.caller, 1)
        self.waiting.append(sequence)
        self._backlog.add(sequence.caller, 1)
        return None

    def _over_limit(self, sequence: Sequence) -> ServingError | None:
        most, caller = sequence.max_slots, sequence.caller
        if not most or self.held[caller] + self._backlog.requests(caller) < most:
            return None
        why = f"caller {caller!r} has {most} sequences of at most {most} (slots); end one, or retry after 1 s"
        return overloaded(why, 1.0)

    def _rejection(self, caller: str, deadline: float | None, now: float) -> ServingError | None:
        over = round(self._backlog.ahead(caller, 1)) + 1 - (self.slots - self.used)
        if over <= 0:
            return None
        wait_s = self.slot_time_s * over / self.slots
        if over > self.max_waiting or wait_s > self.max_queue_s:
            retry_s = min(max(wait_s, 0.05), 60.0)
            why = f"no free slot ({self.used} of {self.slots} in use, {len(self.waiting)} waiting)"
            return overloaded(f"{why}; retry after {retry_s:.2f} s", retry_s)
        if deadline is not None and now + wait_s > deadline:
            why = f"the expected wait for a slot ({wait_s:.2f} s) exceeds the deadline"
            return overloaded(why, max(wait_s, 0.05))
        return None

    def can_admit(self) -> bool:
        """Whether a sequence waits while a slot is free."""
        return bool(self.waiting) and self.used < self.slots

    def admit(self, now: float) -> list[Sequence]:
        """Give the free slots to waiting sequences. Returns those that got one."""
        if not self.can_admit():
            return []
        self.waiting.sort(key=by_urgency(now, self.max_queue_s / 2, self.waiting))
        admitted = self._next(self.slots - self.used)
        for sequence in admitted:
            sequence.has_slot, sequence.since = True, now
            self._fair_queueing.serve(sequence.start_tag)
            self._backlog.remove(sequence.caller, 1)
        self.waiting = [sequence for sequence in self.waiting if not sequence.has_slot]
        self.used += len(admitted)
        if not self.waiting:
            self._fair_queueing.forget_callers()
        return admitted

    def _next(self, count: int) -> list[Sequence]:
        """The sequences that get the next `count` slots; `held` counts them. `waiting` is sorted."""
        of_callers: dict[str, deque[tuple[int, Sequence]]] = {}
        for rank, sequence in enumerate(self.waiting):
            of_callers.setdefault(sequence.caller, deque()).append((rank, sequence))
        heads = [(self.held[caller], queue[0][0], caller) for caller, queue in of_callers.items()]
        heapq.heapify(heads)
        chosen: list[Sequence] = []
        while heads and len(chosen) < count:
            _, _, caller = heapq.heappop(heads)
            queue = of_callers[caller]
            chosen.append(queue.popleft()[1])
            self.held[caller] += 1
            if queue:
                heapq.heappush(heads, (self.held[caller], queue[0][0], caller))
        return chosen

    def release(self, sequence: Sequence) -> None:
        """Free the slot of a sequence, or stop its waiting for one."""
        if sequence.has_slot:
            sequence.has_slot = False
            self.used -= 1
            self.held[sequence.caller] -= 1
            if self.held[sequence.caller] <= 0:
                del self.held[sequence.caller]
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
            self._backlog.remove(sequence.caller, 1)

    def learn_slot_time(self, seconds: float) -> None:
        self.slot_time_s = moving_average(self.slot_time_s or seconds, seconds, _LEARNING_RATE)

    def timeout_error(self) -> ServingError:
        """The error of a request that has waited for a slot for `max_queue_s`."""
        return overloaded(f"no slot became free within {self.max_queue_s:g} s; retry after 1 s", 1.0)


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
