"""The slots of one model: which sequences hold one, which wait for one, and who is admitted next.

add → waiting → admit → slot → release. If too many sequences wait, new ones are rejected with a retry time.
Deterministic: it has no clock, and `now` is an argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import overloaded
from ...model.cost_model import moving_average
from ..runtime.fair_queueing import FairQueueing, by_urgency

if TYPE_CHECKING:
    from ...errors import ServingError
    from .sequence import Sequence

_LEARNING_RATE = 0.1


class SlotPool:
    """A number of slots, shared by all kinds of sequences. Not thread-safe.

    Sequences are admitted by urgency and fair among callers; the patience is half of `max_queue_s`.
    """

    def __init__(self, slots: int, max_waiting: int, max_queue_s: float) -> None:
        self.slots, self.max_waiting, self.max_queue_s = slots, max_waiting, max_queue_s
        self.used = 0
        self.slot_time_s = 0.0  # moving average of how long a generation sequence holds its slot
        self.waiting: list[Sequence] = []
        self._fair_queueing = FairQueueing()

    def add(self, sequence: Sequence, deadline: float | None, now: float) -> ServingError | None:
        """Queue a sequence for a slot. Returns the error if it is rejected."""
        if error := self._rejection(deadline, now):
            return error
        sequence.start_tag = self._fair_queueing.start_tag(sequence.caller, 1)
        self.waiting.append(sequence)
        return None

    def _rejection(self, deadline: float | None, now: float) -> ServingError | None:
        over = len(self.waiting) + 1 - (self.slots - self.used)
        if over <= 0:
            return None
        wait_s = self.slot_time_s * over / self.slots
        if over > self.max_waiting or wait_s > self.max_queue_s:
            retry_s = min(max(wait_s, 0.05), 60.0)
            why = f"no free slot ({self.slots} of {self.slots} in use, {over - 1} waiting)"
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
        self.waiting.sort(key=by_urgency(now, self.max_queue_s / 2))
        free = self.slots - self.used
        admitted, self.waiting = self.waiting[:free], self.waiting[free:]
        for sequence in admitted:
            sequence.has_slot, sequence.since = True, now
            self._fair_queueing.serve(sequence.start_tag)
        self.used += len(admitted)
        if not self.waiting:
            self._fair_queueing.forget_callers()
        return admitted

    def release(self, sequence: Sequence) -> None:
        """Free the slot of a sequence, or stop its waiting for one."""
        if sequence.has_slot:
            sequence.has_slot = False
            self.used -= 1
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def learn_slot_time(self, seconds: float) -> None:
        self.slot_time_s = moving_average(self.slot_time_s or seconds, seconds, _LEARNING_RATE)

    def timeout_error(self) -> ServingError:
        """The error of a request that has waited for a slot for `max_queue_s`."""
        return overloaded(f"no slot became free within {self.max_queue_s:g} s; retry after 1 s", 1.0)
