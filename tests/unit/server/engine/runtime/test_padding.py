"""Stacking, padding and cutting change no answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.server import sample_models

from lockstep_server.engine.runtime import padding
from lockstep_server.engine.runtime.batching import RowMismatch
from lockstep_server.model.manifest import TensorSection

shapes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 12)), min_size=1, max_size=6)


def draw_parts(sizes: list[tuple[int, int]], axis: int) -> list[Any]:
    spec = sample_models.ragged(axis)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((r, n) if axis == 0 else (n, r)).astype(np.float32) for r, n in sizes]
    return [sample_models.parts(spec, {"x": array})[0] for array in arrays]


@pytest.mark.parametrize("axis", [0, 1])
@given(shapes=shapes, spare=st.integers(0, 3), longer=st.integers(0, 3))
def test_an_identity_returns_the_inputs(axis: int, shapes: list, spare: int, longer: int) -> None:
    spec, parts = sample_models.ragged(axis), draw_parts(shapes, axis)
    rows = sum(r for r, _ in shapes) + spare
    longest = max(n for _, n in shapes) + longer
    inputs = padding.stack(spec, parts, rows, (longest,))
    assert inputs["x"].shape == inputs["mask"].shape == ((rows, longest) if axis == 0 else (longest, rows))
    outputs = {"y": inputs["x"], "m": inputs["mask"], "n": inputs["sizes"]}
    for part, answer, (r, n) in zip(
        parts, padding.cut(spec, outputs, parts, (longest,), rows), shapes, strict=True
    ):
        assert np.array_equal(answer["y"], part.inputs["x"])
        assert answer["m"].all()
        assert answer["m"].shape == part.inputs["x"].shape
        assert answer["n"].tolist() == [n] * r


@pytest.mark.parametrize("axis", [0, 1])
@given(shapes=shapes)
def test_padding_has_the_manifests_value_and_is_masked(axis: int, shapes: list) -> None:
    spec, parts = sample_models.ragged(axis), draw_parts(shapes, axis)
    inputs = padding.stack(spec, parts, sum(r for r, _ in shapes), (max(n for _, n in shapes),))
    assert (inputs["x"][~inputs["mask"]] == -7).all()
    assert int(inputs["mask"].sum()) == sum(r * n for r, n in shapes)


@pytest.mark.parametrize("axis", [0, 1])
def test_generated_zeros_have_the_shape_of_the_mask(axis: int) -> None:
    spec = sample_models.ragged(axis)
    mask = spec.inputs[1]
    types = replace(mask, name="types", datatype="INT64", spec=replace(mask.spec, generated="zeros"))
    spec = replace(spec, inputs=(*spec.inputs, types))
    inputs = padding.stack(spec, draw_parts([(1, 2), (2, 5)], axis), 3, (5,))
    assert inputs["types"].shape == inputs["mask"].shape
    assert inputs["types"].dtype == np.int64
    assert not inputs["types"].any()


@pytest.mark.parametrize("axis", [0, 1])
def test_generated_positions_count_the_elements_of_each_row(axis: int) -> None:
    spec = sample_models.ragged(axis)
    section = replace(spec.inputs[1].spec, generated="positions")
    each = replace(spec.inputs[1], name="each", datatype="INT64", spec=section)
    common = replace(each, name="common", spec=replace(section, batch_axis=None, lengths={}), shape=(1, "w"))
    spec = replace(spec, inputs=(*spec.inputs, each, common))
    inputs = padding.stack(spec, draw_parts([(1, 2), (2, 5)], axis), 4, (5,))
    assert (inputs["each"] if axis == 0 else inputs["each"].T).tolist() == [[0, 1, 2, 3, 4]] * 4
    assert inputs["common"].tolist() == [[0, 1, 2, 3, 4]]
    assert inputs["each"].dtype == np.int64


def test_constants_have_the_shape_of_the_run() -> None:
    spec = sample_models.ragged()
    constants = (
        sample_models.tensor("rate", TensorSection(value=16000), (), "INT64"),
        sample_models.tensor("branch", TensorSection(value=1), (1,), "BOOL"),
        sample_models.tensor("past", TensorSection(0, value=0), ("b", 4, 0, 8)),
        sample_models.tensor("types", TensorSection(0, {1: "words"}, value=2), ("b", "w"), "INT32"),
    )
    spec = replace(spec, inputs=(*spec.inputs, *constants))
    inputs = padding.stack(spec, draw_parts([(1, 2), (2, 5)], 0), 4, (5,))
    assert (inputs["rate"].tolist(), inputs["branch"].tolist()) == (16000, [True])
    assert inputs["past"].shape == (4, 4, 0, 8)
    assert inputs["types"].tolist() == [[2] * 5] * 4
    assert [inputs[one.name].dtype for one in constants] == [np.int64, np.bool_, np.float32, np.int32]


def test_a_mask_from_a_client_is_padded_with_its_padding_value() -> None:
    spec = sample_models.ragged()
    parts = [
        sample_models.parts(spec, {"x": np.ones((1, n), np.float32), "mask": np.ones((1, n), bool)})[0]
        for n in (1, 3)
    ]
    assert padding.stack(spec, parts, 2, (3,))["mask"].tolist() == [[True, False, False], [True, True, True]]


def test_strings_are_padded_with_empty_strings() -> None:
    from dataclasses import replace

    spec = sample_models.ragged()
    spec = replace(spec, inputs=(replace(spec.inputs[0], datatype="BYTES"),))
    parts = [sample_models.parts(spec, {"x": np.array([["a"] * n], object)})[0] for n in (1, 2)]
    assert padding.stack(spec, parts, 2, (2,))["x"].tolist() == [["a", ""], ["a", "a"]]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_an_output_with_other_rows_than_the_run_is_an_error(rows: int) -> None:
    spec, parts = sample_models.ragged(), draw_parts([(1, 5), (1, 5)], 0)
    with pytest.raises(RowMismatch, match=rf"output 'y' has shape \[{rows}, 5\] for 2 rows"):
        padding.cut(spec, {"y": np.zeros((rows, 5))}, parts, (5,))


def test_a_shared_run_is_cut_even_if_batching_was_withdrawn_meanwhile() -> None:
    from dataclasses import replace

    spec, parts = replace(sample_models.ragged(), batched=False), draw_parts([(1, 5), (1, 5)], 0)
    first, second = padding.cut(spec, {"y": np.array([[1.0] * 5, [2.0] * 5])}, parts, (5,))
    assert (first["y"].tolist(), second["y"].tolist()) == ([[1.0] * 5], [[2.0] * 5])
    with pytest.raises(RowMismatch):
        padding.cut(spec, {"y": np.zeros((1, 5))}, parts, (5,))


def test_an_output_of_another_length_is_an_error() -> None:
    spec, parts = sample_models.ragged(), draw_parts([(1, 2), (1, 5)], 0)
    with pytest.raises(ValueError, match="axis 1 is 4, not 5, in a run of 5 words"):
        padding.cut(spec, {"y": np.zeros((2, 4))}, parts, (5,))


def test_spare_rows_repeat_data() -> None:
    spec, parts = sample_models.ragged(), draw_parts([(1, 3)], 0)
    inputs = padding.stack(spec, parts, 4, (3,))
    assert (inputs["x"] == parts[0].inputs["x"]).all()
    assert inputs["sizes"].tolist() == [3, 3, 3, 3]
