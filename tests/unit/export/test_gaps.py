"""The difference between two results."""

from typing import Any

import numpy as np
import pytest

from lockstep_export.parity import gap, gaps


def floats(values: list[Any]) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def test_integers_differ_by_their_plain_difference() -> None:
    ids = np.array([29_999, 7])
    assert gap(ids, ids) == 0
    assert gap(ids, ids - [1, 0]) == 1


def test_large_values_are_compared_relatively_and_small_ones_absolutely() -> None:
    assert gap(floats([200, 1]), floats([201, 1])) == pytest.approx(1 / 201)
    assert gap(floats([0.2]), floats([0.1])) == pytest.approx(0.1)


def test_nan_and_another_shape_always_differ() -> None:
    assert not gap(floats([np.nan]), floats([0])) <= 1e9
    assert gap(np.zeros((2, 1)), np.zeros(2)) == np.inf


def test_equal_infinities_do_not_differ_and_others_do() -> None:
    banned = floats([-np.inf, 1, 2])
    assert gap(banned, banned) == 0
    assert gap(banned + floats([0, 0.5, 0]), banned) == pytest.approx(0.25)
    assert gap(-banned, banned) == np.inf
    assert gap(floats([0, 1, 2]), banned) == np.inf


def test_an_output_with_tiny_values_is_compared_relatively_too() -> None:
    """With a hundred times the tolerance, or zeros would pass for probabilities."""
    expected = floats([4e-5, 2e-5])
    assert gap(np.zeros(2, np.float32), expected, 4e-5) == pytest.approx(1e-2)
    assert gap(expected * np.float32(1.001), expected, 4e-5) == pytest.approx(1e-5, rel=1e-2)
    [found] = gaps("padded", 1, [("p", np.zeros(2, np.float32), expected)], 1e-4)
    assert not found.within


def test_a_row_of_tiny_values_in_another_output_is_compared_absolutely() -> None:
    pairs = [
        ("y", floats([[3.0]]), floats([[3.0]])),
        ("y", floats([[1.01e-6]]), floats([[1e-6]])),
    ]
    [found] = gaps("padded", 2, pairs)
    assert found.within
