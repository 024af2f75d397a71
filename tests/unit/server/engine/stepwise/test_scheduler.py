"""The scheduler, as tables: the calls, then the plan they lead to."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from unit.server.engine.stepwise.step_models import generation_sequence, step_request

from lockstep_server.engine.stepwise.scheduler import Scheduler, SequenceLimits, StepPlan
from lockstep_server.engine.stepwise.sequence import GenerationSequence
from lockstep_server.errors import ErrorCode
from lockstep_server.messages import Feed, SequenceCounts

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.sequence import StepRequest
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
    step = step_request(key, accepted=now)
    assert scheduler.add_step(step, Feed(sequence, start, end), now) is None
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
    assert scheduler.plan(0.0) == StepPlan((), (), (), (), (), generating=False)
    assert (scheduler.has_work(), scheduler.due(), scheduler.open_keys()) == (False, None, [])


def test_a_new_sequence_gets_a_free_slot_in_the_next_plan_and_keeps_stepping() -> None:
    scheduler, first = make_scheduler(), generation_sequence()
    plan = plan_with(scheduler, first)
    assert (plan.admitted, plan.generating) == ((first,), True)
    assert scheduler.plan(1.0) == StepPlan((), (), (), (), (), generating=True)


def test_a_sequence_without_a_free_slot_waits_until_another_ends() -> None:
    scheduler, running = full_scheduler()
    late = generation_sequence()
    assert plan_with(scheduler, late).admitted == ()
    assert scheduler.counts() == SequenceCounts(2, 1, 0)
    scheduler.finish([running[0]], (), 1.0)
    assert scheduler.has_work()
    assert scheduler.plan(1.0).admitted == (late,)


def test_too_many_waiting_sequences_are_rejected_with_a_retry_time() -> None:
    scheduler, _ = full_scheduler()
    plan_with(scheduler, generation_sequence(), generation_sequence())
    error = scheduler.add_generation(generation_sequence(), 0.0)
    assert error is not None
    assert error.code is ErrorCode.OVERLOADED
    assert error.retry_after_s is not None
    assert error.retry_after_s > 0
    assert len(scheduler.open_keys()) == 4


def test_a_rejected_request_leaves_no_trace() -> None:
    scheduler, _ = full_scheduler(max_waiting=0)
    before = scheduler.open_keys()
    assert scheduler.add_generation(generation_sequence(99), 0.0) is not None
    assert scheduler.add_step(step_request(98), Feed("s", start=True), 0.0) is not None
    assert (scheduler.open_keys(), scheduler.counts()) == (before, SequenceCounts(2, 0, 0))
    assert (
        scheduler.add_step(step_request(97), Feed("s"), 0.0) is not None
    )  # the rejected start did not create it


def test_an_expected_wait_above_max_queue_s_is_rejected() -> None:
    scheduler, _ = full_scheduler(slots=1, max_waiting=100)
    scheduler.slot_time_s = 4.0
    for _ in range(2):
        assert scheduler.add_generation(generation_sequence(), 0.0) is None
    error = scheduler.add_generation(generation_sequence(), 0.0)
    assert error is not None
    assert error.code is ErrorCode.OVERLOADED
    assert error.retry_after_s == pytest.approx(12.0)


def test_an_expected_wait_beyond_the_deadline_is_rejected() -> None:
    scheduler, _ = full_scheduler(slots=1)
    scheduler.slot_time_s = 4.0
    error = scheduler.add_generation(generation_sequence(deadline=3.0), 0.0)
    assert error is not None
    assert error.code is ErrorCode.OVERLOADED
    assert scheduler.add_generation(generation_sequence(deadline=5.0), 0.0) is None


def test_the_slot_time_is_learned_from_sequences_that_end() -> None:
    scheduler, running = full_scheduler()
    scheduler.finish([running[0]], (), 4.0)
    assert scheduler.slot_time_s == 4.0
    scheduler.finish([running[1]], (), 14.0)
    assert 4.0 < scheduler.slot_time_s < 14.0


def test_the_slot_time_includes_pauses() -> None:
    scheduler, slow = make_scheduler(), generation_sequence()
    plan_with(scheduler, slow)
    slow.credits = 0
    scheduler.pause(slow, 9.0)
    scheduler.credit(slow.key, 1)
    scheduler.plan(9.5)
    scheduler.finish([slow], (), 10.0)
    assert scheduler.slot_time_s == 10.0


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


def test_a_reused_key_is_not_ended_by_its_predecessors_deadline() -> None:
    scheduler, first, second = make_scheduler(), generation_sequence(7, deadline=5.0), generation_sequence(7)
    plan_with(scheduler, first)
    scheduler.finish([first], (), 1.0)
    plan_with(scheduler, second, now=2.0)
    assert failures(scheduler.plan(6.0)) == []


def test_a_deadline_drops_one_step_and_its_sequence_continues() -> None:
    scheduler, running = full_scheduler()
    started = step_request(7, deadline=5.0)
    assert scheduler.add_step(started, Feed("s", start=True), 0.0) is None
    follows = add_step(scheduler, 8)
    plan = scheduler.plan(5.0)
    assert failures(plan) == [(7, ErrorCode.DEADLINE)]
    assert started.dropped
    scheduler.finish(running, (), 6.0)
    assert scheduler.plan(6.0).client_steps == (follows,)


def test_memory_for_deadlines_of_ended_requests_is_bounded() -> None:
    scheduler = make_scheduler()
    before = sum(type(thing) is GenerationSequence for thing in gc.get_objects())
    for _ in range(3000):
        done = generation_sequence(deadline=1e9)
        plan_with(scheduler, done)
        scheduler.finish([done], (), 0.0)
    gc.collect()
    assert sum(type(thing) is GenerationSequence for thing in gc.get_objects()) - before < 200
    stays = generation_sequence(7, deadline=50.0)
    plan_with(scheduler, stays)
    assert failures(scheduler.plan(50.0)) == [(7, ErrorCode.DEADLINE)]  # deadlines of open requests are kept


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


# --- order of admission -----------------------------------------------------------------------------


def test_a_larger_priority_is_admitted_first() -> None:
    scheduler, running = full_scheduler()
    low, high = generation_sequence(priority=0), generation_sequence(priority=3)
    plan_with(scheduler, low, high)
    scheduler.finish([running[0]], (), 1.0)
    assert scheduler.plan(1.0).admitted == (high,)


def test_callers_take_turns() -> None:
    """A caller with many waiting sequences does not delay one with few."""
    scheduler, running = full_scheduler(slots=1, max_waiting=100)
    many = [generation_sequence(caller="many") for _ in range(6)]
    few = [generation_sequence(caller="few") for _ in range(2)]
    plan_with(scheduler, *many, *few)
    order, now = [], 1.0
    holder = running[0]
    for _ in range(8):
        scheduler.finish([holder], (), now)
        (holder,) = scheduler.plan(now).admitted
        order.append(holder.caller)
    assert order[:4].count("few") == 2
    assert order[4:] == ["many"] * 4


def test_sequences_of_one_caller_are_admitted_in_order() -> None:
    scheduler, running = full_scheduler(slots=1, max_waiting=100)
    waiting = [generation_sequence(caller="a") for _ in range(5)]
    plan_with(scheduler, *waiting)
    order, holder = [], running[0]
    for _ in waiting:
        scheduler.finish([holder], (), 1.0)
        (holder,) = scheduler.plan(1.0).admitted
        order.append(holder)
    assert order == waiting


def test_a_sequence_that_waited_half_of_max_queue_s_precedes_every_priority() -> None:
    scheduler, running = full_scheduler()
    old, urgent = generation_sequence(accepted=0.0), generation_sequence(accepted=4.0, priority=9)
    plan_with(scheduler, old)
    plan_with(scheduler, urgent, now=4.0)
    scheduler.finish([running[0]], (), 5.5)
    assert scheduler.plan(5.5).admitted == (old,)


def test_a_flood_of_other_callers_starves_nobody() -> None:
    scheduler, running = full_scheduler(slots=1, max_waiting=1000)
    meek = generation_sequence(caller="meek")
    plan_with(scheduler, meek)
    now, holder = 0.0, running[0]
    while holder is not meek:
        now += 0.5
        assert now < 10.0
        for _ in range(3):
            assert (
                scheduler.add_generation(generation_sequence(accepted=now, caller="flood", priority=5), now)
                is None
            )
        scheduler.finish([holder], (), now)
        scheduler.slot_time_s = 0.001  # keep admitting
        (holder,) = scheduler.plan(now).admitted


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


def test_credit_that_stays_below_one_does_not_resume() -> None:
    scheduler, slow = make_scheduler(), generation_sequence()
    plan_with(scheduler, slow)
    slow.credits = -1
    scheduler.pause(slow, 0.0)
    scheduler.credit(slow.key, 1)
    assert scheduler.plan(0.0).resumed == ()
    scheduler.credit(slow.key, 1)
    assert scheduler.plan(0.0).resumed == (slow,)


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


def test_resuming_restarts_the_stalled_timeout() -> None:
    scheduler, slow = make_scheduler(), generation_sequence()
    plan_with(scheduler, slow)
    scheduler.pause(slow, 0.0)
    slow.credits = 0
    scheduler.credit(slow.key, 1)
    scheduler.plan(29.0)
    scheduler.pause(slow, 29.0)
    assert failures(scheduler.plan(31.0)) == []
    assert scheduler.due() == 59.0


def test_an_ended_sequence_is_not_paused() -> None:
    scheduler, done = make_scheduler(), generation_sequence()
    plan_with(scheduler, done)
    scheduler.finish([done], (), 0.0)
    scheduler.pause(done, 0.0)
    assert scheduler.counts() == SequenceCounts(0, 0, 0)
    assert failures(scheduler.plan(1000.0)) == []


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
    assert scheduler.plan(0.0) == StepPlan((), (), (), (), (), generating=False)


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


def test_a_cancelled_step_is_dropped_and_the_next_one_runs() -> None:
    scheduler = make_scheduler()
    started, second, third = (
        add_step(scheduler, 1, start=True),
        add_step(scheduler, 2),
        add_step(scheduler, 3),
    )
    assert scheduler.plan(0.0).client_steps == (started,)
    scheduler.cancel(2)
    scheduler.finish((), [started], 0.0)
    assert second.dropped
    assert scheduler.plan(0.0).client_steps == (third,)


def test_cancelling_the_only_step_of_a_waiting_sequence_removes_it() -> None:
    scheduler, running = full_scheduler()
    add_step(scheduler, 7, start=True)
    scheduler.cancel(7)
    assert scheduler.counts().waiting == 0
    scheduler.finish(running, (), 1.0)
    assert scheduler.plan(1.0).client_steps == ()
    assert scheduler.add_step(step_request(8), Feed("s"), 1.0) is not None


# --- client sequences -------------------------------------------------------------------------------


def test_steps_of_one_sequence_run_one_per_plan_in_order() -> None:
    scheduler = make_scheduler()
    steps = [add_step(scheduler, 1, start=True), add_step(scheduler, 2), add_step(scheduler, 3)]
    order = []
    for _ in steps:
        (step,) = scheduler.plan(0.0).client_steps
        order.append(step)
        scheduler.finish((), [step], 0.0)
    assert order == steps
    assert scheduler.plan(0.0).client_steps == ()


def test_steps_of_several_sequences_share_a_plan() -> None:
    scheduler = make_scheduler()
    first, second = add_step(scheduler, 1, "a", start=True), add_step(scheduler, 2, "b", start=True)
    assert set(scheduler.plan(0.0).client_steps) == {first, second}


def test_the_steps_of_one_id_belong_to_one_client_sequence() -> None:
    scheduler = make_scheduler()
    assert add_step(scheduler, 1, start=True).sequence is add_step(scheduler, 2).sequence
    assert add_step(scheduler, 3, "other", start=True).sequence is not add_step(scheduler, 4).sequence


def rejection(scheduler: Scheduler, sequence: Any, now: float = 0.0) -> ServingError:
    error = scheduler.add_step(step_request(), Feed(sequence), now)
    assert error is not None
    return error


@pytest.mark.parametrize("sequence", [17, "seventeen", ("follow", 17)])
def test_an_unknown_id_is_rejected_with_a_hint_to_start_it(sequence: Any) -> None:
    error = rejection(make_scheduler(), sequence)
    assert error.code is ErrorCode.BAD_INPUT
    assert "sequence_start" in error.message
    assert "17" in error.message or "seventeen" in error.message


def test_ids_of_different_types_are_different() -> None:
    scheduler = make_scheduler()
    add_step(scheduler, 1, 1, start=True)
    assert rejection(scheduler, "1").code is ErrorCode.BAD_INPUT


def test_a_start_on_a_live_id_ends_the_old_sequence_and_starts_a_new_one() -> None:
    scheduler = make_scheduler()
    old = add_step(scheduler, 1, start=True)
    scheduler.plan(0.0)
    scheduler.finish((), [old], 0.0)
    new = add_step(scheduler, 2, start=True)
    assert new.sequence is not old.sequence
    assert not old.sequence.has_slot
    assert scheduler.plan(0.0).client_steps == (new,)
    assert add_step(scheduler, 3).sequence is new.sequence
    assert scheduler.counts() == SequenceCounts(1, 0, 0)


def test_waiting_steps_of_the_replaced_sequence_are_answered() -> None:
    scheduler = make_scheduler()
    old, owed, new = (
        add_step(scheduler, 1, start=True),
        add_step(scheduler, 2),
        add_step(scheduler, 3, start=True),
    )
    assert set(scheduler.plan(0.0).client_steps) == {old, new}
    scheduler.finish((), [old, new], 0.0)
    assert scheduler.plan(0.0).client_steps == (owed,)
    scheduler.finish((), [owed], 0.0)
    assert scheduler.counts() == SequenceCounts(0, 0, 1)


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


def test_after_its_end_an_id_is_unknown() -> None:
    scheduler = make_scheduler()
    add_step(scheduler, 1, start=True)
    add_step(scheduler, 2, end=True)
    assert rejection(scheduler, "s").code is ErrorCode.BAD_INPUT


def test_a_step_with_start_and_end_keeps_nothing() -> None:
    scheduler = make_scheduler()
    only = add_step(scheduler, 1, start=True, end=True)
    assert scheduler.plan(0.0).client_steps == (only,)
    scheduler.finish((), [only], 0.0)
    assert scheduler.counts() == SequenceCounts(0, 0, 0)
    assert only.sequence.states is None
    assert scheduler.open_keys() == []
    assert not scheduler.has_work()


def test_an_end_while_waiting_for_a_slot_still_runs_every_step() -> None:
    scheduler, running = full_scheduler()
    started, last = add_step(scheduler, 1, start=True), add_step(scheduler, 2, end=True)
    scheduler.finish(running, (), 1.0)
    assert scheduler.plan(1.0).client_steps == (started,)
    scheduler.finish((), [started], 1.0)
    assert scheduler.plan(1.0).client_steps == (last,)


def make_idle(scheduler: Scheduler, sequence: Any, now: float) -> None:
    step = add_step(scheduler, 0, sequence, start=True, now=now)
    scheduler.plan(now)
    scheduler.finish((), [step], now)


def test_an_idle_sequence_is_evicted_and_its_next_step_gets_an_error() -> None:
    scheduler = make_scheduler()
    make_idle(scheduler, "s", 0.0)
    assert scheduler.counts() == SequenceCounts(0, 0, 1)
    scheduler.plan(59.9)
    assert scheduler.counts().idle == 1
    assert scheduler.due() == 60.0
    scheduler.plan(60.0)
    assert scheduler.counts() == SequenceCounts(0, 0, 0)
    error = rejection(scheduler, "s", 61.0)
    assert error.code is ErrorCode.SEQUENCE_LOST
    assert "start it again" in error.message


def test_a_step_that_arrives_before_the_plan_prevents_the_eviction() -> None:
    scheduler = make_scheduler()
    make_idle(scheduler, "s", 0.0)
    late = add_step(scheduler, 2, now=61.0)
    assert scheduler.plan(61.0).client_steps == (late,)
    scheduler.finish((), [late], 61.0)
    assert scheduler.plan(62.0).failed == ()
    assert scheduler.add_step(step_request(), Feed("s"), 62.0) is None


def test_an_evicted_id_can_start_again() -> None:
    scheduler = make_scheduler()
    make_idle(scheduler, "s", 0.0)
    scheduler.plan(60.0)
    started = add_step(scheduler, 2, start=True, now=61.0)
    assert scheduler.plan(61.0).client_steps == (started,)
    scheduler.finish((), [started], 61.0)
    add_step(scheduler, 3, end=True, now=62.0)
    assert rejection(scheduler, "s").code is ErrorCode.BAD_INPUT  # ended, not evicted


def test_each_step_restarts_the_idle_timeout() -> None:
    scheduler = make_scheduler()
    make_idle(scheduler, "a", 0.0)
    make_idle(scheduler, "b", 1.0)
    again = add_step(scheduler, 3, "a", now=50.0)
    assert scheduler.plan(50.0).client_steps == (again,)
    scheduler.finish((), [again], 50.0)
    assert scheduler.due() == 61.0
    scheduler.plan(61.0)
    assert rejection(scheduler, "b").code is ErrorCode.SEQUENCE_LOST
    assert scheduler.add_step(step_request(), Feed("a"), 61.0) is None


def test_an_evicted_sequence_frees_its_slot_for_a_waiting_one() -> None:
    scheduler, late = make_scheduler(slots=1, max_queue_s=1000), generation_sequence()
    make_idle(scheduler, "s", 0.0)
    plan_with(scheduler, late)
    assert scheduler.plan(60.0).admitted == (late,)


def test_evicted_ids_are_remembered_up_to_a_bound() -> None:
    scheduler = make_scheduler(slots=1)
    for i in range(6000):
        make_idle(scheduler, i, float(i * 100))
    scheduler.plan(1e9)
    assert rejection(scheduler, 5999).code is ErrorCode.SEQUENCE_LOST
    assert rejection(scheduler, 0).code is ErrorCode.BAD_INPUT


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
    assert rejection(scheduler, "s").code is ErrorCode.BAD_INPUT


def test_ending_an_unknown_sequence_is_ignored() -> None:
    scheduler, running = full_scheduler()
    scheduler.end_sequence("unknown")
    assert scheduler.open_keys() == keys(running)


def test_a_client_sequence_that_waits_too_long_for_a_slot_fails_as_overloaded() -> None:
    scheduler, _ = full_scheduler()
    add_step(scheduler, 7, start=True)
    assert failures(scheduler.plan(10.0)) == [(7, ErrorCode.OVERLOADED)]
    assert scheduler.counts().waiting == 0
    assert rejection(scheduler, "s").code is ErrorCode.BAD_INPUT
