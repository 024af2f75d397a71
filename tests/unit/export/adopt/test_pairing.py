"""States are paired by their names, in whatever order the graph has them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from unit.export.adopt.graphs import HALF, INT64, save, streaming_encoder

from lockstep_export.adopt.graph import read_graph
from lockstep_export.adopt.pairing import pair_states
from lockstep_export.errors import DescriptionError

if TYPE_CHECKING:
    from pathlib import Path

CACHE, LONGER = ("batch", 4, "past", 8), ("batch", 4, "past + sequence", 8)


def pairs(file: Path, given: dict[str, str] | None = None) -> dict[str, str]:
    found = pair_states(read_graph(file), given or {})
    return {pair.input.name: pair.output.name if pair.output else "" for pair in found}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("past_key_values.0.key", "present.0.key"),
        ("past_key_values.0.decoder.value", "present.0.decoder.value"),
        ("past_key_0", "present_key_0"),
        ("past_0", "present_0"),
        ("past_key_values_1_key", "present_key_values_1_key"),
        ("h_in", "h_out"),
        ("in_state", "out_state"),
        ("cached_val1_3", "new_cached_val1_3"),
        ("state", "stateN"),
        ("state", "next_state"),
        ("state", "state_out"),
        ("h0", "hn"),
        ("c_0", "c_n"),
        ("prev_hidden", "hidden"),
        ("hidden_prev", "hidden"),
        ("cell", "updated_cell"),
        ("decoder.lstm.h_in", "decoder.lstm.h_out"),
    ],
)
def test_the_usual_names_pair(tmp_path: Path, before: str, after: str) -> None:
    file = save(tmp_path / "x.onnx", {"x": ("n", 3), before: ("n", 5)}, {"y": ("n", 3), after: ("n", 5)})
    assert pairs(file) == {before: after}


@pytest.mark.parametrize(
    ("before", "after"), [("x", "y"), ("image", "mask"), ("h_in", "c_out"), ("input", "output")]
)
def test_other_names_do_not(tmp_path: Path, before: str, after: str) -> None:
    file = save(tmp_path / "x.onnx", {"ids": ("n", 3), before: ("n", 5)}, {after: ("n", 5)})
    assert pairs(file) == {}


@pytest.mark.parametrize("seed", range(5))
def test_the_order_in_the_graph_does_not_matter(tmp_path: Path, seed: int) -> None:
    rng, names = random.Random(seed), [f"{layer}.{part}" for layer in range(12) for part in ("key", "value")]
    inputs = {f"past_key_values.{name}": CACHE for name in names} | {
        "input_ids": (INT64, ("batch", "sequence"))
    }
    outputs = {f"present.{name}": LONGER for name in names} | {"logits": ("batch", "sequence", 9)}
    shuffled = [rng.sample(list(tensors.items()), len(tensors)) for tensors in (inputs, outputs)]
    file = save(tmp_path / "x.onnx", dict(shuffled[0]), dict(shuffled[1]))
    assert pairs(file) == {f"past_key_values.{name}": f"present.{name}" for name in names}


def test_all_98_states_of_a_streaming_encoder_pair(tmp_path: Path) -> None:
    found = pairs(streaming_encoder(tmp_path / "x.onnx"))
    assert len(found) == 98
    assert all(after == f"new_{before}" for before, after in found.items())


def test_an_axis_grows_if_its_symbols_say_so(tmp_path: Path) -> None:
    inputs = {"x": ("batch", 3), "past_key": CACHE, "h_in": (2, "batch", 8)}
    outputs = {"present_key": LONGER, "h_out": (2, "batch", 8)}
    found = pair_states(read_graph(save(tmp_path / "x.onnx", inputs, outputs)), {})
    assert {pair.input.name: pair.growing_axis for pair in found} == {"past_key": 2, "h_in": None}


def test_another_type_is_an_error(tmp_path: Path) -> None:
    inputs = {"x": ("batch", 3), "past_key_values.0.key": (HALF, CACHE)}
    file = save(tmp_path / "x.onnx", inputs, {"present.0.key": LONGER})
    with pytest.raises(
        DescriptionError, match=r"past_key_values\.0\.key: it is FLOAT16, and present\.0\.key.*FLOAT\."
    ):
        pairs(file)


def test_another_shape_is_an_error(tmp_path: Path) -> None:
    inputs = {"x": ("batch", 3), "past_key_values.0.key": CACHE}
    file = save(tmp_path / "x.onnx", inputs, {"present.0.key": ("batch", 2, "past + sequence", 8)})
    with pytest.raises(DescriptionError, match="has another shape"):
        pairs(file)


def test_a_missing_output_is_an_error(tmp_path: Path) -> None:
    inputs = {"x": ("batch", 3)} | {f"past_key_values.{layer}.key": CACHE for layer in (0, 1)}
    file = save(tmp_path / "x.onnx", inputs, {"logits": ("batch", 9), "present.0.key": LONGER})
    with pytest.raises(DescriptionError, match=r"past_key_values\.1\.key: no output continues it.*--state"):
        pairs(file)


def test_two_candidates_are_an_error_that_a_choice_settles(tmp_path: Path) -> None:
    inputs = {"x": ("batch", 3), "h_in": ("batch", 8)}
    file = save(tmp_path / "x.onnx", inputs, {"h_out": ("batch", 8), "new_h": ("batch", 8)})
    with pytest.raises(DescriptionError, match=r"h_out and new_h may both.*--state h_in=h_out"):
        pairs(file)
    assert pairs(file, {"h_in": "new_h"}) == {"h_in": "new_h"}


def test_of_two_candidates_the_one_that_fits_is_taken(tmp_path: Path) -> None:
    inputs = {"x": ("batch", 3), "h_in": ("batch", 8)}
    file = save(tmp_path / "x.onnx", inputs, {"h_out": ("batch", 8), "new_h": ("batch", 9)})
    assert pairs(file) == {"h_in": "h_out"}


def test_two_states_of_one_output_are_an_error(tmp_path: Path) -> None:
    inputs = {"x": ("batch", 3), "h_in": ("batch", 8), "prev_h": ("batch", 8)}
    file = save(tmp_path / "x.onnx", inputs, {"h": ("batch", 8)})
    with pytest.raises(DescriptionError, match="may continue h_in and prev_h"):
        pairs(file)


def test_a_given_name_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    file = save(tmp_path / "x.onnx", {"x": ("batch", 3)}, {"y": ("batch", 3)})
    with pytest.raises(DescriptionError, match="no input 'h'; available: x"):
        pairs(file, {"h": "y"})
    with pytest.raises(DescriptionError, match="no output 'z'; available: y"):
        pairs(file, {"x": "z"})
