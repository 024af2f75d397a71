"""The spec: joining a graph with its manifest, the errors if they do not match, and the size of a request."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import numpy as np
import pytest
from unit.server import sample_models

from lockstep_server.engine.loading.manifest_file import parse
from lockstep_server.errors import LoadError, ServingError
from lockstep_server.model.manifest import Manifest
from lockstep_server.model.oneshot_spec import make_spec
from lockstep_server.model.spec import (
    GraphSignature,
    GraphTensor,
    ModelSpec,
    RequestSize,
    batchable,
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
    "[inputs.x]\nvalue = 1": ("inputs.x.value", "axis 0 is unknown; write it: sizes = {0 = 1}"),
    "[inputs.x]\nbatch_axis = 0\nvalue = 1": ("inputs.x.value", "axis 1 is unknown"),
    "[inputs.x]\nsizes = {2 = 1}": ("inputs.x.sizes", "axis 2 does not exist"),
    "[inputs.fixed]\nsizes = {0 = 3}": ("inputs.fixed.sizes", "fixed to 4"),
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


def test_a_constant_is_no_text_input_and_sizes_fix_axes_of_the_graph() -> None:
    text = "[inputs.c]\nbatch_axis = 0\nvalue = 1\nsizes = {1 = 0}"
    joined = spec(graph({**X, "c": ("n", "p", 3)}, Y), text)
    assert joined.text_input == "x"
    assert joined.inputs[1].shape == ("n", 0, 3)


@pytest.mark.parametrize("kind", ["zeros", "positions"])
def test_a_caller_may_send_what_the_server_would_generate(kind: str) -> None:
    section = f'[inputs.ids]\nbatch_axis = 0\ngenerated = "{kind}"\nof = "words"'
    text = LENGTHS + '[inputs.x]\nbatch_axis = 0\nlengths = {1 = "words"}\n' + section
    joined = spec(graph({**X, "ids": ("n", "m")}, Y), text)
    x = np.zeros((2, 3))
    assert measure_request(joined, {"x": x, "ids": np.array([[0, 0, 1], [0, 1, 1]])}).lengths == (3,)
    with pytest.raises(ServingError, match=r"send \[2, 3\], or omit the input"):
        measure_request(joined, {"x": x, "ids": np.zeros((2, 4))})


def test_named_lengths_are_read_from_their_axes() -> None:
    assert measure_request(sample_models.ragged(), {"x": np.zeros((3, 7))}) == RequestSize(3, (7,), 7)
    assert measure_request(sample_models.ragged(axis=1), {"x": np.zeros((7, 3))}) == RequestSize(3, (7,), 7)


def test_a_shape_that_came_before_has_the_same_size_and_the_same_error() -> None:
    spec = sample_models.ragged()
    for _ in range(2):
        assert measure_request(spec, {"x": np.zeros((3, 7))}) == RequestSize(3, (7,), 7)
        assert measure_request(spec, {"x": np.zeros((7, 3))}) == RequestSize(7, (3,), 3)
        with pytest.raises(ServingError, match="send at least one"):
            measure_request(spec, {"x": np.zeros((3, 0))})


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


@pytest.mark.parametrize("axis", [0, 1])
def test_lengths_and_a_mask_of_the_caller_s_own_are_accepted(axis: int) -> None:
    """A caller may send rows that it has padded itself."""
    shape = (3, 7) if axis == 0 else (7, 3)
    sent = {"x": np.zeros(shape), "mask": np.ones(shape, bool), "sizes": np.array([7, 1, 3])}
    assert measure_request(sample_models.ragged(axis=axis), sent).lengths == (7,)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"sizes": np.array([7, 8, 3])}, "a row of 8 words, but the rows have 7"),
        ({"sizes": np.array([7, 0, 3])}, "a row of 0 words"),
        ({"sizes": np.array([-1, 7, 3])}, "a row of -1 words"),
        ({"sizes": np.array([7, 7])}, "2 rows on axis 0"),
        ({"mask": np.ones((3, 6), bool)}, "6 words"),
        ({"mask": np.ones((2, 7), bool)}, "2 rows"),
    ],
)
def test_lengths_and_a_mask_that_do_not_fit_the_other_inputs_are_errors(sent: dict, words: str) -> None:
    with pytest.raises(ServingError) as caught:
        measure_request(sample_models.ragged(), {"x": np.zeros((3, 7)), **sent})
    assert caught.value.field in sent
    assert words in caught.value.message


def test_a_mask_whose_axes_the_manifest_does_not_name_must_fit_too() -> None:
    spec = sample_models.ragged()
    x, mask, sizes = spec.inputs
    mask = replace(mask, spec=replace(mask.spec, lengths={}))
    with pytest.raises(ServingError, match="send \\[3, 7\\], or omit the input"):
        measure_request(
            replace(spec, inputs=(x, mask, sizes)), {"x": np.zeros((3, 7)), "mask": np.ones((3, 9), bool)}
        )


WORDS = {"tokens": ("n", "w")}
NAMED = LENGTHS + '[text]\nsource = "t.json"\n[inputs.tokens]\nbatch_axis = 0\nlengths = {1 = "words"}\n'
LABELS = '\nlabels = ["a", "b", "c"]\n[roles]\nscores = "y"\n'
PER_WORD = '[outputs.y]\nbatch_axis = 0\nlengths = {1 = "words"}\n'
ENCODE = 'task = "encode"\n[roles]\nvector = "y"'
ROLES: dict[str, tuple[str, tuple, str, str]] = {
    # manifest, shape of the output y, the wrong key, what its error says
    "scores of each word": (
        'task = "classify"' + LABELS + NAMED + PER_WORD,
        ("n", "w", 3),
        "roles.scores",
        "token-classification",
    ),
    "scores along an axis of the input": ('task = "classify"' + LABELS, ("n", "w", 3), "roles.scores", "'w'"),
    "scores along an unknown axis": ('task = "classify"' + LABELS, ("n", None, 3), "roles.scores", "axis 1"),
    "scores as long as the text": ('task = "classify"' + LABELS, ("n", "w"), "roles.scores", "'w'"),
    "several rows of scores": ('task = "classify"' + LABELS, ("n", 7, 3), "labels", "21 scores"),
    "scores without labels": (ENCODE + '\nscores = "y"', ("n", 3), "labels", "missing"),
    "one row of scores for the words": (
        'task = "token-classification"' + LABELS + NAMED,
        ("n", 3),
        "roles.scores",
        "[batch, words, labels]",
    ),
    "scores of each word without their length": (
        'task = "token-classification"' + LABELS + NAMED,
        ("n", "w", 3),
        "roles.scores",
        "outputs.y.lengths",
    ),
    "four scores of each word": (
        'task = "token-classification"' + LABELS + NAMED + PER_WORD,
        ("n", "w", 4),
        "labels",
        "4 scores",
    ),
    "a vector of each word": (
        ENCODE + "\n" + NAMED + PER_WORD,
        ("n", "w", 8),
        "outputs.y.pooling",
        "missing",
    ),
    "a vector along an axis of the input": (ENCODE, ("n", "w", 8), "outputs.y.pooling", "missing"),
    "pooling of one vector": (
        ENCODE + "\n" + NAMED + '[outputs.y]\nbatch_axis = 0\npooling = "mean"',
        ("n", 8),
        "outputs.y.pooling",
        "[batch, words, width]",
    ),
    "text of one id per row": (
        'text.source = "t"\ninputs.tokens.batch_axis = 0',
        ("n",),
        "inputs.tokens",
        "one row",
    ),
}


@pytest.mark.parametrize("case", ROLES)
def test_an_output_that_does_not_fit_its_role_is_an_error(case: str) -> None:
    text, shape, key, message = ROLES[case]
    inputs = {"tokens": ("n",)} if "one id per row" in case else WORDS
    with pytest.raises(LoadError) as caught:
        spec(graph(inputs, {"y": shape}), text)
    assert str(caught.value).startswith(f"f: {key}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("shape", [("n", 3), ("n", None), ("n", "k"), ("n", 1, 3), ("n", 3, 1), ()])
def test_one_row_of_scores_may_be_written_in_several_ways(shape: tuple) -> None:
    assert spec(graph(WORDS, {"y": shape}), 'task = "classify"' + LABELS).manifest.roles.scores == "y"


@pytest.mark.parametrize(
    ("onnx_type", "section", "message"),
    [
        ("tensor(int64)", "pad = 0.5", "INT64 cannot hold 0.5"),
        ("tensor(int64)", "pad = nan", "INT64 cannot hold nan"),
        ("tensor(int8)", "pad = 300", "INT8 cannot hold 300"),
        ("tensor(uint8)", "pad = -1", "UINT8 cannot hold -1"),
        ("tensor(float16)", "pad = 1e6", "FP16 cannot hold 1e+06"),
        ("tensor(bool)", "pad = 2", "BOOL cannot hold 2"),
        ("tensor(int32)", "range = [0, 4294967296]", "exceeds the integers of INT32"),
        ("tensor(uint8)", "range = [-1, 4]", "exceeds the integers of UINT8"),
        ("tensor(string)", "range = [0, 4]", "BYTES holds no ids"),
        ("tensor(int8)", 'generated = "lengths"\nof = "words"', "holds lengths up to 127"),
        ("tensor(float16)", 'generated = "lengths"\nof = "words"', "holds lengths up to 2048"),
        ("tensor(uint8)", 'generated = "positions"\nof = "words"', "holds positions up to 255"),
        ("tensor(int8)", "value = 300", "INT8 cannot hold 300"),
        ("tensor(string)", "value = 1", "BYTES cannot hold 1"),
    ],
)
def test_a_number_that_the_datatype_cannot_hold_is_an_error(
    onnx_type: str, section: str, message: str
) -> None:
    text = f"[lengths.words]\nmax = 5000\n[inputs.x]\nbatch_axis = 0\n{section}"
    with pytest.raises(LoadError, match=r"^f: inputs\.x") as caught:
        spec(graph({"x": ("n",)}, Y, onnx_type), text)
    assert message in str(caught.value)


@pytest.mark.parametrize(("onnx_type", "section"), [
    ("tensor(float)", "pad = -inf"), ("tensor(double)", "pad = 1e300"), ("tensor(int64)", "pad = -100"),
    ("tensor(uint64)", "range = [0, 9000000000000000000]"), ("tensor(float)", "range = [0, 16777217]"),
    ("tensor(bool)", "pad = true"),
])  # fmt: skip
def test_a_number_that_the_datatype_holds_is_accepted(onnx_type: str, section: str) -> None:
    assert spec(graph({"x": ("n",)}, Y, onnx_type), f"[inputs.x]\nbatch_axis = 0\n{section}")
