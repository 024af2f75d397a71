"""Who joins, who steps, who leaves: decided between any two steps. Pure: no clock, no session.

`now` is an argument. `join` and `feed` bring sequences in, `plan` decides the next step, `finish`
and `pause` take in what came out of it. A sequence holds a slot from its joining to its end; past
the slots it waits its turn, past a bound it is refused.
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

_REMEMBERED = 4096
"""Evicted ids that are told so."""

_LEARNING_RATE = 0.1


@dataclass(frozen=True)
class SequenceLimits:
    """Bounds of one model's sequences."""

    slots: int
    waiting: int  # that may wait for a slot
    max_queue_s: float  # longest wait for one
    idle_timeout_s: float  # a fed sequence that is not fed for this long is evicted
    stalled_s: float  # a stream whose reader takes nothing for this long is ended


class FailedSequence(NamedTuple):
    """Whose request ends with an error."""

    who: GenerationSequence | StepRequest
    error: ServingError


@dataclass(frozen=True)
class StepPlan:
    """What the next step holds."""

    ended: tuple[FailedSequence, ...]  # to be told; decodings among them leave their rows
    left: tuple[GenerationSequence, ...]  # cancelled: they leave their rows, with nobody to tell
    join: tuple[GenerationSequence, ...]  # they have a slot now: their prompts come first
    resume: tuple[GenerationSequence, ...]  # their readers took something: back into a row
    fed: tuple[StepRequest, ...]  # one element of each sequence that has one
    steps: bool  # some decoding runs


@dataclass
class Scheduler:
    """The sequences of one model version. One thread's."""

    limits: SequenceLimits
    hold_s: float = 0.0  # how long a sequence keeps its slot, as learned
    _items: dict[int, GenerationSequence | StepRequest] = field(default_factory=dict)
    _waiting: list[GenerationSequence | ClientSequence] = field(default_factory=list)
    _running: dict[GenerationSequence, None] = field(default_factory=dict)
    _paused: OrderedDict[GenerationSequence, None] = field(default_factory=OrderedDict)
    _resuming: dict[GenerationSequence, None] = field(default_factory=dict)
    _left: list[GenerationSequence] = field(default_factory=list)
    _live: dict[SequenceId, ClientSequence] = field(default_factory=dict)
    _ready: dict[ClientSequence, None] = field(default_factory=dict)
    _idle: OrderedDict[ClientSequence, None] = field(default_factory=OrderedDict)
    _evicted: OrderedDict[SequenceId, None] = field(default_factory=OrderedDict)
    _dues: list[tuple[float, int, GenerationSequence | StepRequest]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _held: int = 0
    _clock: float = 0.0
    _turns: dict[str, float] = field(default_factory=dict)

    # --- in -----------------------------------------------------------------------------------------

    def join(self, decoding: GenerationSequence, now: float) -> ServingError | None:
        """Take an autoregressive sequence in; or say why not."""
        if error := self._refusal(now, decoding.deadline):
            return error
        self._enqueue(decoding)
        self._hold(decoding.key, decoding, decoding.deadline, now)
        return None

    def feed(self, element: StepRequest, feed: Feed, now: float) -> ServingError | None:
        """Take one step of a fed sequence in; or say why not. `element.of` is set here."""
        live = self._live.get(feed.sequence)
        if feed.start:
            if error := self._refusal(now, element.deadline):
                return error
            if live is not None:
                self._close(live)
            live = self._begin(element, feed)
        elif live is None:
            return self._unknown(feed.sequence)
        element.of = live
        live.waiting.append(element)
        if live.slot:
            self._idle.pop(live, None)
            self._ready[live] = None
        self._hold(element.key, element, element.deadline, now)
        if feed.end:
            self._close(live)
        return None

    def cancel(self, key: int) -> None:
        """Its caller has left: it takes part in no further step, and its slot is free in the next."""
        item = self._items.pop(key, None)
        if isinstance(item, GenerationSequence):
            if self._drop(item):
                self._left.append(item)
        elif item is not None:
            self._pass_over(item)

    def leave(self, sequence: SequenceId) -> None:
        """The caller of a fed sequence has gone; what it still waits for is passed over."""
        live = self._live.get(sequence)
        if live is not None:
            for element in live.waiting:
                element.gone = True
                self._items.pop(element.key, None)
            live.waiting.clear()
            self._close(live)

    def credit(self, key: int, n: int) -> None:
        """The reader of a decoding took `n` chunks; a paused one goes on."""
        item = self._items.get(key)
        if isinstance(item, GenerationSequence):
            item.credits += n
            if item in self._paused and item.credits > 0:
                del self._paused[item]
                self._resuming[item] = None

    # --- the step -----------------------------------------------------------------------------------

    def plan(self, now: float) -> StepPlan:
        due = self.due()
        ended = (*self._expire(now), *self._stalled(now)) if due is not None and due <= now else ()
        self._evict(now)
        joined = self._admit(now) if self._waiting else ()
        resume = tuple(self._resuming)
        for decoding in (*resume, *joined):
            self._running[decoding] = None
        left = tuple(self._left)
        self._resuming.clear()
        self._left.clear()
        fed = self._next_elements() if self._ready else ()
        return StepPlan(ended, left, joined, resume, fed, bool(self._running))

    def pause(self, decoding: GenerationSequence, now: float) -> None:
        """Its reader has stopped: it keeps its slot and steps no more until there is credit."""
        if decoding in self._running:
            del self._running[decoding]
            decoding.stopped = now
            self._paused[decoding] = None

    def finish(
        self, decodings: Iterable[GenerationSequence], elements: Iterable[StepRequest], now: float
    ) -> None:
        """These decodings have ended; these elements have been answered."""
        for decoding in decodings:
            if self._items.pop(decoding.key, None) is not None:
                self._learn_hold(now - decoding.since)
                self._drop(decoding)
        for element in elements:
            self._items.pop(element.key, None)
            self._rest(element.of, now)

    def due(self) -> float | None:
        """When the next plan is wanted though nothing happens; none: never."""
        dues = [self._dues[0][0]] if self._dues else []
        if self._idle:
            dues.append(next(iter(self._idle)).since + self.limits.idle_timeout_s)
        if self._paused:
            dues.append(next(iter(self._paused)).stopped + self.limits.stalled_s)
        return min(dues, default=None)

    def has_work(self) -> bool:
        """Something can be planned now."""
        free = self.limits.slots - self._held
        return bool(self._running or self._ready or self._resuming or self._left or (self._waiting and free))

    def held(self) -> list[int]:
        """The keys of all requests that have not ended."""
        return list(self._items)

    def population(self) -> SequenceCounts:
        running = len(self._running) + len(self._resuming) + len(self._ready)
        return SequenceCounts(running, len(self._waiting), len(self._paused) + len(self._idle))

    # --- waiting ------------------------------------------------------------------------------------

    def _refusal(self, now: float, deadline: float | None) -> ServingError | None:
        over = len(self._waiting) + 1 - (self.limits.slots - self._held)
        if over <= 0:
            return None
        wait = self.hold_s * over / self.limits.slots
        if over > self.limits.waiting or wait > self.limits.max_queue_s:
            return overloaded(
                f"all {self.limits.slots} slots are taken and {over - 1} sequences wait; come back later",
                min(max(wait, 0.05), 60.0),
            )
        if deadline is not None and now + wait > deadline:
            return overloaded(
                f"the wait for a slot would be {wait:.2f} s, longer than the deadline allows", max(wait, 0.05)
            )
        return None

    def _enqueue(self, sequence: GenerationSequence | ClientSequence) -> None:
        """Callers take turns: who has many sequences waiting does not hold up who has one."""
        sequence.turn = max(self._clock, self._turns.get(sequence.caller, 0.0))
        self._turns[sequence.caller] = sequence.turn + 1
        self._waiting.append(sequence)

    def _admit(self, now: float) -> tuple[GenerationSequence, ...]:
        """Give free slots: to who waited for half of what it may, oldest first; then by priority;
        then by the callers' turns."""
        joined: list[GenerationSequence] = []
        free = self.limits.slots - self._held
        if free and self._waiting:
            patience = self.limits.max_queue_s / 2

            def urgency(one: GenerationSequence | ClientSequence) -> tuple[float, float, float, float]:
                late = now - one.accepted > patience
                return (0, one.accepted, 0, 0) if late else (1, -one.priority, one.turn, one.accepted)

            self._waiting.sort(key=urgency)
            admitted, self._waiting = self._waiting[:free], self._waiting[free:]
            for one in admitted:
                one.slot, one.since = True, now
                self._clock = max(self._clock, one.turn)
                if isinstance(one, GenerationSequence):
                    joined.append(one)
                else:
                    self._ready[one] = None
            self._held += len(admitted)
            if not self._waiting:
                self._turns.clear()
        return tuple(joined)

    def _hold(
        self, key: int, item: GenerationSequence | StepRequest, deadline: float | None, now: float
    ) -> None:
        self._items[key] = item
        dues = [now + self.limits.max_queue_s] if not self._has_slot(item) else []
        for due in (*dues, *([] if deadline is None else [deadline])):
            heapq.heappush(self._dues, (due, next(self._order), item))
        if len(self._dues) > 4 * len(self._items) + 64:  # most are of requests that have long ended
            self._dues = [entry for entry in self._dues if self._items.get(entry[2].key) is entry[2]]
            heapq.heapify(self._dues)

    def _has_slot(self, item: GenerationSequence | StepRequest) -> bool:
        return item.slot if isinstance(item, GenerationSequence) else item.of.slot

    def _expire(self, now: float) -> Iterable[FailedSequence]:
        """Who is past its deadline, or waited too long for a slot."""
        while self._dues and self._dues[0][0] <= now:
            _, _, item = heapq.heappop(self._dues)
            if self._items.get(item.key) is not item:
                continue
            if item.deadline is not None and item.deadline <= now:
                yield self._fail(item, deadline_passed("before the sequence had ended"))
            elif not self._has_slot(item):
                yield self._fail(item, overloaded("no slot came free in time; come back later", 1.0))

    def _stalled(self, now: float) -> Iterable[FailedSequence]:
        while self._paused:
            first = next(iter(self._paused))
            if now - first.stopped < self.limits.stalled_s:
                return
            why = f"its reader took nothing for {self.limits.stalled_s:g} s; read on, or cancel the call"
            yield self._fail(first, ServingError(ErrorCode.SEQUENCE_LOST, why))

    def _fail(self, item: GenerationSequence | StepRequest, error: ServingError) -> FailedSequence:
        del self._items[item.key]
        if isinstance(item, GenerationSequence):
            self._drop(item)
        else:
            self._pass_over(item)
        return FailedSequence(item, error)

    def _drop(self, decoding: GenerationSequence) -> bool:
        """Out of every list; whether it may have a row."""
        if not decoding.slot:
            self._waiting.remove(decoding)
            return False
        self._running.pop(decoding, None)
        self._paused.pop(decoding, None)
        self._resuming.pop(decoding, None)
        decoding.slot = False
        self._held -= 1
        return True

    def _learn_hold(self, seconds: float) -> None:
        self.hold_s += _LEARNING_RATE * (seconds - self.hold_s) if self.hold_s else seconds

    # --- fed sequences ------------------------------------------------------------------------------

    def _begin(self, element: StepRequest, feed: Feed) -> ClientSequence:
        one = element.of
        one.id = feed.sequence
        self._live[feed.sequence] = one
        self._evicted.pop(feed.sequence, None)
        self._enqueue(one)
        return one

    def _unknown(self, sequence: SequenceId) -> ServingError:
        if sequence in self._evicted:
            why = (
                f"sequence {sequence!r} was not fed for {self.limits.idle_timeout_s:g} s and its slot was"
                " given away; start it again"
            )
            return ServingError(ErrorCode.SEQUENCE_LOST, why)
        return bad_input(
            "parameters.sequence_id", f"there is no sequence {sequence!r}; begin it with sequence_start"
        )

    def _next_elements(self) -> tuple[StepRequest, ...]:
        elements = []
        for one in list(self._ready):
            while one.waiting and one.waiting[0].gone:
                one.waiting.popleft()
            if one.waiting:
                elements.append(one.waiting.popleft())
            else:
                self._rest(one, one.since)
        return tuple(elements)

    def _rest(self, one: ClientSequence, now: float) -> None:
        """It was stepped: on to its next element, or idle, or at its end."""
        if not one.slot:
            return
        if one.waiting:
            self._ready[one] = None
            return
        self._ready.pop(one, None)
        if one.closing:
            self._release(one)
        else:
            one.since = now
            self._idle[one] = None
            self._idle.move_to_end(one)

    def _close(self, one: ClientSequence) -> None:
        """Nothing can be added to it; it ends once what waits has run."""
        one.closing = True
        if self._live.get(one.id) is one:
            del self._live[one.id]
        if not one.waiting and one not in self._ready:
            self._release(one)

    def _release(self, one: ClientSequence) -> None:
        self._idle.pop(one, None)
        self._ready.pop(one, None)
        one.states = None
        if one.slot:
            one.slot = False
            self._held -= 1
        elif one in self._waiting:
            self._waiting.remove(one)

    def _pass_over(self, element: StepRequest) -> None:
        element.gone = True
        one = element.of
        while one.slot and one.waiting and one.waiting[0].gone:
            one.waiting.popleft()
        if one.slot and not one.waiting and one in self._ready:
            self._rest(one, one.since)
        if not one.slot and all(other.gone for other in one.waiting):
            one.waiting.clear()
            self._close(one)

    def _evict(self, now: float) -> None:
        while self._idle:
            first = next(iter(self._idle))
            if now - first.since < self.limits.idle_timeout_s:
                return
            self._evicted[first.id] = None
            if len(self._evicted) > _REMEMBERED:
                self._evicted.popitem(last=False)
            self._close(first)
