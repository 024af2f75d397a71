"""The spec: joining a graph with its manifest, the errors if they do not match, and the size of a request."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
from unit.server import sample_models

from lockstep_server.engine.loading.manifest_file import parse
from lockstep_server.errors import LoadError, ServingError
from lockstep_server.model.manifest import Manifest
from lockstep_server.model.spec import (
    GraphSignature,
    GraphTensor,
    ModelSpec,
    RequestSize,
    batchable,
    make_spec,
    measure_request,
)

LENGTHS = "[lengths.words]\nmax = 9\n"


def graph(
    inputs: dict[str, tuple], outputs: dict[str, tuple], onnx_type: str = "tensor(float)"
) -> GraphSignature:
    def tensors(shapes: dict[str, tuple]) -> tuple[GraphTensor, ...]:
        return tuple(GraphTensor(name, onnx_type, shape) for name, shape in shapes.items())

    return GraphSignature(tensors(inputs), tensors(outputs))


def spec(shapes: GraphSignature, text: str | None = None) -> ModelSpec:
    manifest = Manifest() if text is None else parse(tomllib.loads(text), "f")
    return make_spec("m", 1, shapes, manifest, "f")


X, Y = {"x": ("n", "m")}, {"y": ("n",)}


def test_axis_0_is_the_batch_axis_if_it_has_one_symbol_on_every_tensor() -> None:
    assert batchable(spec(graph(X, Y)))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (X, {"y": ("k",)}), (X, {"y": (3,)}), (X, {"y": (None,)}), (X, {"y": ()}), ({"x": (4,)}, {"y": (4,)}),
        ({"x": (None,)}, {"y": (None,)}), ({"x": ("n",), "z": ("k",)}, Y), ({}, Y),
    ],
)  # fmt: skip
def test_otherwise_no_batch_axis_is_inferred(inputs: dict, outputs: dict) -> None:
    assert not batchable(spec(graph(inputs, outputs)))


def test_with_a_manifest_no_batch_axis_is_inferred() -> None:
    assert not batchable(spec(graph(X, Y), "[inputs.x]\nbatch_axis = 0"))
    assert batchable(spec(graph(X, Y), "[inputs.x]\nbatch_axis = 0\n[outputs.y]\nbatch_axis = 0"))


def test_dynamic_axes_are_minus_one_on_the_wire() -> None:
    (tensor,) = spec(graph({"x": ("n", None, 3)}, Y)).inputs
    assert tensor.wire_shape() == [-1, -1, 3]


@pytest.mark.parametrize(
    "onnx_type",
    ["seq(tensor(float))", "map(int64,tensor(float))", "tensor(complex64)", "tensor(int4)",
     "optional(seq(tensor(float)))", "sparse_tensor(float)"],
)  # fmt: skip
def test_a_type_that_the_protocol_does_not_support_is_an_error(onnx_type: str) -> None:
    with pytest.raises(LoadError, match="not supported") as caught:
        spec(graph(X, Y, onnx_type))
    assert "f: inputs.x" in str(caught.value)
    assert onnx_type in str(caught.value)


def test_an_optional_type_makes_the_input_optional() -> None:
    (tensor,) = spec(graph(X, Y, "optional(tensor(float))")).inputs
    assert (tensor.datatype, tensor.optional) == ("FP32", True)


WRONG: dict[str, tuple[str, str]] = {
    "[inputs.z]\nbatch_axis = 0": ("inputs.z", "no such tensor"),
    "[outputs.x]\nbatch_axis = 0": ("outputs.x", "available: y"),
    "[inputs.x]\nbatch_axis = 2": ("inputs.x", "axis 2 does not exist"),
    LENGTHS + '[inputs.x]\nbatch_axis = 0\nlengths = {3 = "words"}': ("inputs.x", "axis 3 does not exist"),
    "[inputs.fixed]\nbatch_axis = 0": ("inputs.fixed", "fixed to 4"),
    '[roles]\nscores = "z"': ("roles.scores", "no output 'z'"),
    '[roles]\nvector = "x"': ("roles.vector", "no output 'x'"),
    '[roles]\nattention = "z"': ("roles.attention", "no output 'z'"),
    '[roles]\ninput = "y"': ("roles.input", "no input 'y'"),
    '[text]\nsource = "t.json"': ("roles.input", "missing"),
    'task = "classify"\nlabels = ["a", "b"]\n[roles]\nscores = "three"': ("labels", "3 scores"),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_manifest_that_does_not_match_the_graph_is_an_error(text: str) -> None:
    key, message = WRONG[text]
    shapes = graph({**X, "fixed": (4,)}, {**Y, "three": ("n", 3)})
    with pytest.raises(LoadError, match=f"^f: {key}: ") as caught:
        spec(shapes, text)
    assert message in str(caught.value)


def test_a_sigmoid_may_have_one_score_for_two_labels() -> None:
    text = 'task = "classify"\nlabels = ["a", "b"]\n[roles]\nscores = "y"\nactivation = "sigmoid"'
    assert spec(graph(X, {"y": ("n", 1)}), text).manifest.labels == ("a", "b")


def test_the_text_input_is_the_only_one_that_is_not_generated() -> None:
    text = (
        LENGTHS + '[inputs.mask]\nbatch_axis = 0\ngenerated = "mask"\nof = "words"\nlengths = {1 = "words"}'
    )
    assert spec(graph({**X, "mask": ("n", "m")}, Y), text).text_input == "x"
    assert spec(graph({**X, "mask": ("n", "m")}, Y)).text_input == ""


def test_named_lengths_are_read_from_their_axes() -> None:
    assert measure_request(sample_models.ragged(), {"x": np.zeros((3, 7))}) == RequestSize(3, (7,), 7)
    assert measure_request(sample_models.ragged(axis=1), {"x": np.zeros((7, 3))}) == RequestSize(3, (7,), 7)


def test_two_named_lengths_add_up() -> None:
    found = measure_request(sample_models.two_lengths(), {"x": np.zeros((2, 3)), "z": np.zeros((2, 40))})
    assert found == RequestSize(2, (3, 40), 43)
    assert found.elements == 86


def test_without_named_lengths_the_largest_tensor_sets_the_size() -> None:
    assert measure_request(sample_models.plain(), {"x": np.zeros((4, 5))}) == RequestSize(4, (), 5)
    assert measure_request(sample_models.plain(), {"x": np.zeros((0, 5))}).size == 1


@pytest.mark.parametrize(
    ("shapes", "field"),
    [
        ({"x": (1, 2), "z": (2, 2)}, "z"),
        ({"x": (0, 2), "z": (0, 2)}, "x"),
        ({"x": (1, 0), "z": (1, 2)}, "x"),
        ({"x": (1, 1001), "z": (1, 2)}, "x"),
        ({"x": (1, 2), "z": (1, 0)}, "z"),
        ({"x": (1, 2), "z": (1, 1001)}, "z"),
    ],
)
def test_an_invalid_size_is_reported_for_its_tensor(shapes: dict, field: str) -> None:
    with pytest.raises(ServingError) as caught:
        measure_request(
            sample_models.two_lengths(), {name: np.zeros(shape) for name, shape in shapes.items()}
        )
    assert caught.value.field == field
