"""The scheduler, as tables: what came before, then the plan."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from unit.server.engine.stepwise.step_models import decoding, element

from lockstep_server.engine.stepwise.scheduler import Scheduler, SequenceLimits, StepPlan
from lockstep_server.engine.stepwise.sequence import GenerationSequence
from lockstep_server.errors import ErrorCode
from lockstep_server.messages import Feed, SequenceCounts

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.sequence import StepRequest
    from lockstep_server.errors import ServingError

LIMITS = SequenceLimits(slots=2, waiting=2, max_queue_s=10.0, idle_timeout_s=60.0, stalled_s=30.0)


def scheduler(**more: Any) -> Scheduler:
    return Scheduler(replace(LIMITS, **more))


def joined(one: Scheduler, *decodings: GenerationSequence, now: float = 0.0) -> StepPlan:
    for each in decodings:
        assert one.join(each, now) is None
    return one.plan(now)


def fed(
    one: Scheduler, key: int, sequence: Any = "s", *, start: bool = False, end: bool = False, now: float = 0.0
) -> StepRequest:
    made = element(key, accepted=now)
    assert one.feed(made, Feed(sequence, start, end), now) is None
    return made


def keys(items: Any) -> list[int]:
    return [item.key for item in items]


def told(plan: StepPlan) -> list[tuple[int, ErrorCode]]:
    return [(who.key, error.code) for who, error in plan.ended]


def filled(**more: Any) -> tuple[Scheduler, list[GenerationSequence]]:
    """All slots taken by decodings that run."""
    one = scheduler(**more)
    running = [decoding() for _ in range(one.limits.slots)]
    joined(one, *running)
    return one, running


# --- slots ------------------------------------------------------------------------------------------


def test_nothing_is_there_nothing_is_planned() -> None:
    one = scheduler()
    assert one.plan(0.0) == StepPlan((), (), (), (), (), steps=False)
    assert (one.has_work(), one.due(), one.held()) == (False, None, [])


def test_who_comes_gets_a_free_slot_in_the_next_plan_and_steps_on() -> None:
    one, first = scheduler(), decoding()
    plan = joined(one, first)
    assert (plan.join, plan.steps) == ((first,), True)
    assert one.plan(1.0) == StepPlan((), (), (), (), (), steps=True)


def test_past_the_slots_it_waits_and_joins_when_one_ends() -> None:
    one, running = filled()
    late = decoding()
    assert joined(one, late).join == ()
    assert one.population() == SequenceCounts(2, 1, 0)
    one.finish([running[0]], (), 1.0)
    assert one.has_work()
    assert one.plan(1.0).join == (late,)


def test_past_the_bound_of_who_waits_it_is_refused_with_a_time_to_come_back() -> None:
    one, _ = filled()
    joined(one, decoding(), decoding())
    error = one.join(decoding(), 0.0)
    assert error is not None
    assert error.code is ErrorCode.OVERLOADED
    assert error.retry_after_s is not None
    assert error.retry_after_s > 0
    assert len(one.held()) == 4


def test_who_is_refused_leaves_no_trace() -> None:
    one, _ = filled(waiting=0)
    before = one.held()
    assert one.join(decoding(99), 0.0) is not None
    assert one.feed(element(98), Feed("s", start=True), 0.0) is not None
    assert (one.held(), one.population()) == (before, SequenceCounts(2, 0, 0))
    assert one.feed(element(97), Feed("s"), 0.0) is not None  # it never began


def test_a_wait_that_would_be_longer_than_the_limit_is_refused() -> None:
    one, _ = filled(slots=1, waiting=100)
    one.hold_s = 4.0
    for _ in range(2):
        assert one.join(decoding(), 0.0) is None
    error = one.join(decoding(), 0.0)
    assert error is not None
    assert error.code is ErrorCode.OVERLOADED
    assert error.retry_after_s == pytest.approx(12.0)


def test_a_wait_that_the_deadline_does_not_allow_is_refused() -> None:
    one, _ = filled(slots=1)
    one.hold_s = 4.0
    error = one.join(decoding(deadline=3.0), 0.0)
    assert error is not None
    assert error.code is ErrorCode.OVERLOADED
    assert one.join(decoding(deadline=5.0), 0.0) is None


def test_how_long_a_slot_is_kept_is_learned_from_who_ends() -> None:
    one, running = filled()
    one.finish([running[0]], (), 4.0)
    assert one.hold_s == 4.0
    one.finish([running[1]], (), 14.0)
    assert 4.0 < one.hold_s < 14.0


def test_the_time_that_a_slot_is_kept_counts_its_pauses() -> None:
    one, slow = scheduler(), decoding()
    joined(one, slow)
    slow.credits = 0
    one.pause(slow, 9.0)
    one.credit(slow.key, 1)
    one.plan(9.5)
    one.finish([slow], (), 10.0)
    assert one.hold_s == 10.0


def test_who_waits_too_long_for_a_slot_is_told_to_come_back() -> None:
    one, _ = filled()
    late = decoding(7)
    joined(one, late)
    assert one.due() == 10.0
    assert told(one.plan(9.9)) == []
    assert told(one.plan(10.0)) == [(7, ErrorCode.OVERLOADED)]
    assert one.population().waiting == 0


def test_who_has_a_slot_is_not_bound_by_the_wait_for_one() -> None:
    one, _ = filled()
    assert told(one.plan(11.0)) == []


# --- deadlines --------------------------------------------------------------------------------------


def test_a_deadline_ends_who_waits() -> None:
    one, _ = filled()
    late = decoding(7, deadline=5.0)
    joined(one, late)
    assert one.due() == 5.0
    assert told(one.plan(5.0)) == [(7, ErrorCode.DEADLINE)]
    assert 7 not in one.held()


def test_a_deadline_ends_a_stream_between_steps_and_frees_its_slot_for_the_same_plan() -> None:
    one, late = scheduler(slots=1), decoding()
    first = decoding(7, deadline=5.0)
    joined(one, first, late)
    plan = one.plan(5.0)
    assert told(plan) == [(7, ErrorCode.DEADLINE)]
    assert plan.ended[0].who is first
    assert plan.join == (late,)


def test_a_deadline_that_passes_after_the_end_says_nothing() -> None:
    one, first = scheduler(), decoding(deadline=5.0)
    joined(one, first)
    one.finish([first], (), 4.0)
    assert told(one.plan(6.0)) == []


def test_a_key_that_is_used_again_is_not_ended_by_its_predecessors_deadline() -> None:
    one, first, second = scheduler(), decoding(7, deadline=5.0), decoding(7)
    joined(one, first)
    one.finish([first], (), 1.0)
    joined(one, second, now=2.0)
    assert told(one.plan(6.0)) == []


def test_a_deadline_passes_over_an_element_and_its_sequence_lives() -> None:
    one, running = filled()
    begun = element(7, deadline=5.0)
    assert one.feed(begun, Feed("s", start=True), 0.0) is None
    follows = fed(one, 8)
    plan = one.plan(5.0)
    assert told(plan) == [(7, ErrorCode.DEADLINE)]
    assert begun.gone
    one.finish(running, (), 6.0)
    assert one.plan(6.0).fed == (follows,)


def test_memory_of_deadlines_long_dead_is_bounded() -> None:
    one = scheduler()
    before = sum(type(thing) is GenerationSequence for thing in gc.get_objects())
    for _ in range(3000):
        done = decoding(deadline=1e9)
        joined(one, done)
        one.finish([done], (), 0.0)
    gc.collect()
    assert sum(type(thing) is GenerationSequence for thing in gc.get_objects()) - before < 200
    stays = decoding(7, deadline=50.0)
    joined(one, stays)
    assert told(one.plan(50.0)) == [(7, ErrorCode.DEADLINE)]  # what lives is remembered


def test_the_next_plan_is_due_at_the_first_of_all_that_can_end() -> None:
    one = scheduler(slots=3, max_queue_s=1000.0, idle_timeout_s=40.0, stalled_s=20.0)
    paused, dated = decoding(), decoding(deadline=100.0)
    joined(one, paused, dated)
    rested = fed(one, 5, start=True)
    one.plan(10.0)
    assert one.due() == 100.0
    one.finish((), [rested], 10.0)
    assert one.due() == 50.0
    one.pause(paused, 12.0)
    assert one.due() == 32.0


# --- whose turn -------------------------------------------------------------------------------------


def test_larger_priority_is_sooner() -> None:
    one, running = filled()
    low, high = decoding(priority=0), decoding(priority=3)
    joined(one, low, high)
    one.finish([running[0]], (), 1.0)
    assert one.plan(1.0).join == (high,)


def test_callers_take_turns() -> None:
    """One with many waiting does not hold up one with few."""
    one, running = filled(slots=1, waiting=100)
    many = [decoding(caller="many") for _ in range(6)]
    few = [decoding(caller="few") for _ in range(2)]
    joined(one, *many, *few)
    order, now = [], 1.0
    holder = running[0]
    for _ in range(8):
        one.finish([holder], (), now)
        (holder,) = one.plan(now).join
        order.append(holder.caller)
    assert order[:4].count("few") == 2
    assert order[4:] == ["many"] * 4


def test_of_one_caller_who_came_first_is_first() -> None:
    one, running = filled(slots=1, waiting=100)
    waiting = [decoding(caller="a") for _ in range(5)]
    joined(one, *waiting)
    order, holder = [], running[0]
    for _ in waiting:
        one.finish([holder], (), 1.0)
        (holder,) = one.plan(1.0).join
        order.append(holder)
    assert order == waiting


def test_who_has_waited_for_half_of_what_it_may_goes_before_every_priority() -> None:
    one, running = filled()
    old, urgent = decoding(accepted=0.0), decoding(accepted=4.0, priority=9)
    joined(one, old)
    joined(one, urgent, now=4.0)
    one.finish([running[0]], (), 5.5)
    assert one.plan(5.5).join == (old,)


def test_nobody_starves_beside_a_flood_of_others() -> None:
    one, running = filled(slots=1, waiting=1000)
    meek = decoding(caller="meek")
    joined(one, meek)
    now, holder = 0.0, running[0]
    while holder is not meek:
        now += 0.5
        assert now < 10.0
        for _ in range(3):
            assert one.join(decoding(accepted=now, caller="flood", priority=5), now) is None
        one.finish([holder], (), now)
        one.hold_s = 0.001  # keep the door open
        (holder,) = one.plan(now).join


# --- readers ----------------------------------------------------------------------------------------


def test_a_paused_stream_keeps_its_slot_and_resumes_with_credit() -> None:
    one, running = filled()
    slow = running[0]
    late = decoding()
    joined(one, late)
    slow.credits = 0
    one.pause(slow, 1.0)
    assert one.plan(1.0).join == ()
    assert one.population() == SequenceCounts(1, 1, 1)
    one.credit(slow.key, 1)
    assert one.has_work()
    plan = one.plan(2.0)
    assert (plan.resume, plan.steps) == ((slow,), True)
    assert one.population() == SequenceCounts(2, 1, 0)


def test_a_paused_stream_alone_leaves_nothing_to_do() -> None:
    one, only = scheduler(), decoding()
    joined(one, only)
    one.pause(only, 0.0)
    assert not one.has_work()
    assert not one.plan(0.0).steps


def test_credit_that_does_not_cover_what_is_owed_resumes_nobody() -> None:
    one, slow = scheduler(), decoding()
    joined(one, slow)
    slow.credits = -1
    one.pause(slow, 0.0)
    one.credit(slow.key, 1)
    assert one.plan(0.0).resume == ()
    one.credit(slow.key, 1)
    assert one.plan(0.0).resume == (slow,)


def test_credit_for_who_is_not_there_is_nothing() -> None:
    one = scheduler()
    one.credit(5, 3)
    begun = fed(one, 6, start=True)
    one.credit(begun.key, 3)
    assert one.plan(0.0).fed == (begun,)


def test_a_reader_that_stops_for_too_long_is_ended() -> None:
    one, slow = scheduler(max_queue_s=1000.0), decoding(7)
    joined(one, slow)
    one.pause(slow, 1.0)
    assert one.due() == 31.0
    assert told(one.plan(30.9)) == []
    assert told(one.plan(31.0)) == [(7, ErrorCode.SEQUENCE_LOST)]
    assert one.population() == SequenceCounts(0, 0, 0)


def test_a_reader_that_goes_on_is_given_the_whole_limit_again() -> None:
    one, slow = scheduler(), decoding()
    joined(one, slow)
    one.pause(slow, 0.0)
    slow.credits = 0
    one.credit(slow.key, 1)
    one.plan(29.0)
    one.pause(slow, 29.0)
    assert told(one.plan(31.0)) == []
    assert one.due() == 59.0


def test_who_has_ended_is_not_paused() -> None:
    one, done = scheduler(), decoding()
    joined(one, done)
    one.finish([done], (), 0.0)
    one.pause(done, 0.0)
    assert one.population() == SequenceCounts(0, 0, 0)
    assert told(one.plan(1000.0)) == []


# --- cancelling -------------------------------------------------------------------------------------


def test_cancelled_while_it_waits_it_never_joins() -> None:
    one, running = filled()
    gone = decoding()
    joined(one, gone)
    one.cancel(gone.key)
    one.finish([running[0]], (), 1.0)
    plan = one.plan(1.0)
    assert (plan.join, plan.left, plan.ended) == ((), (), ())


def test_cancelled_before_the_plan_that_would_admit_it_it_holds_nothing() -> None:
    one, gone = scheduler(), decoding()
    assert one.join(gone, 0.0) is None
    one.cancel(gone.key)
    assert one.plan(0.0) == StepPlan((), (), (), (), (), steps=False)


def test_cancelled_while_it_runs_it_leaves_its_row_and_its_slot_is_given_in_the_same_plan() -> None:
    one, late = scheduler(slots=1), decoding()
    gone = decoding()
    joined(one, gone, late)
    one.cancel(gone.key)
    plan = one.plan(1.0)
    assert (plan.left, plan.join, plan.ended) == ((gone,), (late,), ())
    assert one.plan(1.0).left == ()


def test_cancelled_while_paused_it_frees_its_slot() -> None:
    one, late = scheduler(slots=1), decoding()
    gone = decoding()
    joined(one, gone, late)
    one.pause(gone, 0.0)
    one.cancel(gone.key)
    assert one.plan(1.0).join == (late,)
    assert told(one.plan(100.0)) == []


def test_cancelled_between_credit_and_plan_it_does_not_resume() -> None:
    one, gone = scheduler(), decoding()
    joined(one, gone)
    one.pause(gone, 0.0)
    one.credit(gone.key, 5)
    one.cancel(gone.key)
    plan = one.plan(1.0)
    assert (plan.resume, plan.steps) == ((), False)


@pytest.mark.parametrize("key", [1, 12345])
def test_cancelling_twice_or_who_is_not_there_is_nothing(key: int) -> None:
    one, first = scheduler(), decoding(1)
    joined(one, first)
    one.cancel(1)
    one.cancel(key)
    assert one.plan(0.0).left == (first,)
    assert one.population() == SequenceCounts(0, 0, 0)


def test_a_cancelled_element_is_passed_over_and_what_follows_runs() -> None:
    one = scheduler()
    begun, second, third = fed(one, 1, start=True), fed(one, 2), fed(one, 3)
    assert one.plan(0.0).fed == (begun,)
    one.cancel(2)
    one.finish((), [begun], 0.0)
    assert second.gone
    assert one.plan(0.0).fed == (third,)


def test_a_sequence_whose_only_element_is_cancelled_before_its_slot_is_gone() -> None:
    one, running = filled()
    fed(one, 7, start=True)
    one.cancel(7)
    assert one.population().waiting == 0
    one.finish(running, (), 1.0)
    assert one.plan(1.0).fed == ()
    assert one.feed(element(8), Feed("s"), 1.0) is not None


# --- fed sequences ----------------------------------------------------------------------------------


def test_elements_of_one_sequence_run_one_a_step_in_their_order() -> None:
    one = scheduler()
    elements = [fed(one, 1, start=True), fed(one, 2), fed(one, 3)]
    order = []
    for _ in elements:
        (now_fed,) = one.plan(0.0).fed
        order.append(now_fed)
        one.finish((), [now_fed], 0.0)
    assert order == elements
    assert one.plan(0.0).fed == ()


def test_elements_of_several_sequences_share_a_step() -> None:
    one = scheduler()
    first, second = fed(one, 1, "a", start=True), fed(one, 2, "b", start=True)
    assert set(one.plan(0.0).fed) == {first, second}


def test_the_elements_of_a_sequence_are_of_one_conversation() -> None:
    one = scheduler()
    assert fed(one, 1, start=True).of is fed(one, 2).of
    assert fed(one, 3, "other", start=True).of is not fed(one, 4).of


def unknown(one: Scheduler, sequence: Any, now: float = 0.0) -> ServingError:
    error = one.feed(element(), Feed(sequence), now)
    assert error is not None
    return error


@pytest.mark.parametrize("sequence", [17, "seventeen", ("follow", 17)])
def test_an_unknown_id_is_told_to_start(sequence: Any) -> None:
    error = unknown(scheduler(), sequence)
    assert error.code is ErrorCode.BAD_INPUT
    assert "sequence_start" in error.message
    assert "17" in error.message or "seventeen" in error.message


def test_ids_of_different_kinds_are_different() -> None:
    one = scheduler()
    fed(one, 1, 1, start=True)
    assert unknown(one, "1").code is ErrorCode.BAD_INPUT


def test_a_start_on_a_live_id_ends_the_old_sequence_and_begins_a_new_one() -> None:
    one = scheduler()
    old = fed(one, 1, start=True)
    one.plan(0.0)
    one.finish((), [old], 0.0)
    new = fed(one, 2, start=True)
    assert new.of is not old.of
    assert not old.of.slot
    assert one.plan(0.0).fed == (new,)
    assert fed(one, 3).of is new.of
    assert one.population() == SequenceCounts(1, 0, 0)


def test_what_the_old_sequence_still_has_to_step_is_answered() -> None:
    one = scheduler()
    old, owed, new = fed(one, 1, start=True), fed(one, 2), fed(one, 3, start=True)
    assert set(one.plan(0.0).fed) == {old, new}
    one.finish((), [old, new], 0.0)
    assert one.plan(0.0).fed == (owed,)
    one.finish((), [owed], 0.0)
    assert one.population() == SequenceCounts(0, 0, 1)


def test_an_end_frees_the_slot_once_it_was_stepped() -> None:
    one = scheduler(slots=1)
    begun, last = fed(one, 1, start=True), fed(one, 2, end=True)
    late = decoding()
    one.join(late, 0.0)
    assert one.plan(0.0).fed == (begun,)
    one.finish((), [begun], 0.0)
    plan = one.plan(0.0)
    assert (plan.fed, plan.join) == ((last,), ())
    one.finish((), [last], 0.0)
    assert one.plan(0.0).join == (late,)


def test_after_its_end_an_id_is_unknown() -> None:
    one = scheduler()
    fed(one, 1, start=True)
    fed(one, 2, end=True)
    assert unknown(one, "s").code is ErrorCode.BAD_INPUT


def test_start_and_end_in_one_is_one_step_that_keeps_nothing() -> None:
    one = scheduler()
    only = fed(one, 1, start=True, end=True)
    assert one.plan(0.0).fed == (only,)
    one.finish((), [only], 0.0)
    assert one.population() == SequenceCounts(0, 0, 0)
    assert only.of.states is None
    assert one.held() == []
    assert not one.has_work()


def test_an_end_while_it_waits_for_a_slot_keeps_its_turn() -> None:
    one, running = filled()
    begun, last = fed(one, 1, start=True), fed(one, 2, end=True)
    one.finish(running, (), 1.0)
    assert one.plan(1.0).fed == (begun,)
    one.finish((), [begun], 1.0)
    assert one.plan(1.0).fed == (last,)


def idle(one: Scheduler, sequence: Any, now: float) -> None:
    made = fed(one, 0, sequence, start=True, now=now)
    one.plan(now)
    one.finish((), [made], now)


def test_an_idle_sequence_is_evicted_and_its_next_step_is_told_so() -> None:
    one = scheduler()
    idle(one, "s", 0.0)
    assert one.population() == SequenceCounts(0, 0, 1)
    one.plan(59.9)
    assert one.population().idle == 1
    assert one.due() == 60.0
    one.plan(60.0)
    assert one.population() == SequenceCounts(0, 0, 0)
    error = unknown(one, "s", 61.0)
    assert error.code is ErrorCode.SEQUENCE_LOST
    assert "start it again" in error.message


def test_who_is_fed_before_anybody_looked_is_not_evicted() -> None:
    one = scheduler()
    idle(one, "s", 0.0)
    late = fed(one, 2, now=61.0)
    assert one.plan(61.0).fed == (late,)
    one.finish((), [late], 61.0)
    assert one.plan(62.0).ended == ()
    assert one.feed(element(), Feed("s"), 62.0) is None


def test_an_evicted_id_that_starts_again_lives() -> None:
    one = scheduler()
    idle(one, "s", 0.0)
    one.plan(60.0)
    begun = fed(one, 2, start=True, now=61.0)
    assert one.plan(61.0).fed == (begun,)
    one.finish((), [begun], 61.0)
    fed(one, 3, end=True, now=62.0)
    assert unknown(one, "s").code is ErrorCode.BAD_INPUT  # ended, not evicted


def test_each_element_begins_the_idle_time_again() -> None:
    one = scheduler()
    idle(one, "a", 0.0)
    idle(one, "b", 1.0)
    again = fed(one, 3, "a", now=50.0)
    assert one.plan(50.0).fed == (again,)
    one.finish((), [again], 50.0)
    assert one.due() == 61.0
    one.plan(61.0)
    assert unknown(one, "b").code is ErrorCode.SEQUENCE_LOST
    assert one.feed(element(), Feed("a"), 61.0) is None


def test_an_evicted_sequence_gives_its_slot_to_who_waits() -> None:
    one, late = scheduler(slots=1, max_queue_s=1000), decoding()
    idle(one, "s", 0.0)
    joined(one, late)
    assert one.plan(60.0).join == (late,)


def test_evicted_ids_are_remembered_up_to_a_bound() -> None:
    one = scheduler(slots=1)
    for i in range(6000):
        idle(one, i, float(i * 100))
    one.plan(1e9)
    assert unknown(one, 5999).code is ErrorCode.SEQUENCE_LOST
    assert unknown(one, 0).code is ErrorCode.BAD_INPUT


@pytest.mark.parametrize("state", ["waiting for a slot", "in a step", "idle", "fed again"])
def test_who_leaves_frees_its_slot_whatever_its_state(state: str) -> None:
    one, running = filled()
    begun = fed(one, 7, start=True)
    if state != "waiting for a slot":
        one.finish([running.pop()], (), 0.0)
        assert one.plan(0.0).fed == (begun,)
    if state in ("idle", "fed again"):
        one.finish((), [begun], 0.0)
    if state == "fed again":
        fed(one, 8)
    one.leave("s")
    if state == "in a step":
        one.finish((), [begun], 0.0)
    plan = one.plan(0.0)
    assert (plan.fed, plan.ended) == ((), ())
    assert one.population() == SequenceCounts(len(running), 0, 0)
    assert one.held() == keys(running)
    assert unknown(one, "s").code is ErrorCode.BAD_INPUT


def test_leaving_an_unknown_sequence_is_nothing() -> None:
    one, running = filled()
    one.leave("nobody")
    assert one.held() == keys(running)


def test_a_sequence_that_waits_for_a_slot_too_long_is_told() -> None:
    one, _ = filled()
    fed(one, 7, start=True)
    assert told(one.plan(10.0)) == [(7, ErrorCode.OVERLOADED)]
    assert one.population().waiting == 0
    assert unknown(one, "s").code is ErrorCode.BAD_INPUT
