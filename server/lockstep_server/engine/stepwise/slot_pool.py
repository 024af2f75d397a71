"""The slots of a model: who holds some, who waits, who is next."""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ...errors import bad_input, overloaded, quota_exceeded
from ...fair_queueing import FairQueueing, QueuedWork, by_urgency
from ...model.cost_model import moving_average

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...errors import ServingError
    from .sequence import Sequence

_LEARNING_RATE = 0.1

_TURN_S = 0.25
"""How long a sequence keeps its slot at least before it is suspended for another caller's."""

_OWN_TURNS = 4
"""How many times as long it keeps its slot before it is suspended for one of the same caller."""


class _Exchange(NamedTuple):
    """Slots that are to be taken: when, from which sequences, and the sequence that gets them."""

    due: float
    holders: list[Sequence]
    claimant: Sequence


class _Place(NamedTuple):
    """Where a sequence stands among those of its caller that wait: suspended ones first, then by urgency."""

    is_new: bool
    rank: int  # by urgency, among the sequences of all callers
    sequence: Sequence


class SlotPool:
    """A number of slots, shared by all kinds of sequences: which hold some, which wait, who is next.

    add → waiting → admit → slots → release. A sequence takes a slot for each of its rows, but not more
    than there are. If too many sequences wait, new ones are rejected with a retry time. Free slots go to the
    caller that holds the fewest; among its sequences, and between callers that hold equally many, to the
    most urgent. No sequence overtakes another of its caller, but those of other callers go before one for
    which too few slots are free. The patience is half of `max_queue_s`.

    For a sequence that waits, `swap` takes slots from the callers that hold the most, if these hold more.
    Those that had them are suspended: they keep their states, and wait (`wait_again`) before new sequences of
    their callers. At most as many rows are suspended as there are slots, so the states of at most twice as
    many are in memory.
    """

    def __init__(self, slots: int, max_waiting: int, max_queue_s: float) -> None:
        self.slots, self.max_waiting, self.max_queue_s = slots, max_waiting, max_queue_s
        self.turn_s = max(min(_TURN_S, max_queue_s / 4), 0.001)
        self.used = 0
        self.extra = 0  # used slots beyond one for each sequence
        self.slot_time_s = 0.0  # moving average of how long a generation sequence holds its slots
        self.waiting: list[Sequence] = []
        self.suspended: set[Sequence] = set()
        self._holders: dict[str, dict[Sequence, None]] = {}  # by caller, the longest holder first
        self._held: dict[str, int] = {}  # slots, by caller
        self._queued = QueuedWork()  # slots that sequences wait for
        self._fair_queueing = FairQueueing()
        self._changed = False  # since `admit`
        self._exchange: _Exchange | None = None
        self._exchange_known = True  # nothing has changed since it was found
        self._now = 0.0

    def add(self, sequence: Sequence, deadline: float | None, now: float) -> ServingError | None:
        """Queue a sequence for slots. Returns the error if it is rejected."""
        self._now = now
        if error := self._over_limit(sequence) or self._rejection(sequence, deadline, now):
            return error
        self._queue(sequence)
        return None

    def put(self, sequence: Sequence, now: float) -> ServingError | None:
        """Take a sequence over that has states, as one that is suspended and idle. Returns the error if no
        slot is free for it."""
        self._now = now
        if error := self._over_limit(sequence):
            return error
        new = sum(self._size(one) for one in self.waiting if one not in self.suspended)
        taken = self.used + self._suspended_slots() + new
        if taken + self._size(sequence) > self.slots:
            retry_s = min(max(self.slot_time_s, 1.0), 60.0)
            why = f"no free slot for the sequence ({taken} of {self.slots} are taken)"
            return overloaded(f"{why}; retry after {retry_s:.2f} s", retry_s)
        self.suspended.add(sequence)
        self._note_change()
        return None

    def wait_again(self, sequence: Sequence) -> None:
        """Queue a suspended sequence for slots."""
        self._queue(sequence)

    def _queue(self, sequence: Sequence) -> None:
        sequence.start_tag = self._fair_queueing.start_tag(sequence.caller, self._size(sequence))
        self.waiting.append(sequence)
        self._queued.add(sequence.caller, self._size(sequence))
        self._note_change()

    def _note_change(self) -> None:
        self._changed, self._exchange_known = True, False

    def _size(self, sequence: Sequence) -> int:
        """The slots that a sequence takes."""
        return min(sequence.rows, self.slots)

    def held(self, caller: str) -> int:
        """The number of slots that a caller holds."""
        return self._held.get(caller, 0)

    def _wanted(self, caller: str) -> int:
        """The number of slots that a caller holds and waits for."""
        return self.held(caller) + round(self._queued.work(caller))

    def _over_limit(self, sequence: Sequence) -> ServingError | None:
        most, caller, size = sequence.max_slots, sequence.caller, self._size(sequence)
        if not most or (has := self._wanted(caller)) + size <= most:
            return None
        if size > most:
            why = f"{sequence.rows} beams take {size} slots, and caller {caller!r} may have {most} (slots)"
            return bad_input("decoding.beams", f"{why}; send {most} or fewer")
        why = f"caller {caller!r} has {has} of at most {most} slots, and the sequence takes {size}"
        return quota_exceeded(f"{why}; end another, or retry after 1 s", 1.0)

    def _rejection(self, sequence: Sequence, deadline: float | None, now: float) -> ServingError | None:
        caller, size = sequence.caller, self._size(sequence)
        over = round(self._queued.ahead(caller, size)) + size - (self.slots - self.used)
        if over <= 0 or self._has_claim(caller):
            return None
        wait_s = self.slot_time_s * over / self.slots
        if over > self.max_waiting or wait_s > self.max_queue_s:
            retry_s = min(max(wait_s, 0.05), 60.0)
            what = "no free slot" if size == 1 else f"no {size} free slots"
            why = f"{what} ({self.used} of {self.slots} in use, {len(self.waiting)} waiting)"
            return overloaded(f"{why}; retry after {retry_s:.2f} s", retry_s)
        if deadline is not None and now + wait_s > deadline:
            why = f"the expected wait for a slot ({wait_s:.2f} s) exceeds the deadline"
            return overloaded(why, max(wait_s, 0.05))
        return None

    def _has_claim(self, caller: str) -> bool:
        """Whether a caller is below its share, so that slots are taken for one more of its sequences."""
        callers = {caller, *self._holders, *self._queued.callers()}
        return self._wanted(caller) < self.slots // len(callers) and self._suspended_slots() < self.slots

    def _suspended_slots(self) -> int:
        return sum(map(self._size, self.suspended))

    # --- free slots -----------------------------------------------------------------------------------

    def can_admit(self) -> bool:
        """Whether `admit` may find a sequence that waits and for which slots are free."""
        return self._changed and bool(self.waiting) and self.used < self.slots

    def admit(self, now: float) -> list[Sequence]:
        """Give the free slots to waiting sequences. Returns those that got theirs."""
        self._now = now
        if not self.can_admit():
            return []
        admitted = self._next()
        for sequence in admitted:
            self._grant(sequence)
        self._remove_admitted()
        self._changed = False
        return admitted

    def _next(self) -> list[Sequence]:
        """The waiting sequences that get the free slots."""
        free, room = self.slots - self.used, 2 * self.slots - self.used - self._suspended_slots()
        queues = self._in_order()
        heads = [(self.held(caller), queue[0].rank, caller) for caller, queue in queues.items()]
        heapq.heapify(heads)
        chosen: list[Sequence] = []
        while heads and free:
            held, _, caller = heapq.heappop(heads)
            queue = queues[caller]
            sequence, is_new = queue[0].sequence, queue[0].is_new
            size = self._size(sequence)
            if size > free or (is_new and size > room):
                continue  # its caller's others wait too
            chosen.append(sequence)
            free -= size
            room -= size if is_new else 0
            queue.popleft()
            if queue:
                heapq.heappush(heads, (held + size, queue[0].rank, caller))
        return chosen

    def _in_order(self) -> dict[str, deque[_Place]]:
        """The waiting sequences of each caller."""
        urgency = by_urgency(self._now, self.max_queue_s / 2, self.waiting)
        of_callers: dict[str, list[_Place]] = {}
        for rank, sequence in enumerate(sorted(self.waiting, key=urgency)):
            place = _Place(sequence not in self.suspended, rank, sequence)
            of_callers.setdefault(sequence.caller, []).append(place)
        return {caller: deque(sorted(queue)) for caller, queue in of_callers.items()}

    def _grant(self, sequence: Sequence) -> None:
        caller, size = sequence.caller, self._size(sequence)
        sequence.has_slot, sequence.since, sequence.granted = True, self._now, self._now
        self._holders.setdefault(caller, {})[sequence] = None
        self._held[caller] = self.held(caller) + size
        self.used += size
        self.extra += size - 1
        self.suspended.discard(sequence)
        self._fair_queueing.serve(sequence.start_tag)
        self._queued.remove(caller, size)
        self._note_change()

    def _remove_admitted(self) -> None:
        self.waiting = [sequence for sequence in self.waiting if not sequence.has_slot]
        if not self.waiting:
            self._fair_queueing.forget_callers()

    # --- slots that are taken ---------------------------------------------------------------------------

    def swap(self, now: float) -> tuple[list[Sequence], Sequence] | None:
        """Take slots from sequences for a waiting one.

        Returns:
            The sequences that are suspended and the one that got their slots; None if none are taken now.
        """
        self._now = now
        if self.due() > now:
            return None
        self._exchange_known = False  # the order may have changed with the time
        if self.due() > now or (exchange := self._exchange) is None:
            return None
        for holder in exchange.holders:
            self._take(holder)
            self.suspended.add(holder)
        self._grant(exchange.claimant)
        self._remove_admitted()
        return exchange.holders, exchange.claimant

    def due(self) -> float:
        """When `swap` takes the next slots; infinity if it takes none."""
        if not self._exchange_known:
            self._exchange, self._exchange_known = self._find_exchange(), True
        return math.inf if self._exchange is None else self._exchange.due

    def _find_exchange(self) -> _Exchange | None:
        """The next exchange of slots, if there is any: between callers, or within one that has suspended
        sequences."""
        if not self.waiting or not self._holders or not (self.suspended or self._is_uneven()):
            return None
        heads = [queue[0] for queue in self._in_order().values()]
        heads.sort(key=lambda place: (self.held(place.sequence.caller), place.rank))
        waiting = [place.sequence for place in heads]
        found = [self._between_callers(waiting), *map(self._within_caller, waiting)]
        return min((one for one in found if one is not None), key=lambda one: one.due, default=None)

    def _is_uneven(self) -> bool:
        """Whether a caller may hold so much more than one that waits that it is to give up slots."""
        fewest = min(map(self.held, self._queued.callers()), default=0)
        return max(self._held.values(), default=0) - fewest >= (2 if fewest else 1)

    def _between_callers(self, waiting: list[Sequence]) -> _Exchange | None:
        """From the callers that hold the most to the first that holds few enough."""
        room = self.slots - self._suspended_slots()
        for claimant in waiting:
            holders = self._taken_for(claimant)
            is_new = claimant not in self.suspended
            if holders and not (is_new and sum(map(self._size, holders)) > room):
                return _Exchange(_granted(holders) + self.turn_s, holders, claimant)
        return None

    def _taken_for(self, claimant: Sequence) -> list[Sequence]:
        """The sequences of other callers that are to give their slots to a waiting one, if it is to get any.

        A caller without a slot takes turns even with one that holds a single slot. Otherwise nobody is left
        with fewer slots than it then has, or they would be exchanged forever.
        """
        has, missing = self.held(claimant.caller), self._size(claimant) - (self.slots - self.used)
        least = has + self._size(claimant) if has else 0
        queues = {name: deque(of) for name, of in self._holders.items() if name != claimant.caller}
        held = {name: self.held(name) for name in queues}
        taken: list[Sequence] = []
        while missing > 0:
            most = max(held.values(), default=0)
            longest = (queue[0] for name, queue in queues.items() if queue and held[name] == most)
            holder = min(longest, key=lambda sequence: sequence.granted, default=None)
            if holder is None or most - self._size(holder) < least:
                return []
            queues[holder.caller].popleft()
            held[holder.caller] -= self._size(holder)
            missing -= self._size(holder)
            taken.append(holder)
        return taken

    def _within_caller(self, claimant: Sequence) -> _Exchange | None:
        """A suspended sequence takes turns with the others of its caller."""
        if claimant not in self.suspended:
            return None
        missing = self._size(claimant) - (self.slots - self.used)
        holders: list[Sequence] = []
        for holder in self._holders.get(claimant.caller, ()):
            if missing > 0:
                missing -= self._size(holder)
                holders.append(holder)
        if missing > 0 or not holders:
            return None
        return _Exchange(_granted(holders) + _OWN_TURNS * self.turn_s, holders, claimant)

    # --- ends -----------------------------------------------------------------------------------------

    def release(self, sequence: Sequence) -> None:
        """Free the slots of a sequence, or stop its waiting for them."""
        self.suspended.discard(sequence)
        if sequence.has_slot:
            self._take(sequence)
        else:
            self.stop_waiting(sequence)

    def stop_waiting(self, sequence: Sequence) -> None:
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            self._queued.remove(sequence.caller, self._size(sequence))
        self._note_change()

    def _take(self, sequence: Sequence) -> None:
        caller, size = sequence.caller, self._size(sequence)
        sequence.has_slot = False
        self.used -= size
        self.extra -= size - 1
        self._held[caller] -= size
        holders = self._holders[caller]
        del holders[sequence]
        if not holders:
            del self._holders[caller], self._held[caller]
        self._note_change()

    def learn_slot_time(self, seconds: float) -> None:
        self.slot_time_s = moving_average(self.slot_time_s or seconds, seconds, _LEARNING_RATE)

    def timeout_error(self) -> ServingError:
        """The error of a request that has waited for a slot for `max_queue_s`."""
        return overloaded(f"no slot became free within {self.max_queue_s:g} s; retry after 1 s", 1.0)


def _granted(holders: Iterable[Sequence]) -> float:
    """When the last of them got its slots."""
    return max(sequence.granted for sequence in holders)
