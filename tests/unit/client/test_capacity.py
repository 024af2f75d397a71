"""Plans keep their bounds, and grow with them."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_client import capacity
from lockstep_client.metrics_text import Scrape
from lockstep_client.operations import RunCost

if TYPE_CHECKING:
    from lockstep_client.operations import ModelForm


def form(base_s: float, row_s: float, most: int = 64, length: int = 32) -> ModelForm:
    """A form whose runs cost `base_s` and `row_s` for each row."""
    sizes = [size for size in (1, 2, 4, 8, 16, 32) if size < most] + [most]
    costs = tuple(RunCost(rows, length, base_s + rows * row_s) for rows in sizes)
    found: Any = SimpleNamespace(costs=costs, max_rows=most, max_sequences=most)
    return found


seconds = st.floats(1e-4, 1e-2)


@given(seconds, seconds, st.floats(0.1, 1.0), st.sampled_from([1, 8, 64]))
def test_a_plan_keeps_its_bound_and_more_time_carries_more(
    base_s: float, row_s: float, bound_s: float, most: int
) -> None:
    model = form(base_s, row_s, most)
    plan = capacity.one_shot(model, 32, bound_s)
    assert 0 < plan.latency_s <= bound_s
    assert plan.amount <= capacity.one_shot(model, 32, bound_s * 2).amount * (1 + 1e-6)
    assert plan.amount <= capacity.SHARE / row_s
    servers = plan.servers(5000)
    assert (servers - 1) * plan.amount >= 5000 > (servers - 2) * plan.amount


def test_what_limits_a_server_is_named() -> None:
    assert capacity.one_shot(form(1e-5, 1e-6), 32, 1.0).limit == "front end"
    assert capacity.one_shot(form(1e-5, 1e-6), 32, 1.0, front_ends=4).amount == pytest.approx(2800)
    slow = capacity.one_shot(form(0.01, 0.01), 32, 10.0)
    assert slow.limit == "runs"
    assert slow.amount == pytest.approx(0.7 * 64 / 0.65)
    assert capacity.one_shot(form(0.01, 0.01), 32, 0.1).limit == "latency"
    with pytest.raises(ValueError, match="a lone request may take"):
        capacity.one_shot(form(0.01, 0.01), 32, 0.02)
    with pytest.raises(ValueError, match="no costs of this model"):
        capacity.run_cost((), 1)


@given(seconds, seconds, st.floats(0.03, 0.5))
def test_streams_fill_the_slots_or_the_time_of_a_token(base_s: float, row_s: float, bound_s: float) -> None:
    plan = capacity.streaming(form(base_s, row_s, length=0), bound_s)
    assert plan.latency_s <= bound_s
    assert plan.amount == 64 or base_s + (plan.amount + 1) * row_s > bound_s * (1 - 1e-9)


def test_costs_of_other_lengths_are_scaled_from_the_nearest() -> None:
    cost = capacity.run_cost((RunCost(1, 10, 1.0), RunCost(3, 10, 2.0), RunCost(1, 100, 9.0)), 20)
    assert [cost(rows) for rows in (1, 2, 3, 5)] == [2.0, 3.0, 4.0, 6.0]


@given(seconds, seconds, st.sampled_from([1, 8, 64]), st.floats(1, 500), st.floats(1, 2))
def test_more_requests_wait_longer(base_s: float, row_s: float, most: int, rate: float, more: float) -> None:
    cost = capacity.run_cost(form(base_s, row_s, most).costs, 32)
    assert capacity.latency(cost, rate, most) <= capacity.latency(cost, rate * more, most) + 1e-9
    assert capacity.latency(cost, rate, most, front_ends=2) <= capacity.latency(cost, rate, most)


def test_an_engine_that_runs_one_request_at_a_time_waits_as_queues_do() -> None:
    """By simulation of requests at random times, one at a time: the plan is not too low, nor twice too
    high."""
    rng, cost_s = random.Random(1), 0.005
    for rate in (40, 120, 160):
        free, waits, now = 0.0, [], 0.0
        for _ in range(40_000):
            now += rng.expovariate(rate)
            free = max(free, now) + cost_s
            waits.append(free - now)
        p99 = sorted(waits)[int(0.99 * len(waits))]
        planned = capacity.latency(lambda _: cost_s, rate, 1) - capacity.latency(lambda _: 0.0, rate, 1)
        assert p99 < planned * 1.1 < 2.2 * p99


def test_the_planned_latency_is_that_of_measured_runs() -> None:
    """Against docs/scaling.md: one server of two cores of its own."""
    costs = (RunCost(1, 32, 0.000195), RunCost(8, 32, 0.000944), RunCost(64, 32, 0.002948))
    cost = capacity.run_cost(costs, 25)
    measured_ms = {300: 9.2, 500: 8.2, 600: 10.4, 700: 11.4}
    for rate, p99_ms in measured_ms.items():
        assert 0.66 < capacity.latency(cost, rate, 64) * 1e3 / p99_ms < 1.5


def page(**samples: float) -> Scrape:
    return Scrape(
        {
            (name.replace("__", "_"), (("model", "m"), ("state", "running"))): value
            for name, value in samples.items()
        }
    )


def test_memory_is_what_was_measured_and_the_states_of_more_streams() -> None:
    processes = {"process_resident_memory_bytes": 1e8, "lockstep_engine_process_resident_memory_bytes": 3e8}
    idle = capacity.memory(page(**processes), "m")
    assert (idle.with_streams(100), idle.state) == (4e8, 0)
    busy = capacity.memory(page(**processes, lockstep_sequences=10, lockstep_state_bytes=1e6), "m")
    assert busy.with_streams(10) == 4e8
    assert busy.with_streams(64) == 4e8 + 54 * 1e5
    with pytest.raises(ValueError, match="process_resident_memory_bytes"):
        capacity.memory(page(), "m")
