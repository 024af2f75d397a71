"""Pooling reads real elements only, and numbers that are none do not reach an answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from unit.server import sample_models

from lockstep_server.engine.runtime import role_outputs
from lockstep_server.errors import ErrorCode
from lockstep_server.model.manifest import Manifest, RolesSection, TensorSection
from lockstep_server.model.spec import ModelSpec

FLOATS = st.floats(-100, 100, width=32)


@given(
    st.data(), st.sampled_from(["mean", "first", "last", "max"]), st.sampled_from([np.float16, np.float32])
)
def test_a_row_is_pooled_as_it_is_alone(data: st.DataObject, pooling: str, dtype: type) -> None:
    lengths = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    width = data.draw(st.integers(1, 4))
    rows: list[Any] = [
        data.draw(hnp.arrays(np.float32, (length, width), elements=FLOATS)).astype(dtype)
        for length in lengths
    ]
    batch: Any = np.full((len(rows), max(lengths) + 2, width), np.nan, dtype)
    for index, row in enumerate(rows):
        batch[index, : len(row)] = row
    vectors = role_outputs.pool(batch, np.array(lengths), pooling)
    assert vectors.dtype == np.float32
    for row, vector in zip(rows, vectors, strict=True):
        wide = row.astype(np.float64)
        expected = {"mean": wide.mean(0), "first": wide[0], "last": wide[-1], "max": wide.max(0)}[pooling]
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-4)
        alone = role_outputs.pool(row[None], np.array([len(row)]), pooling)[0]
        np.testing.assert_allclose(vector, alone, rtol=1e-6, atol=1e-5)  # numpy's sums depend on alignment


def test_a_normalised_vector_has_length_one_and_zeros_stay_zeros() -> None:
    vectors = np.array([[3, 4], [0, 0], [1e30, 0]], np.float32)
    expected = np.array([[0.6, 0.8], [0, 0], [1, 0]])
    np.testing.assert_allclose(role_outputs.normalised(vectors), expected, rtol=1e-6)


def spec(**roles: str) -> ModelSpec:
    y = sample_models.tensor("y", TensorSection(0), ("n", "k"))
    manifest = Manifest(task="classify", labels=("a", "b"), roles=RolesSection(**roles))
    return ModelSpec("m", 1, manifest, (), (y,))


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("role", "activation", "values", "is_fault"),
    [
        ("scores", "softmax", [0, NAN], True), ("scores", "softmax", [0, INF], True),
        ("scores", "softmax", [0, -INF], False), ("scores", "softmax", [-INF, -INF], True),
        ("scores", "sigmoid", [-INF, -INF], False), ("scores", "none", [0, -INF], True),
        ("scores", "softmax", [0, 1e300], True), ("scores", "softmax", [0, 1e30], False),
        ("vector", "softmax", [0, -INF], True), ("vector", "softmax", [0, 1e300], True),
        ("vector", "softmax", [0, 1e30], False),
    ],
)  # fmt: skip
def test_what_is_no_finite_float32_is_a_fault(
    role: str, activation: str, values: list[float], is_fault: bool
) -> None:
    model = spec(**{role: "y", "activation": activation})
    fault = role_outputs.fault(model, model.outputs[0], np.array([values]))
    assert (fault is not None) == is_fault
    assert fault is None or (fault.code is ErrorCode.FAILED and "NaN or infinite" in fault.message)


def test_another_number_of_scores_than_labels_is_a_fault() -> None:
    model = spec(scores="y")
    for scores in ([[1.0]], [[1.0, 2.0, 3.0]]):
        fault = role_outputs.fault(model, model.outputs[0], np.array(scores))
        assert fault is not None
        assert "not 2 scores, one per label" in fault.message
