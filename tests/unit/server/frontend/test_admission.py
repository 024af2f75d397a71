"""Admission control: requests that cannot be answered in time are refused at once, by learned costs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.server import sample_models

from lockstep_server.errors import ErrorCode, ServingError
from lockstep_server.frontend.admission import AdmissionController, CallShare, deadline_of
from lockstep_server.messages import Event, RequestTimings
from lockstep_server.model.cost_model import CostModel
from lockstep_server.model.spec import RequestSize

COSTS = CostModel((1e-3, 0, 0, 1e-4, 0), overhead_s=0.0)  # 1 ms per run, 0.1 ms per element
COSTS.runs[:] = 1  # measured, not guessed


def admission(costs: CostModel = COSTS, **batching: Any) -> AdmissionController:
    return AdmissionController(sample_models.ragged(**batching), costs.to_dict())


def refusal(
    controller: AdmissionController, seconds: float, now: float = 0.0, deadline: float | None = None
) -> ServingError:
    before = (controller.waiting_s, controller.requests)
    with pytest.raises(ServingError) as refused:
        controller.enter(seconds, now, deadline)
    assert (controller.waiting_s, controller.requests) == before  # a refused request adds no work
    assert refused.value.code is ErrorCode.OVERLOADED
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s > 0
    return refused.value


def event(queue_s: float, error: ServingError | None = None) -> Event:
    return Event(key=1, error=error, timings=RequestTimings(queue_s, 0.01))


# --- prices -----------------------------------------------------------------------------------------


def test_a_price_is_a_share_of_a_full_batch() -> None:
    """A batch of 64 rows of 16 elements takes 1 ms, and 0.1 ms per element."""
    controller = admission(max_rows=64, max_padded_elements=4096)
    assert controller.price(1, 16) == pytest.approx(1e-3 / 64 + 16e-4)
    assert controller.price(3, 16) == pytest.approx(3 * controller.price(1, 16))


def test_an_unbatched_request_pays_for_the_whole_run() -> None:
    assert admission(max_rows=1).price(1, 16) == pytest.approx(1e-3 + 16e-4)


def test_long_rows_share_a_batch_with_fewer_rows() -> None:
    controller = admission(max_rows=64, max_padded_elements=1024)
    assert controller.price(1, 512) == pytest.approx(1e-3 / 2 + 512e-4)


def test_queued_work_is_divided_among_instances() -> None:
    controller, three = (
        admission(),
        AdmissionController(replace(sample_models.ragged(), instances=3), COSTS.to_dict()),
    )
    for each in (controller, three):
        each.enter(0.3, 0.0, None)
    assert (controller.estimated_wait_s(), three.estimated_wait_s()) == pytest.approx((0.3, 0.1))
    assert (controller.enter(0.3, 0.0, None), three.enter(0.3, 0.0, None)) == pytest.approx((0.3, 0.1))


def test_prices_follow_the_costs_that_the_engine_learned() -> None:
    controller = admission()
    before = controller.price(1, 16)
    learned = CostModel.from_dict(COSTS.to_dict())
    for rows in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(64):
            learned.learn(rows, 16, 2 * COSTS.estimate(rows, 16))
    controller.set_costs(learned.to_dict())
    assert controller.price(1, 16) > 1.5 * before


def test_what_a_size_costs_is_remembered_until_costs_change() -> None:
    controller, size = admission(max_rows=64), RequestSize(2, (16,), 16)
    first = controller.demand(size)
    assert first == controller.demand(size) == (controller.price(2, 16), controller.run_s(2, 16))
    controller.set_costs(CostModel((2e-3, 0, 0, 2e-4, 0), overhead_s=0.0).to_dict())
    second = controller.demand(size)
    assert second[1] == controller.run_s(2, 16) == pytest.approx(2 * first[1])
    controller.batching_off()
    assert controller.demand(size)[0] > second[0]


def test_a_model_without_measured_costs_has_default_prices() -> None:
    assert AdmissionController(sample_models.ragged(), {}).price(1, 10) > 0


def test_a_guess_at_a_size_that_was_never_run_does_not_refuse_the_first_who_ask() -> None:
    guess = CostModel((1e-3, 0, 0, 1e-4, 1), overhead_s=0.0)  # 64 s for 8 elements
    controller = admission(guess, max_queue_ms=500)
    for _ in range(16):
        controller.enter(controller.price(1, 8), 0.0, None)
    guess.learn(1, 8, 100)
    controller.set_costs(guess.to_dict())
    assert controller.price(1, 8) > 10


# --- enter and leave -------------------------------------------------------------------------------------


def test_an_idle_model_accepts_a_request_at_any_price() -> None:
    controller = admission(max_queue_ms=10)
    assert controller.enter(99.0, 0.0, 0.5) == 0.0


def test_a_call_is_not_refused_for_its_own_size() -> None:
    controller, call = admission(max_queue_ms=500), CallShare()
    for _ in range(100):
        controller.enter(0.1, 0.0, 0.2, call)
    refusal(controller, 0.1)  # another call
    for _ in range(100):
        controller.leave(0.1, 0.0, call, served=True)
    assert (call.requests, controller.requests) == (0, 0)
    assert call.waiting_s == pytest.approx(0.0)


def test_a_call_of_several_requests_is_refused_for_the_work_of_others() -> None:
    controller, call = admission(max_queue_ms=500), CallShare()
    controller.enter(0.6, 0.0, None)
    with pytest.raises(ServingError):
        controller.enter(0.1, 0.0, None, call)
    assert call.requests == 0


def test_queued_work_adds_up_and_returns_to_zero() -> None:
    controller = admission()
    assert [controller.enter(0.1, 0.0, None) for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])
    assert controller.estimated_wait_s() == pytest.approx(0.3)
    controller.leave(0.1, 0.0, served=True)
    assert controller.waiting_s == pytest.approx(0.2)
    controller.leave(0.1, 0.0, served=True)
    controller.leave(0.1, 0.0, served=True)
    assert (controller.waiting_s, controller.requests) == (0.0, 0)  # exactly: rounding must not add up


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.001, 0.4)), max_size=12),
    st.sampled_from("abcd"),
    st.floats(0.0, 1.0),
    st.none() | st.floats(0.01, 2.0),
)
def test_what_is_refused_at_any_size_is_refused_at_every_size(
    queued: list[tuple[str, float]], caller: str, seconds: float, deadline: float | None
) -> None:
    controller = admission(max_queue_ms=500)
    for other, work in queued:
        with suppress(ServingError):
            controller.enter(work, 0.0, None, caller=other)
    try:
        controller.refuse_if_full(0.0, deadline, caller=caller)
    except ServingError:
        with pytest.raises(ServingError):
            controller.enter(seconds, 0.0, deadline, caller=caller)


def test_a_full_queue_is_full_before_the_size_is_known() -> None:
    controller, call = admission(max_queue_ms=500), CallShare()
    controller.refuse_if_full(0.0, None)
    controller.enter(0.6, 0.0, None, call)
    controller.refuse_if_full(0.0, None, call)  # a part of the same call
    controller.refuse_if_full(0.0, None, caller="another")
    with pytest.raises(ServingError, match="600 ms exceeds"):
        controller.refuse_if_full(0.0, None)


def test_above_the_queue_limit_the_retry_delay_is_the_excess() -> None:
    controller = admission(max_queue_ms=500)
    for _ in range(6):
        controller.enter(0.1, 0.0, None)
    error = refusal(controller, 0.1)
    assert error.retry_after_s == pytest.approx(0.1)
    assert "600 ms" in error.message
    assert "500 ms" in error.message
    controller.leave(0.1, 0.0, served=True)
    controller.enter(0.1, 0.0, None)


@pytest.mark.parametrize(
    ("deadline", "accepted"), [(None, True), (100.41, True), (100.39, False), (99.0, False)]
)
def test_a_request_that_cannot_end_before_its_deadline_is_refused(
    deadline: float | None, accepted: bool
) -> None:
    """0.3 s are queued before it, and its own run takes 0.1 s."""
    controller = admission()
    controller.enter(0.3, 100.0, None)
    if accepted:
        assert controller.enter(0.1, 100.0, deadline) == pytest.approx(0.3)
    else:
        assert "deadline" in refusal(controller, 0.1, 100.0, deadline).message


# --- pace -------------------------------------------------------------------------------------------


class Queue:
    """A model that serves what was admitted in runs of at most 8 requests, each of which is estimated to
    take 3 ms of the device and takes `pace` times as long."""

    def __init__(self, pace: float, **batching: Any) -> None:
        self.controller = admission(**batching)
        self.pace, self.now, self.free_at = pace, 0.0, 0.0
        self.queued: list[float] = []  # when each request was admitted
        self.running: list[float] = []
        self.waits: list[float] = []
        self.refused = 0

    def tick(self, arrivals: int, *, served: bool = True) -> None:
        """One millisecond."""
        self.now += 0.001
        if self.now >= self.free_at:
            for _ in self.running:
                self.controller.leave(0.003, self.now, served=served)
            self.running, self.queued = self.queued[:8], self.queued[8:]
            self.waits += [self.now - since for since in self.running]
            self.free_at = self.now + 0.003 * len(self.running) * self.pace
        for _ in range(arrivals):
            try:
                self.controller.enter(0.003, self.now, None)
                self.queued.append(self.now)
            except ServingError:
                self.refused += 1


@pytest.mark.parametrize("pace", [0.5, 1, 3, 10])
def test_the_pace_follows_how_fast_queued_work_is_served(pace: float) -> None:
    queue = Queue(pace)
    for _ in range(3000):
        queue.tick(1)
    assert queue.controller.pace == pytest.approx(pace, rel=0.3)


@pytest.mark.parametrize("pace", [0.5, 1, 3])
def test_what_is_accepted_waits_about_as_long_as_the_limit_at_any_pace(pace: float) -> None:
    queue = Queue(pace, max_queue_ms=500)
    for _ in range(5000):
        queue.tick(1)
    later = queue.waits[len(queue.waits) // 2 :]
    assert 0.3 < sum(later) / len(later) < 0.7
    assert max(later) < 0.8
    assert queue.refused > 0


def test_the_pace_rises_where_nothing_is_served() -> None:
    """As if all deadlines passed: what leaves the queue unserved drains nothing."""
    queue = Queue(1.0)
    for _ in range(2000):
        queue.tick(1, served=False)
    assert queue.controller.pace > 4


def test_little_queued_work_does_not_change_the_pace() -> None:
    controller = admission()
    for second in range(100):
        controller.enter(0.001, second, None)
        controller.leave(0.001, second + 0.9, served=True)
    assert controller.pace == 1.0


def test_waits_that_differ_from_their_estimates_for_a_minute_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    controller = admission()
    for second in range(59):
        controller.compare_wait(0.1, event(queue_s=1e4), float(second))
    assert not caplog.records
    controller.compare_wait(0.1, event(queue_s=1e4), 61.0)
    assert "factor of 4" in caplog.text
    caplog.clear()
    controller.compare_wait(
        0.1, event(queue_s=0.1 * controller.pace), 100.0
    )  # right once: the minute begins anew
    controller.compare_wait(0.1, event(queue_s=1e4), 130.0)
    assert not caplog.records


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
def test_the_deadline_is_the_earlier_of_the_calls_deadline_and_the_queue_timeout(
    remaining_s: float | None, timeout_s: float, deadline: float | None
) -> None:
    assert deadline_of(10.0, remaining_s, timeout_s) == deadline


# --- shares -----------------------------------------------------------------------------------------


def _fill(controller: AdmissionController, caller: str, seconds: float = 0.01) -> int:
    """Send work of a caller until it is refused. Returns how much was accepted."""
    accepted = 0
    while True:
        try:
            controller.enter(seconds, 0.0, None, caller=caller)
        except ServingError:
            return accepted
        accepted += 1


def test_alone_a_caller_may_use_the_whole_queue_and_then_others_still_get_their_share() -> None:
    controller = admission(max_queue_ms=1000)
    greedy = _fill(controller, "greedy")
    assert greedy == pytest.approx(100, abs=2)
    assert _fill(controller, "meek") == pytest.approx(50, abs=2)
    for _ in range(30):  # the greedy one has more than its share still
        controller.leave(0.01, 0.0, served=True, caller="greedy")
    assert _fill(controller, "greedy") == 0
    for _ in range(30):
        controller.leave(0.01, 0.0, served=True, caller="greedy")
    assert _fill(controller, "greedy") == pytest.approx(10, abs=2)


def test_a_deadline_is_compared_with_the_wait_of_this_caller() -> None:
    controller = admission(max_queue_ms=1000)
    _fill(controller, "greedy")
    controller.enter(0.01, 0.0, 0.1, caller="meek")
    refusal(controller, 0.01, deadline=0.011)


def test_many_strangers_do_not_fill_the_queue_without_end() -> None:
    controller = admission(max_queue_ms=1000)
    accepted = 0
    for number in range(1000):
        try:
            controller.enter(0.01, 0.0, None, caller=f"@10.0.{number >> 8}.{number & 255}")
        except ServingError:
            continue
        accepted += 1
    assert accepted == pytest.approx(100, abs=2)
