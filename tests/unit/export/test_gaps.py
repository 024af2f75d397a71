"""How far two answers lie apart."""

import numpy as np
import pytest

from lockstep_export.parity import gap, gaps


def test_whole_numbers_that_differ_by_one_differ() -> None:
    ids = np.array([29_999, 7])
    assert gap(ids, ids) == 0
    assert gap(ids, ids - [1, 0]) == 1


def test_of_large_values_a_share_counts_and_of_small_ones_the_gap_itself() -> None:
    assert gap(np.float32([200, 1]), np.float32([201, 1])) == pytest.approx(1 / 201)
    assert gap(np.float32([0.2]), np.float32([0.1])) == pytest.approx(0.1)


def test_what_is_no_number_and_another_shape_are_never_near() -> None:
    assert not gap(np.float32([np.nan]), np.float32([0])) <= 1e9
    assert gap(np.zeros((2, 1)), np.zeros(2)) == np.inf


def test_equal_infinities_do_not_differ_and_others_do() -> None:
    banned = np.float32([-np.inf, 1, 2])
    assert gap(banned, banned) == 0
    assert gap(banned + np.float32([0, 0.5, 0]), banned) == pytest.approx(0.25)
    assert gap(-banned, banned) == np.inf
    assert gap(np.float32([0, 1, 2]), banned) == np.inf


def test_of_an_output_whose_values_are_all_tiny_their_share_counts_too() -> None:
    """A hundred times what is allowed, of the largest: or zeros would be near to probabilities."""
    expected = np.float32([4e-5, 2e-5])
    assert gap(np.zeros(2, np.float32), expected, 4e-5) == pytest.approx(1e-2)
    assert gap(expected * np.float32(1.001), expected, 4e-5) == pytest.approx(1e-5, rel=1e-2)
    [found] = gaps("padded", 1, [("p", np.zeros(2, np.float32), expected)], 1e-4)
    assert not found.within


def test_a_small_row_of_an_output_that_is_not_small_is_held_to_the_gap_itself() -> None:
    pairs = [
        ("y", np.float32([[3.0]]), np.float32([[3.0]])),
        ("y", np.float32([[1.01e-6]]), np.float32([[1e-6]])),
    ]
    [found] = gaps("padded", 2, pairs)
    assert found.within
