"""The scheduler, as tables: the calls, then the plan they lead to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from unit.server.engine.stepwise.step_models import generation_sequence, step_request

from lockstep_server.engine.stepwise.queues import UNKNOWN_SEQUENCE
from lockstep_server.engine.stepwise.scheduler import Scheduler, SequenceLimits, StepPlan
from lockstep_server.errors import ErrorCode
from lockstep_server.messages import SequenceCounts

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.sequence import GenerationSequence, StepRequest
    from lockstep_server.errors import ServingError

LIMITS = SequenceLimits(slots=2, max_waiting=2, max_queue_s=10.0, idle_timeout_s=60.0, stalled_s=30.0)


def make_scheduler(**more: Any) -> Scheduler:
    return Scheduler(replace(LIMITS, **more))


def plan_with(scheduler: Scheduler, *sequences: GenerationSequence, now: float = 0.0) -> StepPlan:
    for each in sequences:
        assert scheduler.add_generation(each, now) is None
    return scheduler.plan(now)


def add_step(
    scheduler: Scheduler,
    key: int,
    sequence: Any = "s",
    *,
    start: bool = False,
    end: bool = False,
    now: float = 0.0,
) -> StepRequest:
    step = step_request(key, accepted=now, sequence=sequence)
    assert scheduler.add_step(step, start=start, end=end, now=now) is None
    return step


def keys(items: Any) -> list[int]:
    return [item.key for item in items]


def failures(plan: StepPlan) -> list[tuple[int, ErrorCode]]:
    return [(request.key, error.code) for request, error in plan.failed]


def full_scheduler(**more: Any) -> tuple[Scheduler, list[GenerationSequence]]:
    """A scheduler whose slots are all in use, and the sequences that run in them."""
    scheduler = make_scheduler(**more)
    running = [generation_sequence() for _ in range(scheduler.limits.slots)]
    plan_with(scheduler, *running)
    return scheduler, running


# --- slots ------------------------------------------------------------------------------------------


def test_an_empty_scheduler_plans_nothing() -> None:
    scheduler = make_scheduler()
    assert scheduler.plan(0.0) == StepPlan((), (), (), (), (), (), generating=False)
    assert (scheduler.has_work(), scheduler.due(), scheduler.open_keys()) == (False, None, [])


def test_a_new_sequence_gets_a_free_slot_in_the_next_plan_and_keeps_stepping() -> None:
    scheduler, first = make_scheduler(), generation_sequence()
    plan = plan_with(scheduler, first)
    assert (plan.admitted, plan.generating) == ((first,), True)
    assert scheduler.plan(1.0) == StepPlan((), (), (), (), (), (), generating=True)


def test_a_sequence_without_a_free_slot_waits_until_another_ends() -> None:
    scheduler, running = full_scheduler()
    late = generation_sequence()
    assert plan_with(scheduler, late).admitted == ()
    assert scheduler.counts() == SequenceCounts(2, 1, 0)
    scheduler.finish([running[0]], (), 1.0)
    assert scheduler.has_work()
    assert scheduler.plan(1.0).admitted == (late,)


def test_a_rejected_request_leaves_no_trace() -> None:
    scheduler, _ = full_scheduler(max_waiting=0)
    before = scheduler.open_keys()
    assert scheduler.add_generation(generation_sequence(99), 0.0) is not None
    assert scheduler.add_step(step_request(98), start=True, end=False, now=0.0) is not None
    assert (scheduler.open_keys(), scheduler.counts()) == (before, SequenceCounts(2, 0, 0))
    assert rejection(scheduler, "s").message == UNKNOWN_SEQUENCE  # the rejected start did not create it


def test_waiting_too_long_for_a_slot_fails_as_overloaded() -> None:
    scheduler, _ = full_scheduler()
    late = generation_sequence(7)
    plan_with(scheduler, late)
    assert scheduler.due() == 10.0
    assert failures(scheduler.plan(9.9)) == []
    assert failures(scheduler.plan(10.0)) == [(7, ErrorCode.OVERLOADED)]
    assert scheduler.counts().waiting == 0


def test_max_queue_s_does_not_apply_to_a_sequence_with_a_slot() -> None:
    scheduler, _ = full_scheduler()
    assert failures(scheduler.plan(11.0)) == []


# --- deadlines --------------------------------------------------------------------------------------


def test_a_deadline_ends_a_waiting_sequence() -> None:
    scheduler, _ = full_scheduler()
    late = generation_sequence(7, deadline=5.0)
    plan_with(scheduler, late)
    assert scheduler.due() == 5.0
    assert failures(scheduler.plan(5.0)) == [(7, ErrorCode.DEADLINE)]
    assert 7 not in scheduler.open_keys()


def test_a_deadline_ends_a_stream_between_steps_and_frees_its_slot_for_the_same_plan() -> None:
    scheduler, late = make_scheduler(slots=1), generation_sequence()
    first = generation_sequence(7, deadline=5.0)
    plan_with(scheduler, first, late)
    plan = scheduler.plan(5.0)
    assert failures(plan) == [(7, ErrorCode.DEADLINE)]
    assert plan.failed[0].request is first
    assert plan.admitted == (late,)


def test_a_deadline_that_passes_after_the_end_is_ignored() -> None:
    scheduler, first = make_scheduler(), generation_sequence(deadline=5.0)
    plan_with(scheduler, first)
    scheduler.finish([first], (), 4.0)
    assert failures(scheduler.plan(6.0)) == []


def test_a_deadline_drops_one_step_and_its_sequence_continues() -> None:
    scheduler, running = full_scheduler()
    started = step_request(7, deadline=5.0)
    assert scheduler.add_step(started, start=True, end=False, now=0.0) is None
    follows = add_step(scheduler, 8)
    plan = scheduler.plan(5.0)
    assert failures(plan) == [(7, ErrorCode.DEADLINE)]
    assert started.dropped
    scheduler.finish(running, (), 6.0)
    assert scheduler.plan(6.0).client_steps == (follows,)


def test_due_is_the_earliest_of_all_timeouts() -> None:
    scheduler = make_scheduler(slots=3, max_queue_s=1000.0, idle_timeout_s=40.0, stalled_s=20.0)
    paused, dated = generation_sequence(), generation_sequence(deadline=100.0)
    plan_with(scheduler, paused, dated)
    idle_step = add_step(scheduler, 5, start=True)
    scheduler.plan(10.0)
    assert scheduler.due() == 100.0
    scheduler.finish((), [idle_step], 10.0)
    assert scheduler.due() == 50.0
    scheduler.pause(paused, 12.0)
    assert scheduler.due() == 32.0


# --- flow control -----------------------------------------------------------------------------------


def test_a_paused_stream_keeps_its_slot_and_resumes_with_credit() -> None:
    scheduler, running = full_scheduler()
    slow = running[0]
    late = generation_sequence()
    plan_with(scheduler, late)
    slow.credits = 0
    scheduler.pause(slow, 1.0)
    assert scheduler.plan(1.0).admitted == ()
    assert scheduler.counts() == SequenceCounts(1, 1, 1)
    scheduler.credit(slow.key, 1)
    assert scheduler.has_work()
    plan = scheduler.plan(2.0)
    assert (plan.resumed, plan.generating) == ((slow,), True)
    assert scheduler.counts() == SequenceCounts(2, 1, 0)


def test_a_single_paused_stream_leaves_no_work() -> None:
    scheduler, only = make_scheduler(), generation_sequence()
    plan_with(scheduler, only)
    scheduler.pause(only, 0.0)
    assert not scheduler.has_work()
    assert not scheduler.plan(0.0).generating


def test_credit_for_an_unknown_key_or_a_client_step_is_ignored() -> None:
    scheduler = make_scheduler()
    scheduler.credit(5, 3)
    started = add_step(scheduler, 6, start=True)
    scheduler.credit(started.key, 3)
    assert scheduler.plan(0.0).client_steps == (started,)


def test_a_stream_that_is_not_read_for_stalled_s_is_ended() -> None:
    scheduler, slow = make_scheduler(max_queue_s=1000.0), generation_sequence(7)
    plan_with(scheduler, slow)
    scheduler.pause(slow, 1.0)
    assert scheduler.due() == 31.0
    assert failures(scheduler.plan(30.9)) == []
    assert failures(scheduler.plan(31.0)) == [(7, ErrorCode.SEQUENCE_LOST)]
    assert scheduler.counts() == SequenceCounts(0, 0, 0)


# --- cancelling -------------------------------------------------------------------------------------


def test_a_sequence_cancelled_while_waiting_is_never_admitted() -> None:
    scheduler, running = full_scheduler()
    gone = generation_sequence()
    plan_with(scheduler, gone)
    scheduler.cancel(gone.key)
    scheduler.finish([running[0]], (), 1.0)
    plan = scheduler.plan(1.0)
    assert (plan.admitted, plan.cancelled, plan.failed) == ((), (), ())


def test_a_sequence_cancelled_before_its_first_plan_holds_nothing() -> None:
    scheduler, gone = make_scheduler(), generation_sequence()
    assert scheduler.add_generation(gone, 0.0) is None
    scheduler.cancel(gone.key)
    assert scheduler.plan(0.0) == StepPlan((), (), (), (), (), (), generating=False)


def test_a_sequence_cancelled_while_running_frees_its_row_and_slot_in_the_same_plan() -> None:
    scheduler, late = make_scheduler(slots=1), generation_sequence()
    gone = generation_sequence()
    plan_with(scheduler, gone, late)
    scheduler.cancel(gone.key)
    plan = scheduler.plan(1.0)
    assert (plan.cancelled, plan.admitted, plan.failed) == ((gone,), (late,), ())
    assert scheduler.plan(1.0).cancelled == ()


def test_a_sequence_cancelled_while_paused_frees_its_slot() -> None:
    scheduler, late = make_scheduler(slots=1), generation_sequence()
    gone = generation_sequence()
    plan_with(scheduler, gone, late)
    scheduler.pause(gone, 0.0)
    scheduler.cancel(gone.key)
    assert scheduler.plan(1.0).admitted == (late,)
    assert failures(scheduler.plan(100.0)) == []


def test_a_sequence_cancelled_between_credit_and_plan_does_not_resume() -> None:
    scheduler, gone = make_scheduler(), generation_sequence()
    plan_with(scheduler, gone)
    scheduler.pause(gone, 0.0)
    scheduler.credit(gone.key, 5)
    scheduler.cancel(gone.key)
    plan = scheduler.plan(1.0)
    assert (plan.resumed, plan.generating) == ((), False)


@pytest.mark.parametrize("key", [1, 12345])
def test_cancelling_twice_or_an_unknown_key_is_ignored(key: int) -> None:
    scheduler, first = make_scheduler(), generation_sequence(1)
    plan_with(scheduler, first)
    scheduler.cancel(1)
    scheduler.cancel(key)
    assert scheduler.plan(0.0).cancelled == (first,)
    assert scheduler.counts() == SequenceCounts(0, 0, 0)


def test_cancelling_the_only_step_of_a_waiting_sequence_removes_it() -> None:
    scheduler, running = full_scheduler()
    add_step(scheduler, 7, start=True)
    scheduler.cancel(7)
    assert scheduler.counts().waiting == 0
    scheduler.finish(running, (), 1.0)
    assert scheduler.plan(1.0).client_steps == ()
    assert rejection(scheduler, "s", 1.0).code is ErrorCode.SEQUENCE_LOST


# --- client sequences -------------------------------------------------------------------------------


def test_steps_of_several_sequences_share_a_plan() -> None:
    scheduler = make_scheduler()
    first, second = add_step(scheduler, 1, "a", start=True), add_step(scheduler, 2, "b", start=True)
    assert set(scheduler.plan(0.0).client_steps) == {first, second}


def rejection(scheduler: Scheduler, sequence: Any, now: float = 0.0) -> ServingError:
    error = scheduler.add_step(step_request(sequence=sequence), start=False, end=False, now=now)
    assert error is not None
    return error


def test_an_end_frees_the_slot_after_its_step() -> None:
    scheduler = make_scheduler(slots=1)
    started, last = add_step(scheduler, 1, start=True), add_step(scheduler, 2, end=True)
    late = generation_sequence()
    scheduler.add_generation(late, 0.0)
    assert scheduler.plan(0.0).client_steps == (started,)
    scheduler.finish((), [started], 0.0)
    plan = scheduler.plan(0.0)
    assert (plan.client_steps, plan.admitted) == ((last,), ())
    scheduler.finish((), [last], 0.0)
    assert scheduler.plan(0.0).admitted == (late,)


def test_a_step_with_start_and_end_keeps_nothing() -> None:
    scheduler = make_scheduler()
    only = add_step(scheduler, 1, start=True, end=True)
    assert scheduler.plan(0.0).client_steps == (only,)
    scheduler.finish((), [only], 0.0)
    assert scheduler.counts() == SequenceCounts(0, 0, 0)
    assert only.sequence.states is None
    assert scheduler.open_keys() == []
    assert not scheduler.has_work()


def make_idle(scheduler: Scheduler, sequence: Any, now: float) -> None:
    step = add_step(scheduler, 0, sequence, start=True, now=now)
    scheduler.plan(now)
    scheduler.finish((), [step], now)


def test_a_step_that_arrives_before_the_plan_prevents_the_eviction() -> None:
    scheduler = make_scheduler()
    make_idle(scheduler, "s", 0.0)
    late = add_step(scheduler, 2, now=61.0)
    assert scheduler.plan(61.0).client_steps == (late,)
    scheduler.finish((), [late], 61.0)
    assert scheduler.plan(62.0).failed == ()
    add_step(scheduler, 3, now=62.0)


def test_an_evicted_sequence_frees_its_slot_for_a_waiting_one() -> None:
    scheduler, late = make_scheduler(slots=1, max_queue_s=1000), generation_sequence()
    make_idle(scheduler, "s", 0.0)
    plan_with(scheduler, late)
    assert scheduler.plan(60.0).admitted == (late,)


@pytest.mark.parametrize("state", ["waiting for a slot", "in a step", "idle", "stepping again"])
def test_ending_a_sequence_frees_its_slot_in_every_state(state: str) -> None:
    scheduler, running = full_scheduler()
    started = add_step(scheduler, 7, start=True)
    if state != "waiting for a slot":
        scheduler.finish([running.pop()], (), 0.0)
        assert scheduler.plan(0.0).client_steps == (started,)
    if state in ("idle", "stepping again"):
        scheduler.finish((), [started], 0.0)
    if state == "stepping again":
        add_step(scheduler, 8)
    scheduler.end_sequence("s")
    if state == "in a step":
        scheduler.finish((), [started], 0.0)
    plan = scheduler.plan(0.0)
    assert (plan.client_steps, plan.failed) == ((), ())
    assert scheduler.counts() == SequenceCounts(len(running), 0, 0)
    assert scheduler.open_keys() == keys(running)
    assert rejection(scheduler, "s").code is ErrorCode.SEQUENCE_LOST


def test_a_client_sequence_that_waits_too_long_for_a_slot_fails_as_overloaded() -> None:
    scheduler, _ = full_scheduler()
    add_step(scheduler, 7, start=True)
    assert failures(scheduler.plan(10.0)) == [(7, ErrorCode.OVERLOADED)]
    assert scheduler.counts().waiting == 0
    assert rejection(scheduler, "s").code is ErrorCode.SEQUENCE_LOST


def test_a_late_plan_gives_free_slots_before_it_ends_who_waited_too_long() -> None:
    scheduler = make_scheduler()
    waited = [generation_sequence() for _ in range(3)]  # for two slots
    for each in waited:
        assert scheduler.add_generation(each, 0.0) is None
    plan = scheduler.plan(LIMITS.max_queue_s + 1)  # the device was busy
    assert list(plan.admitted) == waited[:2]
    assert failures(plan) == [(waited[2].key, ErrorCode.OVERLOADED)]


def test_a_late_plan_gives_a_client_sequence_its_slot() -> None:
    scheduler = make_scheduler()
    step = add_step(scheduler, 1, start=True)
    plan = scheduler.plan(LIMITS.max_queue_s + 1)
    assert (list(plan.client_steps), plan.failed) == ([step], ())


def test_a_deadline_that_passed_before_a_late_plan_frees_its_place() -> None:
    scheduler = make_scheduler(slots=1)
    late, other = generation_sequence(deadline=1.0), generation_sequence()
    for each in (late, other):
        assert scheduler.add_generation(each, 0.0) is None
    plan = scheduler.plan(LIMITS.max_queue_s + 1)
    assert list(plan.admitted) == [other]
    assert failures(plan) == [(late.key, ErrorCode.DEADLINE)]


def test_many_slots_are_taken_back_over_several_steps() -> None:
    """Each exchange copies states, and running streams wait meanwhile."""
    scheduler = Scheduler(SequenceLimits(64, 64, 10.0, 60.0, 30.0))
    greedy = [generation_sequence(caller="greedy") for _ in range(64)]
    assert plan_with(scheduler, *greedy).admitted == tuple(greedy)
    meek = [generation_sequence(caller="meek", accepted=0.5) for _ in range(32)]
    plans = [plan_with(scheduler, *meek, now=0.5)]
    while (due := scheduler.due()) is not None and due <= 0.5:
        plans.append(scheduler.plan(0.5))
    assert [len(plan.suspended) for plan in plans] == [8] * 4
    assert [sequence for plan in plans for sequence in plan.admitted] == meek
    assert scheduler.pool.held("greedy") == scheduler.pool.held("meek") == 32


# --- beams ------------------------------------------------------------------------------------------


def test_a_search_that_takes_slots_suspends_all_sequences_that_had_them_in_one_plan() -> None:
    scheduler = make_scheduler(slots=4, max_waiting=8)
    greedy = [generation_sequence(caller="greedy") for _ in range(4)]
    plan_with(scheduler, *greedy)
    search = generation_sequence(caller="meek", beams=3)
    assert plan_with(scheduler, search).admitted == ()
    due = scheduler.due()
    assert due is not None
    plan = scheduler.plan(due)
    assert (plan.suspended, plan.admitted) == (tuple(greedy[:3]), (search,))
    assert scheduler.counts() == (4, 3, 0)  # each beam runs
    assert not scheduler.has_work() or scheduler.generation.has_work()
    scheduler.finish([search], [], due)
    assert scheduler.plan(due).resumed == tuple(greedy[:3])


def test_a_search_that_waits_for_slots_keeps_nothing_busy() -> None:
    scheduler = make_scheduler(slots=2, max_waiting=8)
    step = add_step(scheduler, 1, start=True)
    scheduler.finish([], scheduler.plan(0.0).client_steps, 0.0)
    search = generation_sequence(beams=2)
    assert plan_with(scheduler, search).admitted == ()
    assert not scheduler.has_work()
    scheduler.end_sequence(step.sequence.id)
    assert scheduler.has_work()
    assert scheduler.plan(0.0).admitted == (search,)
