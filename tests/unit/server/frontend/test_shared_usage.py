"""Several front ends count what all of them hold: whatever comes, goes and dies, they agree in the end."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from unit.server import sample_models

from lockstep_server.errors import ServingError
from lockstep_server.frontend.admission import AdmissionController
from lockstep_server.frontend.callers import Caller
from lockstep_server.frontend.shared_usage import SharedUsage
from lockstep_server.frontend.usage import CallerUsage

if TYPE_CHECKING:
    from collections.abc import Callable

    from lockstep_server.supervision import Spent, Usage

SPEC = sample_models.ragged()
FRONT_ENDS = range(3)
CALLERS = [Caller(name, tokens_per_second=50, account=name) for name in ("ann", "bob")]


class Timer:
    """What a shared_usage has scheduled: the newest call that is not cancelled."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        self.calls.append((delay_s, call))
        return self

    def cancel(self) -> None:
        self.calls.clear()

    def fire(self) -> None:
        while self.calls:
            self.calls.pop()[1]()


class FrontEnd:
    """The real admission and usage of one front end, with its shared_usage. Implements `Totals`."""

    def __init__(self, number: int, send: Callable[[Usage], None]) -> None:
        self.number, self.timer = number, Timer()
        self.shared_usage = SharedUsage(number, send, self, self.timer.call_later, time.monotonic)
        self.usage = CallerUsage(1000)
        self.usage.shared_usage = self.shared_usage
        self.queued: list[tuple[str, float]] = []
        self.held: list[tuple[Caller, int]] = []
        self.begin()

    def begin(self) -> None:
        """The model is loaded, or loaded again: its requests leave the queue of the old one."""
        self.queued.clear()
        self.shared_usage.begin_model(SPEC.name, SPEC.version)
        self.admission = AdmissionController(SPEC, {}, self.shared_usage)

    def enter(self, caller: str, seconds: float) -> None:
        try:
            self.admission.enter(seconds, time.monotonic(), None, caller=caller)
        except ServingError:
            return
        self.queued.append((caller, seconds))

    def leave(self) -> None:
        if self.queued:
            caller, seconds = self.queued.pop()
            self.admission.leave(seconds, time.monotonic(), served=True, caller=caller)

    def hold(self, caller: Caller, size: int) -> None:
        self.usage.hold(size, caller)
        self.held.append((caller, size))

    def free(self) -> None:
        if self.held:
            caller, size = self.held.pop()
            self.usage.free(size, caller)

    # --- Totals -------------------------------------------------------------------------------------

    def add_held(self, caller: str, size: int) -> None:
        self.usage.add_held(caller, size)

    def add_queued(self, model: str, version: int, caller: str, requests: int, seconds: float) -> None:
        assert (model, version) == (SPEC.name, SPEC.version)
        self.admission.add_queued(caller, requests, seconds, time.monotonic())

    def add_served(self, model: str, version: int, seconds: float) -> None:
        self.admission.add_served(seconds, time.monotonic())

    def add_spent(self, spent: Spent) -> None:
        self.usage.add_spent(spent)


class Ledgers(RuleBasedStateMachine):
    """Front ends, and a supervisor that passes on what they send, in order but late."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = iter(range(1, 1 << 20))
        self.sent: dict[int, deque[Usage]] = {}
        self.front_ends = [self.new() for _ in FRONT_ENDS]

    def new(self) -> FrontEnd:
        number = next(self.numbers)
        self.sent[number] = deque()
        return FrontEnd(number, self.sent[number].append)

    @rule(at=st.sampled_from(FRONT_ENDS), caller=st.sampled_from(CALLERS), seconds=st.floats(0.001, 0.3))
    def enter(self, at: int, caller: Caller, seconds: float) -> None:
        self.front_ends[at].enter(caller.name, seconds)

    @rule(at=st.sampled_from(FRONT_ENDS))
    def leave(self, at: int) -> None:
        self.front_ends[at].leave()

    @rule(at=st.sampled_from(FRONT_ENDS), caller=st.sampled_from(CALLERS), size=st.integers(1, 400))
    def hold(self, at: int, caller: Caller, size: int) -> None:
        self.front_ends[at].hold(caller, size)

    @rule(at=st.sampled_from(FRONT_ENDS))
    def free(self, at: int) -> None:
        self.front_ends[at].free()

    @rule(at=st.sampled_from(FRONT_ENDS))
    def send(self, at: int) -> None:
        self.front_ends[at].timer.fire()

    @rule(at=st.sampled_from(FRONT_ENDS))
    def pass_on(self, at: int) -> None:
        """The supervisor passes on the oldest message of a front end."""
        sender = self.front_ends[at]
        if messages := self.sent[sender.number]:
            usage = messages.popleft()
            for other in self.front_ends:
                if other is not sender:
                    other.shared_usage.take(usage)

    @rule(at=st.sampled_from(FRONT_ENDS))
    def replace(self, at: int) -> None:
        """A front end dies with what it had not sent, and another one comes."""
        gone = self.front_ends[at]
        self.front_ends[at] = self.new()
        for other in self.front_ends:
            if other is not self.front_ends[at]:
                other.shared_usage.forget(gone.number)
                other.shared_usage.send_all()

    @rule()
    def load_again(self) -> None:
        self.settle()  # a load is known to all before it is answered
        for front_end in self.front_ends:
            front_end.begin()

    def teardown(self) -> None:
        self.all_count_the_same_once_everything_is_sent()

    @rule()
    def all_count_the_same_once_everything_is_sent(self) -> None:
        self.settle()
        queued = [one for front_end in self.front_ends for one in front_end.queued]
        held = [one for front_end in self.front_ends for one in front_end.held]
        for front_end in self.front_ends:
            assert front_end.admission.requests == len(queued)
            assert front_end.admission.waiting_s == pytest.approx(sum(s for _, s in queued), abs=1e-9)
            assert front_end.usage.bytes == sum(size for _, size in held)
            for caller in CALLERS:
                own = sum(size for who, size in held if who == caller)
                assert front_end.usage.held(caller.name) == own

    def settle(self) -> None:
        for front_end in self.front_ends:
            front_end.timer.fire()
        for at in FRONT_ENDS:
            while self.sent[self.front_ends[at].number]:
                self.pass_on(at)


TestLedgers = Ledgers.TestCase


def test_much_is_sent_at_once_and_little_later() -> None:
    sent: list[Usage] = []
    front_end = FrontEnd(1, sent.append)
    front_end.hold(CALLERS[0], 1)
    assert [delay for delay, _ in front_end.timer.calls] == [0.05]
    front_end.hold(CALLERS[0], 100)  # a tenth of what a caller may hold
    assert [delay <= 0.002 for delay, _ in front_end.timer.calls] == [True]
    front_end.timer.fire()
    front_end.hold(CALLERS[0], 5)
    front_end.free()
    front_end.timer.fire()
    assert len(sent) == 1  # nothing has changed since


def test_what_is_spent_at_one_front_end_is_owed_at_the_others() -> None:
    sent: list[Usage] = []
    one, other = FrontEnd(1, sent.append), FrontEnd(2, lambda _: None)
    caller = CALLERS[0]
    one.usage.admit(caller)
    one.usage.accepted(caller, 10_000)
    one.timer.fire()
    other.usage.admit(caller)
    for usage in sent:
        other.shared_usage.take(usage)
    with pytest.raises(ServingError, match="50 tokens per second"):
        other.usage.admit(caller)


class Clock:
    """Virtual time: calls at their times, in order."""

    def __init__(self) -> None:
        self.now, self._order = 0.0, itertools.count()
        self._calls: list[tuple[float, int, list[Callable[[], None]]]] = []

    def call_later(self, delay_s: float, call: Callable[[], None]) -> CancelledCall:
        entry = [call]
        heapq.heappush(self._calls, (self.now + delay_s, next(self._order), entry))
        return CancelledCall(entry)

    def run(self, until: float) -> None:
        while self.now < until:
            self.now, _, entry = heapq.heappop(self._calls)
            for call in entry:
                call()


class CancelledCall:
    def __init__(self, entry: list[Callable[[], None]]) -> None:
        self._entry = entry

    def cancel(self) -> None:
        self._entry.clear()


class Shared(FrontEnd):
    """A front end in virtual time, one of `count`."""

    def __init__(self, number: int, clock: Clock, others: list[Shared], count: int, most_ms: float) -> None:
        self.clock = clock
        self.shared_usage = SharedUsage(number, self._send, self, clock.call_later, lambda: clock.now)
        self._others = others
        spec = sample_models.ragged(max_queue_ms=most_ms)
        self.admission = AdmissionController(spec, {}, self.shared_usage if count > 1 else None)

    def _send(self, usage: Usage) -> None:
        for other in self._others:
            if other is not self:
                self.clock.call_later(0.0005, partial(other.shared_usage.take, usage))

    def add_queued(self, model: str, version: int, caller: str, requests: int, seconds: float) -> None:
        self.admission.add_queued(caller, requests, seconds, self.clock.now)

    def add_served(self, model: str, version: int, seconds: float) -> None:
        self.admission.add_served(seconds, self.clock.now)


def paces(front_ends: int, most_ms: float) -> list[float]:
    """What each of some front ends has learned of an engine that takes 1.25 times the estimate, in runs of 4,
    with 64 requests in flight."""
    clock, all_ = Clock(), list[Shared]()
    all_ += [Shared(number, clock, all_, front_ends, most_ms) for number in range(1, front_ends + 1)]
    queue: deque[Shared] = deque()

    def arrive(at: Shared) -> None:
        at.admission.enter(0.002, clock.now, None, caller="ann")
        queue.append(at)

    def run() -> None:
        clock.call_later(0.01, partial(end, [queue.popleft() for _ in range(4)]))

    def end(ran: list[Shared]) -> None:
        for one in ran:
            one.admission.leave(0.002, clock.now, served=True, caller="ann")
            clock.call_later(0.001, partial(arrive, one))
        run()

    for number in range(64):
        arrive(all_[number % front_ends])
    run()
    clock.run(until=5.0)
    return [one.admission.pace for one in all_]


@pytest.mark.parametrize("most_ms", [300, 3000])
@pytest.mark.parametrize("front_ends", [1, 2, 4])
def test_front_ends_that_share_an_engine_learn_its_pace(front_ends: int, most_ms: float) -> None:
    """Each sees its own work end at once, and that of the others later; together they see all."""
    assert paces(front_ends, most_ms) == pytest.approx([1.25] * front_ends, rel=0.08)
