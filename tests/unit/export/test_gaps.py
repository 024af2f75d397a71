"""How far two answers lie apart."""

import numpy as np
import pytest

from lockstep_export.parity import gap


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
