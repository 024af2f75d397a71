"""The slots of a model: who holds one, who waits, who is next; and the requests that have not ended."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ...errors import overloaded, quota_exceeded
from ...fair_queueing import FairQueueing, QueuedWork, by_urgency
from ...model.cost_model import moving_average

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ...errors import ServingError
    from .sequence import GenerationSequence, Sequence, StepRequest

    Request = GenerationSequence | StepRequest


_LEARNING_RATE = 0.1

_TURN_S = 0.25
"""How long a sequence keeps its slot at least before it is suspended for another caller's."""

_OWN_TURNS = 4
"""How many times as long it keeps its slot before it is suspended for one of the same caller."""


class _Exchange(NamedTuple):
    """A slot that is to be taken: when, from which sequence, and the sequences of which one gets it."""

    due: float
    holder: Sequence
    claimants: list[Sequence]


class SlotPool:
    """A number of slots, shared by all kinds of sequences: which hold one, which wait for one, who is next.

    add → waiting → admit → slot → release. If too many sequences wait, new ones are rejected with a retry
    time. A free slot goes to the caller that holds the fewest; among its sequences, and between callers that
    hold equally many, to the most urgent. The patience is half of `max_queue_s`.

    If no slot is free, `swap` takes one from the caller that holds the most for one that holds fewer. The
    sequence that had it is suspended: it keeps its states, and waits (`wait_again`) before new sequences of
    its caller. At most as many are suspended as there are slots, so the states of at most twice as many
    sequences are in memory.
    """

    def __init__(self, slots: int, max_waiting: int, max_queue_s: float) -> None:
        self.slots, self.max_waiting, self.max_queue_s = slots, max_waiting, max_queue_s
        self.turn_s = max(min(_TURN_S, max_queue_s / 4), 0.001)
        self.used = 0
        self.slot_time_s = 0.0  # moving average of how long a generation sequence holds its slot
        self.waiting: list[Sequence] = []
        self.suspended: set[Sequence] = set()
        self._holders: dict[str, dict[Sequence, None]] = {}  # by caller, the longest holder first
        self._queued = QueuedWork()  # sequences that wait
        self._fair_queueing = FairQueueing()

    def add(self, sequence: Sequence, deadline: float | None, now: float) -> ServingError | None:
        """Queue a sequence for a slot. Returns the error if it is rejected."""
        if error := self._over_limit(sequence) or self._rejection(sequence.caller, deadline, now):
            return error
        self._queue(sequence)
        return None

    def wait_again(self, sequence: Sequence) -> None:
        """Queue a suspended sequence for a slot."""
        self._queue(sequence)

    def _queue(self, sequence: Sequence) -> None:
        sequence.start_tag = self._fair_queueing.start_tag(sequence.caller, 1)
        self.waiting.append(sequence)
        self._queued.add(sequence.caller, 1)

    def held(self, caller: str) -> int:
        """The number of slots that a caller holds."""
        return len(self._holders.get(caller, ()))

    def _over_limit(self, sequence: Sequence) -> ServingError | None:
        most, caller = sequence.max_slots, sequence.caller
        if not most or self.held(caller) + self._queued.requests(caller) < most:
            return None
        why = f"caller {caller!r} has {most} sequences of at most {most} (slots); end one, or retry after 1 s"
        return quota_exceeded(why, 1.0)

    def _rejection(self, caller: str, deadline: float | None, now: float) -> ServingError | None:
        over = round(self._queued.ahead(caller, 1)) + 1 - (self.slots - self.used)
        if over <= 0 or self._has_claim(caller):
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

    def _has_claim(self, caller: str) -> bool:
        """Whether one more sequence of this caller is within its share, so that a slot is taken for it."""
        callers = {caller, *self._holders, *self._queued.callers()}
        share = self.slots // len(callers)
        has = self.held(caller) + self._queued.requests(caller)
        return has < share and len(self.suspended) < self.slots

    def can_admit(self) -> bool:
        """Whether a sequence waits while a slot is free."""
        return bool(self.waiting) and self.used < self.slots

    def admit(self, now: float) -> list[Sequence]:
        """Give the free slots to waiting sequences. Returns those that got one."""
        if not self.can_admit():
            return []
        admitted = self._next(self.slots - self.used, now, self.waiting)
        for sequence in admitted:
            self._grant(sequence, now)
        self._remove_admitted()
        return admitted

    def swap(self, now: float) -> tuple[Sequence, Sequence] | None:
        """Take a slot from a sequence for a waiting one.

        Returns:
            The sequence that is suspended and the one that got its slot; None if no slot is to be taken now.
        """
        exchange = self._exchange()
        if exchange is None or exchange.due > now:
            return None
        self._take(exchange.holder)
        self.suspended.add(exchange.holder)
        (sequence,) = self._next(1, now, exchange.claimants)
        self._grant(sequence, now)
        self._remove_admitted()
        return exchange.holder, sequence

    def due(self) -> float:
        """When `swap` takes the next slot; infinity if it takes none."""
        exchange = self._exchange()
        return math.inf if exchange is None else exchange.due

    def _exchange(self) -> _Exchange | None:
        """The next exchange of a slot, if there is any: between callers, or within one that has suspended
        sequences."""
        if not self.waiting or self.used < self.slots or not self._holders:
            return None
        found = [one for one in (self._between_callers(), self._within_callers()) if one is not None]
        return min(found, key=lambda one: one.due, default=None)

    def _between_callers(self) -> _Exchange | None:
        """From the caller that holds the most to the one that holds the fewest.

        A caller without a slot takes turns even with one that holds a single slot; otherwise, callers whose
        numbers differ by one would exchange a slot forever.
        """
        claimants, callers = self.waiting, self._queued.callers()
        if len(self.suspended) >= self.slots:
            claimants = self._waiting_again()
            callers = {sequence.caller for sequence in claimants}
        fewest = min(map(self.held, callers), default=self.slots)
        most = max(map(len, self._holders.values()))
        if most - fewest < (2 if fewest else 1):
            return None
        longest = (next(iter(of)) for of in self._holders.values() if len(of) == most)
        holder = min(longest, key=lambda sequence: sequence.granted)
        return _Exchange(holder.granted + self.turn_s, holder, claimants)

    def _within_callers(self) -> _Exchange | None:
        """Suspended sequences take turns with the others of their caller."""
        if not self.suspended:
            return None
        again = self._waiting_again()
        callers = {sequence.caller for sequence in again}
        longest = (next(iter(self._holders[caller])) for caller in callers if caller in self._holders)
        holder = min(longest, key=lambda sequence: sequence.granted, default=None)
        if holder is None:
            return None
        claimants = [sequence for sequence in again if sequence.caller == holder.caller]
        return _Exchange(holder.granted + _OWN_TURNS * self.turn_s, holder, claimants)

    def _waiting_again(self) -> list[Sequence]:
        return [sequence for sequence in self.waiting if sequence in self.suspended]

    def _grant(self, sequence: Sequence, now: float) -> None:
        sequence.has_slot, sequence.since, sequence.granted = True, now, now
        self._holders.setdefault(sequence.caller, {})[sequence] = None
        self.used += 1
        self.suspended.discard(sequence)
        self._fair_queueing.serve(sequence.start_tag)
        self._queued.remove(sequence.caller, 1)

    def _remove_admitted(self) -> None:
        self.waiting = [sequence for sequence in self.waiting if not sequence.has_slot]
        if not self.waiting:
            self._fair_queueing.forget_callers()

    def _next(self, count: int, now: float, among: list[Sequence]) -> list[Sequence]:
        """The waiting sequences that get the next `count` slots."""
        urgency = by_urgency(now, self.max_queue_s / 2, among)
        of_callers: dict[str, list[tuple[bool, int, Sequence]]] = {}
        for rank, sequence in enumerate(sorted(among, key=urgency)):
            begun = sequence in self.suspended
            of_callers.setdefault(sequence.caller, []).append((not begun, rank, sequence))
        queues = {caller: deque(sorted(queue)) for caller, queue in of_callers.items()}
        heads = [(self.held(caller), queue[0][1], caller) for caller, queue in queues.items()]
        heapq.heapify(heads)
        chosen: list[Sequence] = []
        while heads and len(chosen) < count:
            held, _, caller = heapq.heappop(heads)
            queue = queues[caller]
            chosen.append(queue.popleft()[2])
            if queue:
                heapq.heappush(heads, (held + 1, queue[0][1], caller))
        return chosen

    def release(self, sequence: Sequence) -> None:
        """Free the slot of a sequence, or stop its waiting for one."""
        self.suspended.discard(sequence)
        if sequence.has_slot:
            self._take(sequence)
        else:
            self.stop_waiting(sequence)

    def stop_waiting(self, sequence: Sequence) -> None:
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            self._queued.remove(sequence.caller, 1)

    def _take(self, sequence: Sequence) -> None:
        sequence.has_slot = False
        self.used -= 1
        holders = self._holders[sequence.caller]
        del holders[sequence]
        if not holders:
            del self._holders[sequence.caller]

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
