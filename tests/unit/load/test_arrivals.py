"""Schedules compared with the distributions they claim, with fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_load.arrivals import arrivals, constant, poisson


def schedule(rate: float, seconds: float, seed: int = 0) -> np.ndarray:
    return np.array(list(poisson(rate, 0.0, seconds, np.random.default_rng(seed))))


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.sort(np.diff(schedule(200, 100)))
    expected = 1 - np.exp(-200 * gaps)
    found = np.arange(1, len(gaps) + 1) / len(gaps)
    assert np.abs(found - expected).max() < 1.63 / np.sqrt(len(gaps))  # Kolmogorov-Smirnov, 1%


def test_poisson_counts_have_a_variance_equal_to_their_mean() -> None:
    counts = np.histogram(schedule(50, 2000), bins=2000, range=(0, 2000))[0]
    assert counts.mean() == pytest.approx(50, rel=0.02)
    assert counts.var() == pytest.approx(50, rel=0.1)


def test_the_schedules_of_all_processes_add_up_to_one_poisson_process() -> None:
    shares = [list(arrivals("poisson", 120, 0, 200, seed=3, index=i, of=4)) for i in range(4)]
    assert len({share[0] for share in shares}) == 4
    whole = np.sort(np.concatenate(shares))
    gaps = np.sort(np.diff(whole))
    expected = 1 - np.exp(-120 * gaps)
    assert np.abs(np.arange(1, len(gaps) + 1) / len(gaps) - expected).max() < 1.63 / np.sqrt(len(gaps))


@given(rate=st.floats(0.5, 500), seconds=st.floats(0.1, 20), of=st.integers(1, 5), begin=st.floats(-3, 0))
def test_constant_arrivals_are_split_evenly(rate: float, seconds: float, of: int, begin: float) -> None:
    whole = list(constant(rate, begin, seconds))
    dealt = sorted(due for i in range(of) for due in constant(rate, begin, seconds, index=i, of=of))
    assert dealt == whole
    assert np.allclose(np.diff(whole), 1 / rate)
    assert len(whole) == pytest.approx((seconds - begin) * rate, abs=1.01)


@given(rate=st.floats(0.5, 500), seed=st.integers(0, 99), begin=st.floats(-3, 0))
def test_poisson_arrivals_ascend_within_their_span_and_are_reproducible(
    rate: float, seed: int, begin: float
) -> None:
    dues = list(arrivals("poisson", rate, begin, 4.0, seed=seed))
    assert dues == sorted(dues)
    assert all(begin < due < 4.0 for due in dues)
    assert dues == list(arrivals("poisson", rate, begin, 4.0, seed=seed))
