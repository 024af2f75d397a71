"""What a run costs: fitted from a few cells, then learned."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_server.model.cost_model import CostModel

if TYPE_CHECKING:
    from collections.abc import Callable

CELLS = ((1, 4), (1, 32), (1, 96), (4, 16), (16, 8), (16, 32))
LAWS: dict[str, Callable[[float, float], float]] = {
    "recurrent": lambda rows, length: 5e-5 + length * (4e-5 + rows * 5e-6),
    "transformer": lambda rows, length: 2e-4 + rows * length * (3e-5 + 4e-7 * length),
    "constant": lambda rows, length: 1e-3,
}


def fitted(law: Callable[[float, float], float]) -> CostModel:
    return CostModel.fit([(rows, length, law(rows, length)) for rows, length in CELLS])


@pytest.mark.parametrize("name", LAWS)
def test_a_fit_recovers_the_law(name: str) -> None:
    costs, law = fitted(LAWS[name]), LAWS[name]
    for rows, length in ((2, 8), (8, 64), (32, 32), (64, 60), (1, 512)):
        assert costs.estimate(rows, length) == pytest.approx(law(rows, length), rel=0.05)


def test_a_recurrent_model_gains_from_batches_and_a_transformer_hardly() -> None:
    gains = {n: fitted(law).estimate(1, 32) / (fitted(law).estimate(32, 32) / 32) for n, law in LAWS.items()}
    assert gains["recurrent"] > 5
    assert gains["transformer"] < 2


cells = st.lists(
    st.tuples(st.integers(1, 64), st.integers(1, 4096), st.floats(1e-6, 10)), min_size=1, max_size=8
)


@given(cells, st.integers(0, 1000), st.integers(0, 10**5))
def test_an_estimate_is_above_zero_and_finite(measured: list, rows: int, length: int) -> None:
    costs = CostModel.fit(measured)
    assert min(costs.weights) >= 0
    assert 0 < costs.estimate(rows, length) < np.inf


@given(cells)
def test_estimates_are_the_estimate_of_each_and_the_overhead(measured: list) -> None:
    costs = CostModel.fit(measured)
    costs.learn(4, 30, 0.5)
    rows, lengths = np.array([[1], [4], [7]]), np.array([[1, 30, 300]])
    expected = [[costs.estimate(r, n) + costs.overhead_s for n in (1, 30, 300)] for r in (1, 4, 7)]
    assert np.allclose(costs.estimates(rows, lengths), expected)


def test_learning_moves_towards_what_was_seen_there_alone() -> None:
    costs = fitted(LAWS["recurrent"])
    here, there = costs.estimate(8, 32), costs.estimate(1, 4)
    for _ in range(200):
        costs.learn(8, 32, 3 * here)
    assert costs.estimate(8, 32) == pytest.approx(3 * here, rel=0.05)
    assert costs.estimate(1, 4) == there


def test_one_odd_run_moves_little() -> None:
    costs = fitted(LAWS["recurrent"])
    before = costs.estimate(8, 32)
    costs.learn(8, 32, 1000 * before)
    assert before < costs.estimate(8, 32) < 1.5 * before


def test_a_row_among_its_like_costs_no_more_than_alone() -> None:
    for law in LAWS.values():
        costs = fitted(law)
        assert costs.per_row(32, 64) <= costs.estimate(1, 32) + costs.overhead_s


def test_costs_travel_as_plain_data() -> None:
    costs = fitted(LAWS["transformer"])
    again = CostModel.from_dict(json.loads(json.dumps(costs.to_dict())))
    assert again.estimate(3, 40) == costs.estimate(3, 40)
