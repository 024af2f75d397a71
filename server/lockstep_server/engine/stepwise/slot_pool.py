"""The slots of a model: who holds one, who waits, who is next; and the requests that have not ended."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, deque
from typing import TYPE_CHECKING

from ...errors import overloaded
from ...fair_queueing import FairQueueing, QueuedWork, by_urgency
from ...model.cost_model import moving_average

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ...errors import ServingError
    from .sequence import GenerationSequence, Sequence, StepRequest

    Request = GenerationSequence | StepRequest


_LEARNING_RATE = 0.1


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
        self._queued = QueuedWork()  # sequences that wait
        self._fair_queueing = FairQueueing()

    def add(self, sequence: Sequence, deadline: float | None, now: float) -> ServingError | None:
        """Queue a sequence for a slot. Returns the error if it is rejected."""
        if error := self._over_limit(sequence) or self._rejection(sequence.caller, deadline, now):
            return error
        sequence.start_tag = self._fair_queueing.start_tag(sequence.caller, 1)
        self.waiting.append(sequence)
        self._queued.add(sequence.caller, 1)
        return None

    def _over_limit(self, sequence: Sequence) -> ServingError | None:
        most, caller = sequence.max_slots, sequence.caller
        if not most or self.held[caller] + self._queued.requests(caller) < most:
            return None
        why = f"caller {caller!r} has {most} sequences of at most {most} (slots); end one, or retry after 1 s"
        return overloaded(why, 1.0)

    def _rejection(self, caller: str, deadline: float | None, now: float) -> ServingError | None:
        over = round(self._queued.ahead(caller, 1)) + 1 - (self.slots - self.used)
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
            self._queued.remove(sequence.caller, 1)
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
            self._queued.remove(sequence.caller, 1)

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
