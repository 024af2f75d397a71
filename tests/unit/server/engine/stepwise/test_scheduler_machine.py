"""The scheduler under random callers: no slot is lost or shared, and every request ends exactly once."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from unit.server.engine.stepwise.step_models import decoding, element

from lockstep_server.engine.stepwise.scheduler import Scheduler, SequenceLimits
from lockstep_server.engine.stepwise.sequence import GenerationSequence
from lockstep_server.messages import Feed

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.scheduler import StepPlan
    from lockstep_server.engine.stepwise.sequence import ClientSequence, StepRequest

LIMITS = SequenceLimits(slots=3, waiting=5, max_queue_s=8.0, idle_timeout_s=6.0, stalled_s=5.0)
IDS = st.sampled_from(["a", "b", "c", "d"])
QUARTERS = st.integers(0, 40).map(lambda n: n / 4)
DEADLINES = st.one_of(st.none(), st.integers(1, 40).map(lambda n: n / 4))


class Callers(RuleBasedStateMachine):
    """Callers and an engine around one scheduler; what they were promised is kept beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(LIMITS)
        self.now = 0.0
        self.keys = itertools.count(1)
        self.open: dict[int, GenerationSequence | StepRequest] = {}  # accepted, and not ended or cancelled
        self.running: list[GenerationSequence] = []
        self.paused: list[GenerationSequence] = []
        self.order: dict[ClientSequence, int] = {}  # the key that it was last fed
        self.everyone: list[GenerationSequence | ClientSequence] = []
        self.live: dict[str, ClientSequence] = {}
        self.passed_over = False  # some element, since the last plan: the slot it held is seen in a plan

    # --- callers ------------------------------------------------------------------------------------

    @rule(caller=st.sampled_from("xyz"), priority=st.integers(0, 2), deadline=DEADLINES)
    def join(self, caller: str, priority: int, deadline: float | None) -> None:
        one = decoding(
            next(self.keys),
            accepted=self.now,
            caller=caller,
            priority=priority,
            deadline=None if deadline is None else self.now + deadline,
        )
        if self.scheduler.join(one, self.now) is None:
            self.open[one.key] = one
            self.everyone.append(one)

    @rule(sequence=IDS, start=st.booleans(), end=st.booleans(), deadline=DEADLINES)
    def feed(self, sequence: str, start: bool, end: bool, deadline: float | None) -> None:
        one = element(
            next(self.keys),
            accepted=self.now,
            deadline=None if deadline is None else self.now + deadline,
        )
        if self.scheduler.feed(one, Feed(sequence, start, end), self.now) is None:
            self.open[one.key] = one
            if one.of not in self.everyone:
                self.everyone.append(one.of)
            self.live[sequence] = one.of
            if end:
                del self.live[sequence]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        key = data.draw(st.sampled_from(sorted(self.open)))
        self.scheduler.cancel(key)
        one = self.open.pop(key)
        self.passed_over |= not isinstance(one, GenerationSequence)
        for row in (self.running, self.paused):
            if one in row:
                row.remove(one)

    @rule(sequence=IDS)
    def leave(self, sequence: str) -> None:
        live = self.live.pop(sequence, None)
        self.scheduler.leave(sequence)
        self.passed_over = True
        for key in [
            k for k, one in self.open.items() if not isinstance(one, GenerationSequence) and one.of is live
        ]:
            del self.open[key]

    @precondition(lambda self: self.paused)
    @rule(data=st.data())
    def credit(self, data: Any) -> None:
        one = data.draw(st.sampled_from(self.paused))
        one.credits = 0
        self.scheduler.credit(one.key, 1)
        self.scheduler.credit(one.key, 1)

    @rule(seconds=QUARTERS)
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # --- the engine ---------------------------------------------------------------------------------

    @rule(data=st.data())
    def step(self, data: Any) -> None:
        plan = self.scheduler.plan(self.now)
        self._take_ends(plan)
        self._take_rows(plan)
        self._take_elements(plan)
        if self.scheduler.population().waiting:
            free = LIMITS.slots - sum(one.slot for one in self.everyone)
            assert not free or self.passed_over, "they wait while slots are free"
            assert not free or self.scheduler.has_work()
        due = self.scheduler.due()
        assert due is None or due > self.now or self.passed_over, "a plan leaves nothing that is due"
        self.passed_over = False
        self._commit(plan, data)

    def _take_ends(self, plan: StepPlan) -> None:
        for who, _ in plan.ended:
            assert self.open.pop(who.key) is who, "ended once, and only who is there"
            self.passed_over |= not isinstance(who, GenerationSequence)
            for row in (self.running, self.paused):
                if who in row:
                    row.remove(who)  # type: ignore[arg-type]
        for one in plan.left:
            assert one.key not in self.open

    def _take_rows(self, plan: StepPlan) -> None:
        for one in plan.join:
            assert one.slot
            assert one not in self.running
            assert self.open[one.key] is one
        for one in plan.resume:
            self.paused.remove(one)
        self.running += [*plan.join, *plan.resume]
        assert plan.steps == bool(self.running)

    def _take_elements(self, plan: StepPlan) -> None:
        client_sequences = [one.of for one in plan.fed]
        assert len(set(client_sequences)) == len(client_sequences), "one element of each in a step"
        for one in plan.fed:
            assert self.open[one.key] is one
            assert not one.gone
            assert one.of.slot
            assert self.order.get(one.of, 0) < one.key, "in the order in which they came"
            self.order[one.of] = one.key

    def _commit(self, plan: StepPlan, data: Any) -> None:
        ended = self._some(self.running, data)
        self.scheduler.finish(ended, plan.fed, self.now)
        for one in (*ended, *plan.fed):
            del self.open[one.key]
        self.running = [one for one in self.running if one not in ended]
        for one in self._some(self.running, data):
            one.credits = 0
            self.running.remove(one)
            self.paused.append(one)
            self.scheduler.pause(one, self.now)

    @staticmethod
    def _some(ones: list[GenerationSequence], data: Any) -> list[GenerationSequence]:
        return [one for one in ones if data.draw(st.booleans())]

    # --- what always holds --------------------------------------------------------------------------

    @invariant()
    def slots_are_held_by_no_more_than_there_are(self) -> None:
        assert sum(one.slot for one in self.everyone) <= LIMITS.slots

    @invariant()
    def who_is_open_is_known_and_nobody_else(self) -> None:
        assert sorted(self.scheduler.held()) == sorted(self.open)

    @invariant()
    def nobody_waits_past_the_bound(self) -> None:
        assert self.scheduler.population().waiting <= LIMITS.waiting + LIMITS.slots

    def teardown(self) -> None:
        """All goes on to its end without help from the clock, and every slot is there again."""
        for sequence in ("a", "b", "c", "d"):
            self.leave(sequence)
        for one in list(self.paused):
            one.credits = 0
            self.scheduler.credit(one.key, 1)
        for _ in range(100):
            plan = self.scheduler.plan(self.now)
            self._take_ends(plan)
            self._take_rows(plan)
            self._take_elements(plan)
            self.scheduler.finish(self.running, plan.fed, self.now)
            for one in (*self.running, *plan.fed):
                del self.open[one.key]
            self.running = []
            if not self.scheduler.has_work():
                break
        assert not self.open, "somebody waits for ever"
        assert self.scheduler.population() == (0, 0, 0)
        fresh = [decoding(next(self.keys), accepted=self.now) for _ in range(LIMITS.slots)]
        assert [self.scheduler.join(one, self.now) for one in fresh] == [None] * LIMITS.slots
        assert self.scheduler.plan(self.now).join == tuple(fresh), "a slot was lost"


Callers.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestCallers = Callers.TestCase
