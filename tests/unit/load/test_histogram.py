"""The histogram compared with exact percentiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockstep_load import documents
from lockstep_load.histogram import REPORTED, LatencyHistogram

seconds = st.floats(1e-6, 3000)


def times(values: list[float]) -> LatencyHistogram:
    made = LatencyHistogram()
    made.record_all(values)
    return made


@settings(max_examples=25)
@given(st.lists(seconds, min_size=1, max_size=100))
def test_percentiles_are_exact_to_three_digits(values: list[float]) -> None:
    summary = times(values).summary()
    assert summary is not None
    for name, percentile in REPORTED.items():
        exact = np.percentile(np.array(values) * 1e3, percentile, method="inverted_cdf")
        assert documents.to_json(summary)[name] == pytest.approx(exact, rel=2e-3, abs=1.1e-3)
    assert summary.max == pytest.approx(max(values) * 1e3, rel=2e-3, abs=1.1e-3)
    assert summary.count == len(values)


@settings(max_examples=15)
@given(st.lists(seconds, min_size=1, max_size=100), st.lists(seconds, min_size=1, max_size=100))
def test_the_sum_of_histograms_is_the_histogram_of_all_values(a: list[float], b: list[float]) -> None:
    both = times(a)
    both.add(times(b))
    assert both.summary() == times(a + b).summary()


@settings(max_examples=15)
@given(st.lists(seconds, max_size=100))
def test_a_histogram_survives_encoding(values: list[float]) -> None:
    made = times(values)
    again = LatencyHistogram.decoded(made.encoded)
    assert again.summary() == made.summary()
    assert (again.counts == made.counts).all()
    assert made.counts.sum() == len(values)


def test_values_out_of_range_are_clipped() -> None:
    summary = times([0.0, -1.0, 1e9]).summary()
    assert summary is not None
    assert summary.count == 3
    assert summary.max == pytest.approx(3_600_000, rel=1e-3)


def test_an_empty_histogram_has_no_summary_and_garbage_is_rejected() -> None:
    assert LatencyHistogram().summary() is None
    with pytest.raises(ValueError, match="not an HDR histogram"):
        LatencyHistogram.decoded("garbage")
