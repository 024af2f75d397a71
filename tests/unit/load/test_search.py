"""The search against simulated servers of known capacity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from unit.load import sample_runs

from lockstep_load.outcome import RequestOutcome
from lockstep_load.results import Probe, RunDocument
from lockstep_load.search import LatencyBound, SearchPlan, confirmed_rate, holds, next_step

BOUND = LatencyBound(50.0)


def searched(search: SearchPlan, capacity: float, *, again: float = 1.0) -> tuple[float | None, list[Probe]]:
    """Search a server that holds rates up to `capacity`, and in confirmations up to `again` of it."""
    probes: list[Probe] = []
    while step := next_step(search, probes):
        limit = capacity * (again if step.confirming else 1)
        probes.append(Probe(step.rate, step.rate <= limit, step.confirming))
    return confirmed_rate(search, probes), probes


@given(capacity=st.floats(1, 20_000), start=st.floats(1, 20_000), within=st.floats(0.02, 0.5))
def test_a_known_capacity_is_found(capacity: float, start: float, within: float) -> None:
    rate, probes = searched(SearchPlan(BOUND, start, within), capacity)
    assert rate is not None
    assert capacity / (1 + within) * 0.999 <= rate <= capacity
    assert sum(one.confirming for one in probes) == 2


def test_a_rate_that_is_not_confirmed_is_lowered() -> None:
    rate, probes = searched(SearchPlan(BOUND, 100, 0.05), capacity=1000, again=0.85)
    assert rate is not None
    assert 0.8 * 850 <= rate <= 850
    assert any(one.confirming and not one.holds for one in probes)


def test_a_search_gives_up_if_no_rate_holds() -> None:
    rate, probes = searched(SearchPlan(BOUND, 100), capacity=0)
    assert rate is None
    assert min(one.rate for one in probes) >= 0.1


def test_a_search_ends_even_if_no_confirmation_holds() -> None:
    probes: list[Probe] = []
    search = SearchPlan(BOUND, 100)
    while step := next_step(search, probes):
        probes.append(Probe(step.rate, not step.confirming, step.confirming))
        assert len(probes) < 100


def run(latencies_ms: list[float], *, lost: int = 0, valid: bool = True) -> RunDocument:
    refused = sample_runs.record(0.0, 0.001, outcome=RequestOutcome.OVERLOADED)
    answered = [sample_runs.record(0.0, ms / 1e3) for ms in latencies_ms]
    return structs.replace(sample_runs.run([*answered, *[refused] * lost], 1.0), valid=valid)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (run([10.0] * 100), True),
        (run([10.0] * 99 + [60.0]), True),
        (run([10.0] * 98 + [60.0] * 2), False),
        (run([10.0] * 99, lost=1), True),
        (run([10.0] * 98, lost=2), False),  # a rejection is not an answer in time
        (run([10.0] * 98 + [60.0], lost=1), False),
        (run([10.0] * 100, valid=False), False),
    ],
)
def test_a_bound_applies_to_a_share_of_all_requests(made: RunDocument, expected: bool) -> None:
    assert holds(made, BOUND) is expected
