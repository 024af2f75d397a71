"""The cost model: fitted to measured cells, then corrected by real runs."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_server.model.cost_model import CostModel, moving_average

if TYPE_CHECKING:
    from collections.abc import Callable

CELLS = ((1, 4), (1, 32), (1, 96), (4, 16), (16, 8), (16, 32))
FUNCTIONS: dict[str, Callable[[float, float], float]] = {
    "recurrent": lambda rows, length: 5e-5 + length * (4e-5 + rows * 5e-6),
    "transformer": lambda rows, length: 2e-4 + rows * length * (3e-5 + 4e-7 * length),
    "constant": lambda rows, length: 1e-3,
}


def fitted(function: Callable[[float, float], float]) -> CostModel:
    return CostModel.fit([(rows, length, function(rows, length)) for rows, length in CELLS])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_fit_recovers_the_function(name: str) -> None:
    costs, function = fitted(FUNCTIONS[name]), FUNCTIONS[name]
    for rows, length in ((2, 8), (8, 64), (32, 32), (64, 60), (1, 512)):
        assert costs.estimate(rows, length) == pytest.approx(function(rows, length), rel=0.05)


def test_a_recurrent_model_gains_more_from_batching_than_a_transformer() -> None:
    gains = {
        n: fitted(function).estimate(1, 32) / (fitted(function).estimate(32, 32) / 32)
        for n, function in FUNCTIONS.items()
    }
    assert gains["recurrent"] > 5
    assert gains["transformer"] < 2


cells = st.lists(
    st.tuples(st.integers(1, 64), st.integers(1, 4096), st.floats(1e-6, 10)), min_size=1, max_size=8
)


@given(cells, st.integers(0, 1000), st.integers(0, 10**5))
def test_an_estimate_is_positive_and_finite(measured: list, rows: int, length: int) -> None:
    costs = CostModel.fit(measured)
    assert min(costs.weights) >= 0
    assert 0 < costs.estimate(rows, length) < np.inf


@given(cells)
def test_estimates_adds_the_overhead_to_each_estimate(measured: list) -> None:
    costs = CostModel.fit(measured)
    costs.learn(4, 30, 0.5)
    rows, lengths = np.array([[1], [4], [7]]), np.array([[1, 30, 300]])
    expected = [[costs.estimate(r, n) + costs.overhead_s for n in (1, 30, 300)] for r in (1, 4, 7)]
    assert np.allclose(costs.estimates(rows, lengths), expected)


def test_learning_changes_only_the_cell_of_the_run() -> None:
    costs = fitted(FUNCTIONS["recurrent"])
    learned, other = costs.estimate(8, 32), costs.estimate(1, 4)
    for _ in range(200):
        costs.learn(8, 32, 3 * learned)
    assert costs.estimate(8, 32) == pytest.approx(3 * learned, rel=0.05)
    assert costs.estimate(1, 4) == other


def test_one_outlier_changes_an_estimate_little() -> None:
    costs = fitted(FUNCTIONS["recurrent"])
    before = costs.estimate(8, 32)
    costs.learn(8, 32, 1000 * before)
    assert before < costs.estimate(8, 32) < 1.6 * before


@pytest.mark.parametrize("times", [30_000, 100, 1 / 100, 1 / 30_000])
def test_a_wrong_estimate_is_right_within_20_runs(times: float) -> None:
    """A fit at small sizes may be wrong by any factor far from them, and a device may become slower."""
    costs = fitted(FUNCTIONS["transformer"])
    measured = costs.estimate(1, 80_000) / times
    for _ in range(20):
        costs.learn(1, 80_000, measured)
    assert measured / 2 < costs.estimate(1, 80_000) < 2 * measured


def test_a_change_that_lasts_is_learned_within_20_runs() -> None:
    costs = fitted(FUNCTIONS["recurrent"])
    before = costs.estimate(8, 32)
    for _ in range(100):
        costs.learn(8, 32, before)
    for _ in range(20):
        costs.learn(8, 32, 100 * before)
    assert 50 * before < costs.estimate(8, 32) < 200 * before


def test_sizes_that_were_never_run_follow_the_nearest_that_were() -> None:
    costs = fitted(FUNCTIONS["transformer"])
    for _ in range(20):
        costs.learn(1, 80_000, 1e-3)
    assert costs.estimate(2, 100_000) < 10e-3
    assert costs.estimate(1, 32) == pytest.approx(FUNCTIONS["transformer"](1, 32), rel=0.05)


def test_instances_may_learn_at_the_same_time() -> None:
    costs = fitted(FUNCTIONS["transformer"])
    sizes = [(rows, length) for rows in (1, 2, 4, 8, 16) for length in (3, 20, 90, 400, 3000)]

    def learn(seed: int) -> None:
        for rows, length in sizes[seed:] + sizes[:seed]:
            costs.learn(rows, length, 1e-3)

    for _ in range(20):
        costs = fitted(FUNCTIONS["transformer"])
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(learn, range(8)))


def test_costs_measured_at_one_size_do_not_depend_on_the_size() -> None:
    costs = CostModel.fit([(1, 3, 1e-4), (4, 3, 1.5e-4), (16, 3, 3.5e-4)])
    assert costs.estimate(1, 80_000) == pytest.approx(costs.estimate(1, 3))
    assert costs.estimate(16, 3) > costs.estimate(1, 3)


def test_a_batched_row_costs_no_more_than_an_unbatched_one() -> None:
    for function in FUNCTIONS.values():
        costs = fitted(function)
        assert costs.per_row(32, 64) <= costs.estimate(1, 32) + costs.overhead_s


def test_costs_survive_json() -> None:
    costs = fitted(FUNCTIONS["transformer"])
    copy = CostModel.from_dict(json.loads(json.dumps(costs.to_dict())))
    assert copy.estimate(3, 40) == costs.estimate(3, 40)


@pytest.mark.parametrize(
    ("average", "value", "rate", "expected"),
    [
        (4.0, 14.0, 0.1, 5.0),
        (4.0, 4.0, 0.1, 4.0),
        (4.0, 14.0, 0.0, 4.0),
        (4.0, 14.0, 1.0, 14.0),
        (0.0, -1.0, 0.5, -0.5),
    ],
)
def test_a_value_counts_by_the_rate(average: float, value: float, rate: float, expected: float) -> None:
    assert moving_average(average, value, rate) == pytest.approx(expected)


def test_an_average_converges_to_a_constant_value() -> None:
    average = 100.0
    for _ in range(200):
        average = moving_average(average, 3.0, 0.1)
    assert average == pytest.approx(3.0)


@pytest.mark.parametrize(
    "damage",
    [
        {"weights": [1]},
        {"weights": [1, 1, 1, 1, float("nan")]},
        {"weights": [-1, 1, 1, 1, 1]},
        {"weights": None},
        {"overhead_s": "much"},
        {"overhead_s": float("inf")},
        {"ratios": 1},
        {"ratios": [[1]]},
        {"ratios": [[0] * 20] * 12},
        {"ratios": [[1e300] * 20] * 12},
        {"runs": [[float("inf")] * 20] * 12},
        {"runs": [[10**400] * 20] * 12},
        {"overhead_s": 10**400},
        {"weights": [1e300, 0, 0, 0, 0]},
    ],
)
def test_costs_that_no_model_has_are_refused(damage: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        CostModel.from_dict({**CostModel().to_dict(), **damage})
