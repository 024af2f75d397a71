"""The scheduler under random callers: no slot is lost or shared, and every request ends exactly once."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from unit.server.engine.stepwise.step_models import generation_sequence, step_request

from lockstep_server.engine.stepwise.scheduler import Scheduler, SequenceLimits
from lockstep_server.engine.stepwise.sequence import GenerationSequence

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.scheduler import StepPlan
    from lockstep_server.engine.stepwise.sequence import ClientSequence, Sequence, StepRequest

LIMITS = SequenceLimits(slots=3, max_waiting=5, max_queue_s=8.0, idle_timeout_s=6.0, stalled_s=5.0)
IDS = st.sampled_from(["a", "b", "c", "d"])
QUARTERS = st.integers(0, 40).map(lambda n: n / 4)
DEADLINES = st.one_of(st.none(), st.integers(1, 40).map(lambda n: n / 4))


def slots_of(sequence: Sequence) -> int:
    return min(sequence.rows, LIMITS.slots)


class Callers(RuleBasedStateMachine):
    """Random callers and an engine around one scheduler, with a model of what they were promised."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(LIMITS)
        self.now = 0.0
        self.keys = itertools.count(1)
        self.open: dict[int, GenerationSequence | StepRequest] = {}  # accepted, and not ended or cancelled
        self.running: list[GenerationSequence] = []
        self.paused: list[GenerationSequence] = []
        self.suspended: list[GenerationSequence] = []
        self.order: dict[ClientSequence, int] = {}  # key of its last step
        self.all_sequences: list[GenerationSequence | ClientSequence] = []
        self.live: dict[str, ClientSequence] = {}
        self.frozen: list[ClientSequence] = []
        self.frozen_texts: list[GenerationSequence] = []
        self.step_dropped = False  # since the last plan, which is what frees its slot

    # --- callers ------------------------------------------------------------------------------------

    @rule(
        caller=st.sampled_from("xyz"), priority=st.integers(0, 2), deadline=DEADLINES, beams=st.integers(1, 4)
    )
    def add_generation(self, caller: str, priority: int, deadline: float | None, beams: int) -> None:
        request = generation_sequence(
            next(self.keys),
            accepted=self.now,
            caller=caller,
            priority=priority,
            deadline=None if deadline is None else self.now + deadline,
            beams=beams,
        )
        if self.scheduler.add_generation(request, self.now) is None:
            self.open[request.key] = request
            self.all_sequences.append(request)

    @rule(
        sequence=IDS,
        start=st.booleans(),
        end=st.booleans(),
        deadline=DEADLINES,
        caller=st.sampled_from("xyz"),
    )
    def add_step(self, sequence: str, start: bool, end: bool, deadline: float | None, caller: str) -> None:
        request = step_request(
            next(self.keys),
            accepted=self.now,
            caller=caller,
            deadline=None if deadline is None else self.now + deadline,
            sequence=sequence,
        )
        if self.scheduler.add_step(request, start=start, end=end, now=self.now) is None:
            self.open[request.key] = request
            if request.sequence not in self.all_sequences:
                self.all_sequences.append(request.sequence)
            self.live[sequence] = request.sequence
            if end:
                del self.live[sequence]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        key = data.draw(st.sampled_from(sorted(self.open)))
        self.scheduler.cancel(key)
        request = self.open.pop(key)
        self.step_dropped |= not isinstance(request, GenerationSequence)
        self._forget(request)

    @rule(sequence=IDS)
    def end_sequence(self, sequence: str) -> None:
        live = self.live.pop(sequence, None)
        self.scheduler.end_sequence(sequence)
        self.step_dropped = True
        for key in [
            k
            for k, request in self.open.items()
            if not isinstance(request, GenerationSequence) and request.sequence is live
        ]:
            del self.open[key]

    @precondition(lambda self: self.paused)
    @rule(data=st.data())
    def credit(self, data: Any) -> None:
        sequence = data.draw(st.sampled_from(self.paused))
        sequence.credits = 0
        self.scheduler.credit(sequence.key, 1)
        self.scheduler.credit(sequence.key, 1)

    # --- moves to other servers -------------------------------------------------------------------------

    @rule(sequence=IDS)
    def freeze(self, sequence: str) -> None:
        live = self.scheduler.clients.get(sequence)
        if live is not None and self.scheduler.clients.freeze(live) is None:
            self.frozen.append(live)

    @precondition(lambda self: self.frozen)
    @rule(data=st.data(), moves=st.booleans())
    def end_freeze(self, data: Any, moves: bool) -> None:
        sequence = data.draw(st.sampled_from(self.frozen))
        self.frozen.remove(sequence)
        self.step_dropped = True
        if not moves:
            self.scheduler.clients.thaw(sequence, self.now)
            return
        for step in self.scheduler.leave(sequence, address="other", resumes="", why=""):
            del self.open[step.key]
        if self.live.get(str(sequence.id)) is sequence:
            del self.live[str(sequence.id)]
        assert not sequence.has_slot

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def freeze_text(self, data: Any) -> None:
        sequence = data.draw(st.sampled_from(self.running))
        self.scheduler.generation.freeze(sequence)
        self.running.remove(sequence)
        self.frozen_texts.append(sequence)

    @precondition(lambda self: self.frozen_texts)
    @rule(data=st.data(), moves=st.booleans())
    def end_freeze_of_text(self, data: Any, moves: bool) -> None:
        sequence = data.draw(st.sampled_from(self.frozen_texts))
        self.frozen_texts.remove(sequence)
        if moves:
            self.scheduler.finish((sequence,), (), self.now)
            del self.open[sequence.key]
        else:
            self.scheduler.generation.thaw(sequence)
            self.suspended.append(sequence)

    @rule(seconds=QUARTERS)
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # --- the engine ---------------------------------------------------------------------------------

    @rule(data=st.data())
    def step(self, data: Any) -> None:
        plan = self.scheduler.plan(self.now)
        self._check_failed(plan)
        self._check_generation(plan)
        self._check_client_steps(plan)
        free = LIMITS.slots - self._held()
        fitting = [one for one in self.scheduler.pool.waiting if slots_of(one) <= free]
        if fitting:
            ahead = [one for one in self.scheduler.pool.waiting if slots_of(one) > free]
            is_behind = {one.caller for one in fitting} <= {one.caller for one in ahead}
            assert is_behind or self.step_dropped, "sequences wait while slots are free"
            assert is_behind or self.scheduler.has_work()
        due = self.scheduler.due()
        assert due is None or due > self.now or self.step_dropped, "a plan leaves nothing that is due"
        self.step_dropped = False
        self._commit(plan, data)

    def _check_failed(self, plan: StepPlan) -> None:
        for request, _ in plan.failed:
            assert self.open.pop(request.key) is request, "only open requests end, and only once"
            self.step_dropped |= not isinstance(request, GenerationSequence)
            self._forget(request)
        for request in plan.cancelled:
            assert request.key not in self.open

    def _forget(self, request: GenerationSequence | StepRequest) -> None:
        for row in (self.running, self.paused, self.suspended, self.frozen_texts):
            if request in row:
                row.remove(request)

    def _held(self) -> int:
        return sum(slots_of(sequence) for sequence in self.all_sequences if sequence.has_slot)

    def _check_generation(self, plan: StepPlan) -> None:
        for sequence in plan.admitted:
            assert sequence.has_slot
            assert sequence not in self.running
            assert self.open[sequence.key] is sequence
        for sequence in plan.suspended:
            self.running.remove(sequence)
            self.suspended.append(sequence)
        for sequence in plan.resumed:
            assert sequence.has_slot
            (self.paused if sequence in self.paused else self.suspended).remove(sequence)
        self.running += [*plan.admitted, *plan.resumed]
        assert plan.generating == bool(self.running)

    def _check_client_steps(self, plan: StepPlan) -> None:
        client_sequences = [step.sequence for step in plan.client_steps]
        assert len(set(client_sequences)) == len(client_sequences), "one step of each client sequence"
        for step in plan.client_steps:
            assert self.open[step.key] is step
            assert not step.dropped
            assert step.sequence.has_slot
            assert not step.sequence.frozen
            assert self.order.get(step.sequence, 0) < step.key, "in order of arrival"
            self.order[step.sequence] = step.key

    def _commit(self, plan: StepPlan, data: Any) -> None:
        ended = self._some(self.running, data)
        self.scheduler.finish(ended, plan.client_steps, self.now)
        finished: list[GenerationSequence | StepRequest] = [*ended, *plan.client_steps]
        for request in finished:
            del self.open[request.key]
        self.running = [sequence for sequence in self.running if sequence not in ended]
        for sequence in self._some(self.running, data):
            sequence.credits = 0
            self.running.remove(sequence)
            self.paused.append(sequence)
            self.scheduler.pause(sequence, self.now)

    @staticmethod
    def _some(sequences: list[GenerationSequence], data: Any) -> list[GenerationSequence]:
        return [sequence for sequence in sequences if data.draw(st.booleans())]

    # --- invariants ---------------------------------------------------------------------------------

    @invariant()
    def no_more_slots_are_used_than_exist(self) -> None:
        assert self.scheduler.pool.used == self._held() <= LIMITS.slots

    @invariant()
    def states_of_at_most_twice_as_many_rows_are_in_memory(self) -> None:
        suspended = sum(map(slots_of, self.scheduler.pool.suspended))
        assert self._held() + suspended <= 2 * LIMITS.slots

    @invariant()
    def exactly_the_open_requests_are_known(self) -> None:
        assert sorted(self.scheduler.open_keys()) == sorted(self.open)

    @invariant()
    def waiting_sequences_are_bounded(self) -> None:
        """A caller may have some waiting where another has filled the queue: the k-th a k-th of it."""
        most = LIMITS.max_waiting + LIMITS.slots
        assert self.scheduler.counts().waiting <= sum(most / k for k in range(1, 5))

    def teardown(self) -> None:
        """All requests end without the clock advancing, and every slot becomes free again."""
        for frozen in self.frozen:
            self.scheduler.clients.thaw(frozen, self.now)
        for text in self.frozen_texts:
            self.scheduler.generation.thaw(text)
            self.suspended.append(text)
        for sequence_id in ("a", "b", "c", "d"):
            self.end_sequence(sequence_id)
        for sequence in list(self.paused):
            sequence.credits = 0
            self.scheduler.credit(sequence.key, 1)
        for _ in range(100):
            plan = self.scheduler.plan(self.now)
            self._check_failed(plan)
            self._check_generation(plan)
            self._check_client_steps(plan)
            self.scheduler.finish(self.running, plan.client_steps, self.now)
            finished: list[GenerationSequence | StepRequest] = [*self.running, *plan.client_steps]
            for request in finished:
                del self.open[request.key]
            self.running = []
            if not self.scheduler.has_work():
                break
        assert not self.open, "a request waits forever"
        assert self.scheduler.counts() == (0, 0, 0)
        fresh = [generation_sequence(next(self.keys), accepted=self.now) for _ in range(LIMITS.slots)]
        assert [self.scheduler.add_generation(sequence, self.now) for sequence in fresh] == [
            None
        ] * LIMITS.slots
        assert self.scheduler.plan(self.now).admitted == tuple(fresh), "a slot was lost"


Callers.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestCallers = Callers.TestCase
