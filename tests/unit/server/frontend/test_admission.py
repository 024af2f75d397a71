"""The door: who cannot be answered in time is refused at once, by prices that are learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from unit.server import sample_models

from lockstep_server.errors import ErrorCode, ServingError, failed
from lockstep_server.frontend.admission import AdmissionController, deadline_of
from lockstep_server.messages import Event, RequestTimings, Run
from lockstep_server.model.cost_model import CostModel

COSTS = CostModel((1e-3, 0, 0, 1e-4, 0), overhead_s=0.0)  # 1 ms a run, 0.1 ms an element


def admission(costs: CostModel = COSTS, **batching: Any) -> AdmissionController:
    return AdmissionController(sample_models.ragged(**batching), costs.to_dict())


def refusal(
    one: AdmissionController, seconds: float, now: float = 0.0, deadline: float | None = None
) -> ServingError:
    before = (one.waiting_s, one.requests)
    with pytest.raises(ServingError) as refused:
        one.enter(seconds, now, deadline)
    assert (one.waiting_s, one.requests) == before  # who is refused leaves no trace
    assert refused.value.code is ErrorCode.OVERLOADED
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s > 0
    return refused.value


def event(queue_s: float, error: ServingError | None = None) -> Event:
    return Event(1, None, error, RequestTimings(queue_s, 0.01))


# --- prices -----------------------------------------------------------------------------------------


def test_a_price_is_a_share_of_a_full_run() -> None:
    """64 rows of 16 elements: 1 ms for the run and 0.1 ms for each element."""
    one = admission(max_rows=64, max_padded_elements=4096)
    assert one.price(1, 16) == pytest.approx(1e-3 / 64 + 16e-4)
    assert one.price(3, 16) == pytest.approx(3 * one.price(1, 16))


def test_what_shares_no_run_pays_for_the_whole_run() -> None:
    assert admission(max_rows=1).price(1, 16) == pytest.approx(1e-3 + 16e-4)


def test_long_rows_share_a_run_with_fewer() -> None:
    one = admission(max_rows=64, max_padded_elements=1024)
    assert one.price(1, 512) == pytest.approx(1e-3 / 2 + 512e-4)


def test_a_text_is_priced_by_its_characters() -> None:
    assert admission().price_text("a" * 63) == admission().price(1, 16) > 0


def test_what_is_longer_than_the_model_reads_costs_no_more_than_the_longest() -> None:
    assert admission().price_text("a" * 8000) == admission().price(1, 1000) > 0


def test_what_is_surely_too_long_refuses_nobody_in_its_company() -> None:
    one = admission(max_queue_ms=1)
    one.pace = 16.0
    one.enter(one.price_text("a" * 8001), 0.0, None)
    one.enter(one.price(1, 2), 0.0, 1e9)
    assert one.requests == 2


def test_what_waits_is_shared_among_instances() -> None:
    one, three = (
        admission(),
        AdmissionController(replace(sample_models.ragged(), instances=3), COSTS.to_dict()),
    )
    for each in (one, three):
        each.enter(0.3, 0.0, None)
    assert (one.estimated_wait_s(), three.estimated_wait_s()) == pytest.approx((0.3, 0.1))
    assert (one.enter(0.3, 0.0, None), three.enter(0.3, 0.0, None)) == pytest.approx((0.3, 0.1))


def test_prices_follow_what_runs_take() -> None:
    one = admission()
    before = one.price(1, 16)
    for _ in range(64):
        for rows in (1, 2, 4, 8, 16, 32, 64):
            size = rows * 16
            one.learn_run(Run(rows, 16, size, size, 0, 2 * COSTS.estimate(rows, 16), 0, 0))
    assert one.price(1, 16) > 1.5 * before


def test_a_run_that_took_no_time_teaches_nothing() -> None:
    one = admission()
    before = one.price(1, 16)
    for _ in range(640):
        one.learn_run(Run(64, 16, 1024, 1024, 0, 0.0, 0, 0))
    assert one.price(1, 16) == before


def test_a_model_without_costs_has_prices_to_start_from() -> None:
    assert AdmissionController(sample_models.ragged(), {}).price(1, 10) > 0


# --- in and out -------------------------------------------------------------------------------------


def test_who_comes_to_an_empty_model_is_let_in_whatever_it_costs() -> None:
    one = admission(max_queue_ms=10)
    assert one.enter(99.0, 0.0, 0.5) == 0.0


def test_what_waits_adds_up_and_ends() -> None:
    one = admission()
    assert [one.enter(0.1, 0.0, None) for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])
    assert one.estimated_wait_s() == pytest.approx(0.3)
    one.leave(0.1)
    assert one.waiting_s == pytest.approx(0.2)
    one.leave(0.1)
    one.leave(0.1)
    assert (one.waiting_s, one.requests) == (0.0, 0)  # exactly: rounding does not add up over days


def test_past_the_models_limit_it_is_refused_with_the_time_that_is_too_much() -> None:
    one = admission(max_queue_ms=500)
    for _ in range(6):
        one.enter(0.1, 0.0, None)
    error = refusal(one, 0.1)
    assert error.retry_after_s == pytest.approx(0.1)
    assert "600 ms" in error.message
    assert "500 ms" in error.message
    one.leave(0.1)
    one.enter(0.1, 0.0, None)


@pytest.mark.parametrize(
    ("deadline", "let_in"), [(None, True), (100.41, True), (100.39, False), (99.0, False)]
)
def test_what_cannot_be_answered_before_its_deadline_is_refused(deadline: float | None, let_in: bool) -> None:
    """0.3 s lie before it, and its own run takes 0.1 s."""
    one = admission()
    one.enter(0.3, 100.0, None)
    if let_in:
        assert one.enter(0.1, 100.0, deadline) == pytest.approx(0.3)
    else:
        assert "deadline" in refusal(one, 0.1, 100.0, deadline).message


# --- pace -------------------------------------------------------------------------------------------


def test_the_pace_follows_how_long_requests_really_wait() -> None:
    one = admission()
    for _ in range(200):
        one.learn_wait(0.1, event(queue_s=0.3))
    assert one.pace == pytest.approx(3.0, rel=0.05)
    one.enter(0.1, 0.0, None)
    assert one.estimated_wait_s() == pytest.approx(0.3, rel=0.05)


def test_at_a_slow_pace_less_is_let_in() -> None:
    quick, slow = admission(max_queue_ms=500), admission(max_queue_ms=500)
    slow.pace = 4.0
    for one in (quick, slow):
        one.enter(0.2, 0.0, None)
    quick.enter(0.1, 0.0, None)
    refusal(slow, 0.1)


@pytest.mark.parametrize("what", [(0.001, event(5.0)), (0.1, event(5.0, failed("m")))])
def test_estimates_too_small_and_failures_teach_no_pace(what: tuple[float, Event]) -> None:
    one = admission()
    one.learn_wait(*what)
    assert one.pace == 1.0


@pytest.mark.parametrize("queue_s", [0.0, 1e9])
def test_the_pace_is_bounded(queue_s: float) -> None:
    one = admission()
    for _ in range(1000):
        one.learn_wait(0.1, event(queue_s))
    assert 0.25 <= one.pace <= 16.0


@pytest.mark.parametrize(
    ("remaining_s", "timeout_s", "deadline"),
    [
        (None, 0.0, None),
        (2.0, 0.0, 12.0),
        (None, 0.5, 10.5),
        (2.0, 0.5, 10.5),
        (0.2, 0.5, 10.2),
        (0.0, 0.0, 10.0),
    ],
)
def test_the_deadline_is_the_earlier_of_the_calls_and_what_the_caller_allows(
    remaining_s: float | None, timeout_s: float, deadline: float | None
) -> None:
    assert deadline_of(10.0, remaining_s, timeout_s) == deadline
