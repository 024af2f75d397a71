"""The slot pool: rejections, the order of admission and the use of slots."""

from __future__ import annotations

import math
from typing import Any

import pytest
from unit.server.engine.stepwise.step_models import generation_sequence

from lockstep_server.engine.stepwise.sequence import ClientSequence, GenerationSequence, Sequence
from lockstep_server.engine.stepwise.slot_pool import SlotPool
from lockstep_server.errors import ErrorCode


def full_pool(slots: int = 1, max_waiting: int = 100, max_queue_s: float = 10.0) -> SlotPool:
    """A pool whose slots are all in use, each by a sequence of another caller."""
    pool = SlotPool(slots, max_waiting, max_queue_s)
    for number in range(slots):
        pool.add(generation_sequence(caller=f"holder {number}"), None, 0.0)
    pool.admit(0.0)
    return pool


def add(pool: SlotPool, count: int = 1, **more: Any) -> list[GenerationSequence]:
    """Add sequences to the pool, which accepts them."""
    sequences = [generation_sequence(**more) for _ in range(count)]
    for sequence in sequences:
        assert pool.add(sequence, None, sequence.accepted) is None
    return sequences


def next_admitted(pool: SlotPool, now: float) -> Sequence:
    """End a sequence that holds a slot, and return the one that gets it."""
    [holder, *_] = next(iter(pool._holders.values()))
    pool.release(holder)
    (sequence,) = pool.admit(now)
    return sequence


# --- slots ------------------------------------------------------------------------------------------


def test_an_empty_pool_admits_nothing() -> None:
    pool = SlotPool(2, 2, 10.0)
    assert (pool.can_admit(), pool.admit(0.0)) == (False, [])


def test_sequences_of_both_kinds_share_the_slots() -> None:
    pool, generation, client = SlotPool(2, 2, 10.0), generation_sequence(), ClientSequence(1, 0.0)
    pool.add(generation, None, 0.0)
    pool.add(client, None, 0.0)
    (late,) = add(pool)
    assert pool.admit(5.0) == [generation, client]
    assert [sequence.has_slot for sequence in (generation, client, late)] == [True, True, False]
    assert generation.since == client.since == 5.0
    assert (pool.used, pool.waiting, pool.can_admit()) == (2, [late], False)


def test_a_released_slot_is_admitted_again() -> None:
    pool, sequence = SlotPool(1, 2, 10.0), generation_sequence()
    pool.add(sequence, None, 0.0)
    pool.admit(0.0)
    (late,) = add(pool)
    pool.release(sequence)
    assert not sequence.has_slot
    assert pool.can_admit()
    assert pool.admit(1.0) == [late]


def test_releasing_a_waiting_sequence_ends_its_wait() -> None:
    pool = full_pool()
    first, second = add(pool, 2)
    pool.release(first)
    assert (pool.used, pool.waiting) == (1, [second])


def test_releasing_twice_frees_one_slot() -> None:
    pool, sequence = full_pool(2), generation_sequence()
    pool.add(sequence, None, 0.0)
    assert next_admitted(pool, 0.0) is sequence
    pool.release(sequence)
    pool.release(sequence)
    assert pool.used == 1


# --- rejections -------------------------------------------------------------------------------------


def test_too_many_waiting_sequences_are_rejected_with_a_retry_time() -> None:
    pool = full_pool(2, max_waiting=2)
    waiting = add(pool, 2)
    error = pool.add(generation_sequence(), None, 0.0)
    assert error is not None
    assert error.code is ErrorCode.OVERLOADED
    assert error.retry_after_s is not None
    assert error.retry_after_s > 0
    assert "2 of 2 in use, 2 waiting" in error.message
    assert pool.waiting == waiting


def test_sequences_that_wait_for_a_free_slot_are_not_counted_as_waiting() -> None:
    pool = SlotPool(3, 0, 10.0)
    add(pool, 3)
    assert pool.add(generation_sequence(), None, 0.0) is not None


@pytest.mark.parametrize(
    ("waiting", "max_queue_s", "deadline", "retry_s"),
    [
        (0, 10.0, None, None),
        (1, 10.0, None, None),
        (2, 10.0, None, 12.0),  # longer than max_queue_s
        (0, 10.0, 3.0, 4.0),  # longer than until the deadline
        (0, 10.0, 5.0, None),
        (0, 3.9, None, 4.0),
        (99, 1e4, None, None),
        (99, 399.0, None, 60.0),  # the retry time is at most a minute
    ],
)
def test_the_expected_wait_decides_whether_a_sequence_is_rejected(
    waiting: int, max_queue_s: float, deadline: float | None, retry_s: float | None
) -> None:
    pool = full_pool(max_queue_s=max_queue_s)
    add(pool, waiting)
    pool.slot_time_s = 4.0
    error = pool.add(generation_sequence(), deadline, 0.0)
    assert (error is None) == (retry_s is None)
    if error is not None:
        assert error.code is ErrorCode.OVERLOADED
        assert error.retry_after_s == pytest.approx(retry_s)


def test_several_slots_shorten_the_expected_wait() -> None:
    pool = full_pool(4)
    pool.slot_time_s = 12.0
    assert pool.add(generation_sequence(), 3.0, 0.0) is None
    assert pool.add(generation_sequence(), 5.9, 0.0) is not None


def test_the_slot_time_is_a_moving_average_that_starts_at_the_first_value() -> None:
    pool = SlotPool(1, 1, 10.0)
    pool.learn_slot_time(4.0)
    assert pool.slot_time_s == 4.0
    pool.learn_slot_time(14.0)
    assert pool.slot_time_s == 5.0


def test_waiting_too_long_is_an_overload_error() -> None:
    error = SlotPool(1, 1, 2.5).timeout_error()
    assert (error.code, error.retry_after_s) == (ErrorCode.OVERLOADED, 1.0)
    assert "2.5 s" in error.message


# --- order of admission -----------------------------------------------------------------------------


def test_a_larger_priority_is_admitted_first() -> None:
    pool = full_pool()
    add(pool, priority=0)
    (high,) = add(pool, priority=3)
    assert next_admitted(pool, 1.0) is high


def test_callers_take_turns() -> None:
    """A caller with many waiting sequences does not delay one with few."""
    pool = full_pool()
    add(pool, 6, caller="many")
    add(pool, 2, caller="few")
    order = [next_admitted(pool, 1.0).caller for _ in range(8)]
    assert order[:4].count("few") == 2
    assert order[4:] == ["many"] * 4


def test_sequences_of_one_caller_are_admitted_in_order() -> None:
    pool = full_pool()
    waiting = add(pool, 5, caller="a")
    assert [next_admitted(pool, 1.0) for _ in waiting] == waiting


def test_a_caller_that_did_not_wait_gains_no_credit() -> None:
    pool = full_pool()
    add(pool, 6, caller="steady")
    for _ in range(3):
        next_admitted(pool, 1.0)
    add(pool, 3, caller="back")
    order = [next_admitted(pool, 1.0).caller for _ in range(4)]
    assert order.count("steady") == 2


def test_a_sequence_that_waited_half_of_max_queue_s_precedes_every_priority() -> None:
    pool = full_pool()
    (old,) = add(pool, accepted=0.0)
    add(pool, accepted=4.0, priority=9)
    assert next_admitted(pool, 5.5) is old


def test_sequences_that_waited_half_of_max_queue_s_are_admitted_oldest_first() -> None:
    pool = full_pool()
    (later,) = add(pool, accepted=0.5, priority=9)
    (oldest,) = add(pool, accepted=0.0)
    assert [next_admitted(pool, 6.0), next_admitted(pool, 6.0)] == [oldest, later]


def test_a_flood_of_other_callers_starves_nobody() -> None:
    pool = full_pool(max_waiting=1000)
    (meek,) = add(pool, caller="meek")
    now, admitted = 0.0, None
    while admitted is not meek:
        now += 0.5
        assert now < 10.0
        add(pool, 3, accepted=now, caller="flood", priority=5)
        admitted = next_admitted(pool, now)


# --- shares -----------------------------------------------------------------------------------------


def test_a_free_slot_goes_to_the_caller_that_holds_the_fewest() -> None:
    pool = SlotPool(4, 100, 10.0)
    holders = add(pool, 4, caller="greedy")
    assert pool.admit(0.0) == holders
    add(pool, 10, caller="greedy")
    (meek,) = add(pool, caller="meek")
    pool.release(holders[0])
    assert pool.admit(1.0) == [meek]
    assert (pool.held("greedy"), pool.held("meek")) == (3, 1)


def test_a_full_queue_of_one_caller_does_not_refuse_another() -> None:
    pool = full_pool(max_waiting=4)
    add(pool, 4, caller="greedy")
    assert pool.add(generation_sequence(caller="greedy"), None, 0.0) is not None
    assert pool.add(generation_sequence(caller="meek"), None, 0.0) is None


def test_a_caller_has_no_more_sequences_than_it_may() -> None:
    pool = SlotPool(8, 100, 10.0)
    first, _ = add(pool, 2, caller="small", max_slots=2)
    pool.admit(0.0)
    error = pool.add(generation_sequence(caller="small", max_slots=2), None, 0.0)
    assert error is not None
    assert error.code is ErrorCode.QUOTA
    add(pool, 3, caller="other")
    pool.release(first)
    add(pool, caller="small", max_slots=2)


# --- slots that are taken back ----------------------------------------------------------------------


def taken(pool: SlotPool, now: float) -> list[tuple[Sequence, Sequence]]:
    """All exchanges of one slot that are due, each sequence that lost its slot waiting again."""
    found = []
    while (swapped := pool.swap(now)) is not None:
        ([holder], claimant) = swapped
        found.append((holder, claimant))
        pool.wait_again(holder)
    return found


def held_by(pool: SlotPool, count: int, caller: str) -> list[GenerationSequence]:
    sequences = add(pool, count, caller=caller)
    assert pool.admit(0.0) == sequences
    return sequences


def test_a_caller_that_holds_all_slots_gives_up_the_share_of_another() -> None:
    pool = SlotPool(4, 100, 10.0)
    greedy = held_by(pool, 4, "greedy")
    meek = add(pool, 3, caller="meek")
    assert pool.due() == pool.turn_s
    assert taken(pool, pool.turn_s / 2) == []
    assert taken(pool, pool.turn_s) == list(zip(greedy[:2], meek[:2], strict=True))
    assert [sequence.has_slot for sequence in greedy] == [False, False, True, True]
    assert (pool.held("greedy"), pool.held("meek"), pool.used) == (2, 2, 4)
    pool.release(meek[0])
    assert pool.admit(1.0) == [meek[2]]  # meek holds fewer than greedy
    pool.release(meek[1])
    pool.release(meek[2])
    assert pool.admit(1.0) == greedy[:2]  # alone, a caller has all slots
    assert not pool.suspended


def test_slots_are_not_exchanged_forever() -> None:
    pool = SlotPool(3, 100, 10.0)
    held_by(pool, 2, "a")
    held_by(pool, 1, "b")
    add(pool, 1, caller="b")
    assert (pool.due(), pool.swap(100.0)) == (math.inf, None)


def test_more_callers_than_slots_take_turns() -> None:
    pool = SlotPool(2, 100, 10.0)
    for caller in "abcd":
        add(pool, 1, caller=caller)
    pool.admit(0.0)
    turns = [taken(pool, (1 + number) * pool.turn_s) for number in range(4)]
    assert [[next_.caller for _, next_ in turn] for turn in turns] == [["c", "d"], ["a", "b"]] * 2


def test_suspended_sequences_take_turns_with_their_caller_s_others() -> None:
    pool = SlotPool(2, 100, 10.0)
    first, second = held_by(pool, 2, "greedy")
    add(pool, 1, caller="meek")
    add(pool, 1, caller="greedy")
    taken(pool, pool.turn_s)
    assert (first.has_slot, second.has_slot) == (False, True)
    ((last, next_),) = taken(pool, pool.due())
    assert (last, next_) == (second, first)  # and not the one that has not begun


def test_as_many_sequences_are_suspended_as_there_are_slots() -> None:
    pool = SlotPool(2, 100, 10.0)
    held_by(pool, 2, "a")
    for number in range(6):
        add(pool, 1, caller=f"late {number}")
    for turn in range(20):
        taken(pool, float(turn))
        assert len(pool.suspended) <= 2
        assert pool.used == 2


def test_a_share_of_the_slots_is_not_refused_for_how_long_others_hold_theirs() -> None:
    pool = SlotPool(4, 4, 10.0)
    held_by(pool, 4, "greedy")
    pool.learn_slot_time(3600.0)
    assert pool.add(generation_sequence(caller="greedy"), None, 0.0) is not None
    for _ in range(2):
        assert pool.add(generation_sequence(caller="meek"), None, 0.0) is None
    assert pool.add(generation_sequence(caller="meek"), None, 0.0) is not None  # above its share
    assert pool.add(generation_sequence(caller="third"), None, 0.0) is None


def test_a_suspended_sequence_that_ends_waits_no_more() -> None:
    pool = SlotPool(1, 100, 10.0)
    (first,) = held_by(pool, 1, "a")
    add(pool, 1, caller="b")
    taken(pool, 1.0)
    pool.release(first)
    assert (pool.waiting, pool.suspended, pool.used) == ([], set(), 1)


# --- beam searches ----------------------------------------------------------------------------------


def test_a_search_takes_a_slot_for_each_beam() -> None:
    pool = SlotPool(4, 100, 10.0)
    (search,) = add(pool, caller="a", beams=3)
    assert pool.admit(0.0) == [search]
    assert (pool.used, pool.held("a"), pool.extra) == (3, 3, 2)
    pool.release(search)
    assert (pool.used, pool.held("a"), pool.extra) == (0, 0, 0)


def test_a_search_of_more_beams_than_slots_takes_all_slots() -> None:
    pool = SlotPool(4, 100, 10.0)
    search, *_ = add(pool, 2, beams=64)
    assert pool.admit(0.0) == [search]
    assert (pool.used, pool.can_admit()) == (4, False)


def test_later_sequences_of_a_caller_do_not_overtake_its_search_and_those_of_others_do() -> None:
    pool = SlotPool(4, 100, 10.0)
    first, second = held_by(pool, 2, "a")
    (search,) = add(pool, caller="a", beams=3)
    (later,) = add(pool, caller="a")
    assert (pool.admit(1.0), pool.can_admit()) == ([], False)
    (other,) = add(pool, caller="b")
    assert pool.admit(1.0) == [other]
    pool.release(first)
    assert pool.admit(1.0) == []
    pool.release(second)
    assert pool.admit(1.0) == [search]
    pool.release(other)
    assert pool.admit(1.0) == [later]


def test_beams_count_when_it_is_decided_who_holds_the_fewest() -> None:
    pool = SlotPool(5, 100, 10.0)
    (search,) = add(pool, caller="beams", beams=3)
    held_by_one = [search, *add(pool, 2, caller="streams")]
    assert pool.admit(0.0) == held_by_one
    waits = add(pool, 1, caller="beams") + add(pool, 1, caller="streams")
    pool.release(held_by_one[1])
    assert pool.admit(1.0) == [waits[1]]


def test_as_many_slots_are_taken_as_a_search_needs_and_all_at_once() -> None:
    pool = SlotPool(4, 100, 10.0)
    greedy = held_by(pool, 4, "greedy")
    (search,) = add(pool, caller="meek", beams=2)
    (another,) = add(pool, caller="meek", beams=2)
    assert pool.swap(pool.turn_s) == (greedy[:2], search)
    for holder in greedy[:2]:
        pool.wait_again(holder)
    for _ in range(4):  # the sequences of `greedy` take turns with each other
        swapped = pool.swap(pool.due())
        assert swapped is not None
        assert {one.caller for one in (*swapped[0], swapped[1])} == {"greedy"}
        pool.wait_again(swapped[0][0])
    assert not another.has_slot


def test_slots_of_a_search_that_its_successor_does_not_need_are_given_to_others() -> None:
    pool = SlotPool(4, 100, 10.0)
    (search,) = add(pool, caller="greedy", beams=4)
    assert pool.admit(0.0) == [search]
    meek = add(pool, 2, caller="meek")
    assert pool.swap(pool.turn_s) == ([search], meek[0])
    pool.wait_again(search)
    assert pool.admit(pool.turn_s) == [meek[1]]
    # With its 4 slots, it takes turns with a caller that holds 2.
    assert pool.swap(2 * pool.turn_s) == (meek, search)


def test_a_search_takes_no_slots_that_leave_others_with_fewer_than_its_caller_has() -> None:
    pool = SlotPool(6, 100, 10.0)
    held_by(pool, 4, "a")
    held_by(pool, 2, "b")
    (search,) = add(pool, caller="b", beams=2)
    assert pool.due() == math.inf
    (single,) = add(pool, caller="c", beams=1)
    assert pool.swap(100.0) is not None
    assert single.has_slot
    assert not search.has_slot


def test_no_more_rows_are_in_memory_than_twice_the_slots() -> None:
    pool = SlotPool(4, 100, 10.0)
    for number in range(6):
        add(pool, 1, caller=f"caller {number}", beams=1 + number % 4)
    pool.admit(0.0)
    begun: set[Sequence] = set()
    for turn in range(1, 40):
        while (swapped := pool.swap(float(turn))) is not None:
            for holder in swapped[0]:
                pool.wait_again(holder)
        pool.admit(float(turn))
        begun |= {one for of in pool._holders.values() for one in of}
        assert sum(one.rows for one in begun) <= 2 * pool.slots
        assert pool.used <= pool.slots


def test_a_search_within_the_limit_of_its_caller_counts_its_beams() -> None:
    pool = SlotPool(8, 100, 10.0)
    add(pool, caller="small", max_slots=3, beams=2)
    error = pool.add(generation_sequence(caller="small", max_slots=3, beams=2), None, 0.0)
    assert error is not None
    assert (error.code, error.retry_after_s) == (ErrorCode.QUOTA, 1.0)
    assert "2 of at most 3 slots" in error.message
    add(pool, caller="small", max_slots=3)
    never = pool.add(generation_sequence(caller="small", max_slots=3, beams=4), None, 0.0)
    assert never is not None
    assert (never.code, never.field) == (ErrorCode.BAD_INPUT, "decoding.beams")
    assert "send 3 or fewer" in never.message


def test_a_search_is_refused_by_the_slots_that_it_waits_for() -> None:
    pool = full_pool(4, max_waiting=4)
    pool.slot_time_s = 8.0
    wide = generation_sequence(beams=3)
    error = pool.add(wide, 5.0, 0.0)  # 3 slots are free in 6 s
    assert error is not None
    assert (error.code, error.retry_after_s) == (ErrorCode.OVERLOADED, 6.0)
    assert pool.add(generation_sequence(beams=2), 5.0, 0.0) is None
    full = pool.add(wide, None, 0.0)
    assert full is not None
    assert "no 3 free slots (4 of 4 in use, 1 waiting); retry after" in full.message
