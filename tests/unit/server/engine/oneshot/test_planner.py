"""The planner, as tables and by properties: state in, plan out."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from unit.server.sample_models import part

from lockstep_server.engine.oneshot.planner import WINDOW, RunLimits, plan
from lockstep_server.model.cost_model import CostModel

RECURRENT = CostModel((5e-5, 0, 4e-5, 5e-6, 0))
TRANSFORMER = CostModel((2e-4, 0, 0, 3e-5, 4e-7), overhead_s=1e-5)
WIDE = RunLimits(64, 4096, patience_s=0.25)
NOW = 100.0


def chosen(waiting: list[Any], limits: RunLimits = WIDE, costs: CostModel = RECURRENT) -> set[Any]:
    return set(plan(waiting, NOW, costs, limits).parts)


def test_nothing_waits_nothing_runs() -> None:
    made = plan([], NOW, RECURRENT, WIDE)
    assert made.parts == made.leaving == ()


def test_a_recurrent_model_takes_all_that_waits() -> None:
    waiting = [part(20) for _ in range(10)]
    made = plan(waiting, NOW, RECURRENT, WIDE)
    assert set(made.parts) == set(waiting)
    assert (made.rows, made.lengths, made.size) == (10, (20,), 20)


def test_a_transformer_does_not_pad_a_short_text_to_a_long_one() -> None:
    short, long = part(2, turn=0, accepted=NOW), part(500, turn=1, accepted=NOW)
    assert chosen([long, short], costs=TRANSFORMER) == {short}


def test_who_left_and_who_failed_are_skipped() -> None:
    gone, failed, stays = part(3), part(3), part(3)
    gone.request.cancelled = failed.request.done = True
    made = plan([gone, failed, stays], NOW, RECURRENT, WIDE)
    assert (set(made.dropped), made.parts, made.expired) == ({gone, failed}, (stays,), ())
    assert set(made.leaving) == {gone, failed, stays}


def test_who_waited_past_a_deadline_is_told_and_does_not_run() -> None:
    late, edge, early = part(3, deadline=NOW - 1), part(3, deadline=NOW), part(3, deadline=NOW + 1e-6)
    made = plan([late, edge, early], NOW, RECURRENT, WIDE)
    assert (set(made.expired), made.parts) == ({late, edge}, (early,))


def test_who_left_is_dropped_rather_than_expired() -> None:
    gone = part(3, deadline=NOW - 1)
    gone.request.cancelled = True
    made = plan([gone], NOW, RECURRENT, WIDE)
    assert (made.dropped, made.expired, made.parts) == ((gone,), (), ())


ONE_ROW = RunLimits(1, 4096, patience_s=0.25)


def test_the_fair_turn_goes_first() -> None:
    later, sooner = part(3, turn=9, accepted=NOW), part(3, turn=1, accepted=NOW)
    assert chosen([later, sooner], ONE_ROW) == {sooner}


def test_priority_goes_before_the_fair_turn() -> None:
    low, high = part(3, turn=1, accepted=NOW), part(3, turn=9, accepted=NOW, priority=2)
    assert chosen([low, high], ONE_ROW) == {high}


def test_who_waited_beyond_patience_goes_before_priority() -> None:
    old, high = part(3, turn=9, accepted=NOW - 1), part(3, accepted=NOW, priority=2**60)
    assert chosen([high, old], ONE_ROW) == {old}


def test_of_those_beyond_patience_the_oldest_goes_first() -> None:
    old, older = part(3, turn=1, accepted=NOW - 1, priority=5), part(3, turn=9, accepted=NOW - 2)
    assert chosen([old, older], ONE_ROW) == {older}


def test_only_a_group_shares_a_run() -> None:
    mine = [part(3, group="a", turn=i, accepted=NOW) for i in range(3)]
    other = [part(3, group="b", turn=9, accepted=NOW) for _ in range(3)]
    assert chosen([*other, *mine]) == set(mine)


def test_without_batching_each_runs_alone() -> None:
    assert len(chosen([part(3) for _ in range(5)], RunLimits(64, 4096, batching=False))) == 1


def test_no_more_rows_than_the_limit() -> None:
    assert plan([part(3, rows=3) for _ in range(9)], NOW, RECURRENT, RunLimits(8, 4096)).rows <= 8


def test_one_that_is_larger_than_every_limit_still_runs_alone() -> None:
    huge = part(5000, rows=70)
    made = plan([huge], NOW, RECURRENT, RunLimits(64, 4096, max_run_s=1e-6))
    assert made.parts == (huge,)


def test_while_others_want_the_device_a_run_is_bounded() -> None:
    waiting = [part(50) for _ in range(64)]
    bounded = plan(waiting, NOW, TRANSFORMER, RunLimits(64, 4096, max_run_s=0.02))
    assert len(bounded.parts) > 1
    assert bounded.seconds <= 0.02
    assert plan(waiting, NOW, RECURRENT, WIDE).rows == 64


def test_a_fixed_shape_is_the_same_for_every_run() -> None:
    made = plan([part(3), part(5)], NOW, RECURRENT, RunLimits(8, 4096, fixed=(8, (100,))))
    assert (made.rows, made.lengths, made.size) == (8, (100,), 100)


def test_each_of_two_named_lengths_is_its_own_longest() -> None:
    made = plan([part((3, 40)), part((30, 4))], NOW, CostModel((1.0, 0, 0, 0, 0)), WIDE)
    assert (made.rows, made.lengths, made.size) == (2, (30, 40), 70)


def test_two_named_lengths_count_at_their_longest_against_the_budget() -> None:
    """Sums are 43 each, but together they pad to 80 a row."""
    made = plan([part((3, 40)), part((40, 3))], NOW, CostModel((1.0, 0, 0, 0, 0)), RunLimits(64, 100))
    assert len(made.parts) == 1


def test_more_than_the_window_wait_and_the_most_urgent_is_in() -> None:
    waiting = [part(1 + i % 60, turn=i, accepted=NOW) for i in range(3 * WINDOW)]
    assert waiting[0] in chosen(waiting[::-1])


# --- by properties ----------------------------------------------------------------------------------

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
        turn=st.floats(0, 100),
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


def within(made: Any, limits: RunLimits) -> bool:
    return (
        made.rows <= limits.max_rows
        and made.rows * made.size <= limits.max_padded_elements
        and (limits.max_run_s is None or made.seconds <= limits.max_run_s + 1e-12)
    )


@given(st.one_of(waiting_, two_), costs_, limits_)
def test_never_over_budget_unless_alone(waiting: list, costs: CostModel, limits: RunLimits) -> None:
    made = plan(waiting, NOW, costs, limits)
    assert made.parts
    assert len(made.parts) == 1 or within(made, limits)
    assert made.rows == sum(one.rows for one in made.parts)
    assert all(
        n <= longest for one in made.parts for n, longest in zip(one.lengths, made.lengths, strict=True)
    )


@given(waiting_, costs_, limits_)
def test_the_most_urgent_is_always_in_and_its_company_is_of_its_group(
    waiting: list, costs: CostModel, limits: RunLimits
) -> None:
    def urgency(one: Any) -> tuple:
        if NOW - one.accepted > limits.patience_s:
            return (0, one.accepted)
        return (1, -one.priority, one.turn, one.accepted)

    made = plan(waiting, NOW, costs, limits)
    first = min(waiting, key=urgency)
    assert min(urgency(one) for one in made.parts) == urgency(first)
    assert len({one.group for one in made.parts}) == 1


@given(waiting_, costs_, limits_)
def test_nobody_is_passed_over_for_longer_than_the_bound(
    waiting: list, costs: CostModel, limits: RunLimits
) -> None:
    """Once beyond patience, whoever came later and is not in its run waits longer."""
    left, order = list(waiting), []
    while left:
        made = plan(left, NOW + 1000, costs, limits)
        oldest = min(one.accepted for one in left)
        assert min(one.accepted for one in made.parts) == oldest
        order.append(made.parts)
        left = [one for one in left if one not in made.parts]
    assert sum(map(len, order)) == len(waiting)


@given(st.one_of(waiting_, two_), costs_, limits_)
def test_never_worse_than_one_by_one_by_its_own_costs(
    waiting: list, costs: CostModel, limits: RunLimits
) -> None:
    def price(rows: int, size: int) -> float:
        return costs.estimate(rows, size) + costs.overhead_s

    made = plan(waiting, NOW, costs, limits)
    together = price(made.rows, made.size)
    alone = sum(price(one.rows, one.size) for one in made.parts)
    assert together <= alone * (1 + 1e-9)


@given(waiting_, costs_, limits_, st.randoms(use_true_random=False))
def test_the_order_of_what_waits_does_not_matter(
    waiting: list, costs: CostModel, limits: RunLimits, random: Any
) -> None:
    for index, one in enumerate(waiting):  # no two are equally urgent
        one.turn, one.accepted, one.priority = float(index), NOW, 0
    shuffled = list(waiting)
    random.shuffle(shuffled)
    assert waiting[0] in plan(waiting, NOW, costs, limits).parts
    assert waiting[0] in plan(shuffled, NOW, costs, limits).parts
