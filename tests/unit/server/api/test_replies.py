"""Scores are ranked as labels with probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lockstep_server.api import replies
from lockstep_server.api.replies import rank
from lockstep_server.model.manifest import Manifest, RolesSection


def manifest(activation: str, *labels: str) -> Manifest:
    return Manifest(labels=labels, roles=RolesSection(scores="y", activation=activation))


def test_softmax_sums_to_one_and_the_most_probable_label_comes_first() -> None:
    ranked = rank(np.array([[1.0, 3.0, 2.0]]), manifest("softmax", "a", "b", "c"))
    assert [(one.name, one.label, one.score) for one in ranked] == [
        ("b", 1, 3.0),
        ("c", 2, 2.0),
        ("a", 0, 1.0),
    ]
    assert sum(one.probability for one in ranked) == pytest.approx(1)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_very_large_scores_do_not_overflow(activation: str) -> None:
    for scores in ([1e6, -1e6], [-1e6, 1e6]):
        ranked = rank(np.array(scores), manifest(activation, "a", "b"))
        assert [one.probability for one in ranked] == [1, 0]


def test_a_single_sigmoid_score_is_that_of_the_second_label() -> None:
    ranked = rank(np.array([2.0]), manifest("sigmoid", "no", "yes"))
    assert [one.name for one in ranked] == ["yes", "no"]
    assert ranked[0].probability == pytest.approx(1 / (1 + np.exp(-2)))
    assert sum(one.probability for one in ranked) == pytest.approx(1)


def test_without_activation_probabilities_are_the_scores() -> None:
    assert [one.probability for one in rank(np.array([0.25, 0.75]), manifest("none", "a", "b"))] == [
        0.75,
        0.25,
    ]


@pytest.mark.parametrize(("top_k", "count"), [(0, 3), (1, 1), (2, 2), (9, 3)])
def test_top_k_limits_the_number_of_labels(top_k: int, count: int) -> None:
    assert len(rank(np.array([1.0, 2.0, 3.0]), manifest("softmax", "a", "b", "c"), top_k)) == count


def test_equal_scores_keep_the_order_of_the_labels() -> None:
    assert [one.name for one in rank(np.zeros(3), manifest("softmax", "a", "b", "c"))] == ["a", "b", "c"]


@given(
    hnp.arrays(np.float64, (3, 200), elements=st.sampled_from([0.0, 0.1, 0.5]) | st.floats(-1, 1)),
    st.integers(0, 12),
)
def test_the_best_of_many_are_those_of_a_sort(values: np.ndarray[Any, Any], count: int) -> None:
    sorted_first = (-values).argsort(axis=1, kind="stable")[:, : count or None]
    assert replies._best(values, count).tolist() == sorted_first.tolist()
