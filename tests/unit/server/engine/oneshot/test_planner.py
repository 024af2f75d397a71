"""The planner: examples, then properties over random queues."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.server.sample_models import part

from lockstep_server.engine.oneshot.planner import (
    WINDOW,
    RunLimits,
    best_of_few,
    best_of_many,
    few_ranges,
    many_ranges,
    plan,
)
from lockstep_server.model.cost_model import CostModel

RECURRENT = CostModel((5e-5, 0, 4e-5, 5e-6, 0))
TRANSFORMER = CostModel((2e-4, 0, 0, 3e-5, 4e-7), overhead_s=1e-5)
WIDE = RunLimits(64, 4096, patience_s=0.25)
NOW = 100.0


def chosen(waiting: list[Any], limits: RunLimits = WIDE, costs: CostModel = RECURRENT) -> set[Any]:
    return set(plan(waiting, NOW, costs, limits).parts)


def test_an_empty_queue_gives_an_empty_plan() -> None:
    run = plan([], NOW, RECURRENT, WIDE)
    assert run.parts == run.removed == ()


def test_a_recurrent_model_batches_the_whole_queue() -> None:
    waiting = [part(20) for _ in range(10)]
    run = plan(waiting, NOW, RECURRENT, WIDE)
    assert set(run.parts) == set(waiting)
    assert (run.rows, run.lengths, run.size) == (10, (20,), 20)


def test_a_transformer_does_not_pad_a_short_text_to_a_long_one() -> None:
    short, long = part(2, start_tag=0, accepted=NOW), part(500, start_tag=1, accepted=NOW)
    assert chosen([long, short], costs=TRANSFORMER) == {short}


def test_cancelled_and_failed_requests_are_dropped() -> None:
    cancelled, failed, live = part(3), part(3), part(3)
    cancelled.request.cancelled = failed.request.done = True
    run = plan([cancelled, failed, live], NOW, RECURRENT, WIDE)
    assert (set(run.dropped), run.parts, run.expired) == ({cancelled, failed}, (live,), ())
    assert set(run.removed) == {cancelled, failed, live}


def test_parts_past_their_deadline_expire() -> None:
    late, edge, early = part(3, deadline=NOW - 1), part(3, deadline=NOW), part(3, deadline=NOW + 1e-6)
    run = plan([late, edge, early], NOW, RECURRENT, WIDE)
    assert (set(run.expired), run.parts) == ({late, edge}, (early,))


def test_a_cancelled_part_past_its_deadline_is_dropped() -> None:
    cancelled = part(3, deadline=NOW - 1)
    cancelled.request.cancelled = True
    run = plan([cancelled], NOW, RECURRENT, WIDE)
    assert (run.dropped, run.expired, run.parts) == ((cancelled,), (), ())


ONE_ROW = RunLimits(1, 4096, patience_s=0.25)


def test_a_run_ends_before_any_of_its_calls_does() -> None:
    """Without deadlines all 64 rows would share a run of 19 ms."""
    waiting = [part(50, due=NOW + 0.010) for _ in range(64)]
    run = plan(waiting, NOW, RECURRENT, WIDE)
    assert 1 < run.rows < 64
    assert RECURRENT.estimate(run.rows, run.size) < 0.010
    assert run.expired == ()


def test_a_call_that_ends_soon_shortens_only_a_run_that_it_is_in() -> None:
    soon = part(2, accepted=NOW, due=NOW + 0.003)
    waiting = [soon, *(part(50, accepted=NOW - 1) for _ in range(20))]  # the others are more urgent
    run = plan(waiting, NOW, RECURRENT, WIDE)
    assert soon not in run.parts
    assert len(run.parts) == 20


def test_parts_that_cannot_end_in_time_even_alone_expire_first() -> None:
    hopeless, fine = part(50, due=NOW + 0.0005), part(50, due=NOW + 1)
    run = plan([hopeless, fine], NOW, RECURRENT, WIDE)
    assert (run.expired, run.parts) == ((hopeless,), (fine,))


def test_if_no_part_can_end_in_time_one_is_tried() -> None:
    """The costs may be wrong: without a run nothing would correct them."""
    first, last = part(50, due=NOW + 0.0005), part(50, due=NOW + 0.0006)
    run = plan([first, last], NOW, RECURRENT, WIDE)
    assert (run.expired, run.parts) == ((first,), (last,))


def test_a_longer_run_must_be_worth_its_callers_wait() -> None:
    """Rows of this model share nothing but 1% of a run."""
    linear = CostModel((1e-5, 1e-3, 0, 0, 0), overhead_s=0.0)
    waiting = [part(5) for _ in range(32)]
    assert plan(waiting, NOW, linear, WIDE).rows <= 2


def test_the_smaller_start_tag_precedes() -> None:
    later, sooner = part(3, start_tag=9, accepted=NOW), part(3, start_tag=1, accepted=NOW)
    assert chosen([later, sooner], ONE_ROW) == {sooner}


def test_priority_precedes_the_start_tag() -> None:
    low, high = part(3, start_tag=1, accepted=NOW), part(3, start_tag=9, accepted=NOW, priority=2)
    assert chosen([low, high], ONE_ROW) == {high}


def test_waiting_beyond_patience_precedes_priority() -> None:
    old, high = part(3, start_tag=9, accepted=NOW - 1), part(3, accepted=NOW, priority=2**60)
    assert chosen([high, old], ONE_ROW) == {old}


def test_beyond_patience_the_oldest_precedes() -> None:
    old, older = part(3, start_tag=1, accepted=NOW - 1, priority=5), part(3, start_tag=9, accepted=NOW - 2)
    assert chosen([old, older], ONE_ROW) == {older}


def test_a_run_holds_parts_of_one_group() -> None:
    first = [part(3, group="a", start_tag=i, accepted=NOW) for i in range(3)]
    other = [part(3, group="b", start_tag=9, accepted=NOW) for _ in range(3)]
    assert chosen([*other, *first]) == set(first)


def test_without_batching_a_run_holds_one_part() -> None:
    assert len(chosen([part(3) for _ in range(5)], RunLimits(64, 4096, batching=False))) == 1


def test_a_run_keeps_the_row_limit() -> None:
    assert plan([part(3, rows=3) for _ in range(9)], NOW, RECURRENT, RunLimits(8, 4096)).rows <= 8


def test_a_part_that_exceeds_every_limit_runs_by_itself() -> None:
    huge = part(5000, rows=70)
    run = plan([huge], NOW, RECURRENT, RunLimits(64, 4096, max_run_s=1e-6))
    assert run.parts == (huge,)


def test_max_run_s_limits_the_estimated_time() -> None:
    waiting = [part(50) for _ in range(64)]
    bounded = plan(waiting, NOW, TRANSFORMER, RunLimits(64, 4096, max_run_s=0.02))
    assert len(bounded.parts) > 1
    assert TRANSFORMER.estimate(bounded.rows, bounded.size) <= 0.02
    assert plan(waiting, NOW, RECURRENT, WIDE).rows == 64


def test_a_fixed_shape_sets_rows_and_lengths() -> None:
    run = plan([part(3), part(5)], NOW, RECURRENT, RunLimits(8, 4096, fixed_shape=(8, (100,))))
    assert (run.rows, run.lengths, run.size) == (8, (100,), 100)


def test_each_named_length_is_padded_to_its_own_maximum() -> None:
    run = plan([part((3, 40)), part((30, 4))], NOW, CostModel((1.0, 0, 0, 0, 0)), WIDE)
    assert (run.rows, run.lengths, run.size) == (2, (30, 40), 70)


def test_the_element_limit_counts_the_padding_of_two_named_lengths() -> None:
    """Each part has 43 elements, but a common run has 80 per row."""
    run = plan([part((3, 40)), part((40, 3))], NOW, CostModel((1.0, 0, 0, 0, 0)), RunLimits(64, 100))
    assert len(run.parts) == 1


def test_of_two_equal_gains_the_older_is_taken() -> None:
    urgent = part(15, start_tag=0, accepted=NOW - 1)
    costs, limits = CostModel((1.0, 0, 0, 0, 0)), RunLimits(2, 4096)
    for old, young in ((14, 16), (16, 14)):
        older = part(old, start_tag=1, accepted=NOW - 1)
        younger = part(young, start_tag=2, accepted=NOW)
        assert set(plan([urgent, younger, older], NOW, costs, limits).parts) == {urgent, older}


def test_the_most_urgent_part_runs_if_the_queue_exceeds_the_window() -> None:
    waiting = [part(1 + i % 60, start_tag=i, accepted=NOW) for i in range(3 * WINDOW)]
    assert waiting[0] in chosen(waiting[::-1])


# --- properties -------------------------------------------------------------------------------------

weights = st.tuples(*[st.sampled_from([0.0, 1e-6, 1e-5, 1e-4, 1e-3])] * 5)
costs_ = st.builds(CostModel, weights, st.sampled_from([0.0, 1e-5, 1e-3]))
limits_ = st.builds(
    RunLimits,
    st.integers(1, 64),
    st.integers(1, 4096),
    st.sampled_from([None, 1e-4, 0.02]),
    st.sampled_from([0.0, 0.25]),
)
waiting_ = st.lists(
    st.builds(
        part,
        st.integers(1, 300),
        st.integers(1, 8),
        group=st.sampled_from("ab"),
        start_tag=st.floats(0, 100),
        accepted=st.floats(NOW - 1, NOW),
        priority=st.integers(0, 2),
    ),
    min_size=1,
    max_size=30,
)
two_ = st.lists(
    st.builds(part, st.tuples(st.integers(1, 60), st.integers(1, 60)), st.integers(1, 4)),
    min_size=1,
    max_size=20,
)


def within(run: Any, limits: RunLimits, costs: CostModel) -> bool:
    return (
        run.rows <= limits.max_rows
        and run.rows * run.size <= limits.max_padded_elements
        and (limits.max_run_s is None or costs.estimate(run.rows, run.size) <= limits.max_run_s + 1e-12)
    )


@given(st.one_of(waiting_, two_), costs_, limits_)
def test_a_run_keeps_the_limits_unless_it_has_one_part(
    waiting: list, costs: CostModel, limits: RunLimits
) -> None:
    run = plan(waiting, NOW, costs, limits)
    assert run.parts
    assert len(run.parts) == 1 or within(run, limits, costs)
    assert run.rows == sum(one.rows for one in run.parts)
    assert all(n <= longest for one in run.parts for n, longest in zip(one.lengths, run.lengths, strict=True))


@given(waiting_, costs_, limits_)
def test_the_most_urgent_part_always_runs_with_parts_of_its_group(
    waiting: list, costs: CostModel, limits: RunLimits
) -> None:
    priorities = {one.priority for one in waiting}

    def urgency(one: Any) -> tuple:
        if len(priorities) > 1 and NOW - one.accepted > limits.patience_s:
            return (0, one.accepted)
        return (1, -one.priority, one.start_tag, one.accepted)

    run = plan(waiting, NOW, costs, limits)
    first = min(waiting, key=urgency)
    assert min(urgency(one) for one in run.parts) == urgency(first)
    assert len({one.group for one in run.parts}) == 1


@given(waiting_, costs_, limits_)
def test_beyond_patience_the_oldest_part_is_in_the_next_run(
    waiting: list, costs: CostModel, limits: RunLimits
) -> None:
    """So parts that arrived later do not delay it."""
    left, order = list(waiting), []
    while left:
        run = plan(left, NOW + 1000, costs, limits)
        if len({one.priority for one in left}) > 1:
            assert min(one.accepted for one in run.parts) == min(one.accepted for one in left)
        else:  # callers take turns
            assert min(one.start_tag for one in run.parts) == min(one.start_tag for one in left)
        order.append(run.parts)
        left = [one for one in left if one not in run.parts]
    assert sum(map(len, order)) == len(waiting)


@given(st.one_of(waiting_, two_), costs_, limits_)
def test_a_run_is_estimated_no_slower_than_its_parts_one_by_one(
    waiting: list, costs: CostModel, limits: RunLimits
) -> None:
    def price(rows: int, size: int) -> float:
        return costs.estimate(rows, size) + costs.overhead_s

    run = plan(waiting, NOW, costs, limits)
    batched = price(run.rows, run.size)
    unbatched = sum(price(one.rows, one.size) for one in run.parts)
    assert batched <= unbatched * (1 + 1e-9)


@given(st.one_of(waiting_, two_), costs_, limits_, st.data())
def test_few_parts_are_planned_as_many_are(
    waiting: list, costs: CostModel, limits: RunLimits, data: Any
) -> None:
    for one in waiting:
        one.due = data.draw(st.sampled_from([None, NOW + 0.001, NOW + 1]))
    candidates = sorted(waiting, key=attrgetter("size"))
    urgent = data.draw(st.integers(0, len(candidates) - 1))
    few = few_ranges(candidates, urgent, NOW, costs, limits)
    many = many_ranges(candidates, urgent, NOW, costs, limits)
    assert few[1] == pytest.approx(many[1])
    for one, other, seconds in zip(*few[:1], *many[:1], few[1], strict=True):
        on_the_edge = limits.max_run_s is not None and math.isclose(seconds, limits.max_run_s)
        assert one == pytest.approx(other) or on_the_edge


@given(st.lists(st.tuples(st.floats(0.2, 2), st.floats(0.001, 1)), min_size=1, max_size=40))
def test_of_few_ranges_the_same_is_best_as_of_many(ranges: list) -> None:
    ratios, seconds = map(list, zip(*ranges, strict=True))
    assert best_of_few(list(ratios), seconds) == best_of_many(np.array(ratios), np.array(seconds))


@given(waiting_, costs_, limits_, st.randoms(use_true_random=False))
def test_the_order_of_the_queue_does_not_matter(
    waiting: list, costs: CostModel, limits: RunLimits, random: Any
) -> None:
    for index, one in enumerate(waiting):  # make urgency unique
        one.start_tag, one.accepted, one.priority = float(index), NOW, 0
    shuffled = list(waiting)
    random.shuffle(shuffled)
    assert waiting[0] in plan(waiting, NOW, costs, limits).parts
    assert waiting[0] in plan(shuffled, NOW, costs, limits).parts
