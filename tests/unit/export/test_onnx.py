"""The exported files: named axes, no debug information, small weights without loss."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from unit.zoo.sample_data import (
    CLASSIFIERS,
    STEPWISE,
    classifier,
    forms,
    quick_build,
    quick_pipeline,
)

from lockstep_export.forms import ONESHOT
from lockstep_export.onnx import export_onnx
from lockstep_export.sharing import WEIGHTS
from lockstep_export.step_module import STEP
from lockstep_zoo.models import ZOO
from lockstep_zoo.scores import read_record

BAGS = ("sentiment-bow", "sentiment-tfidf")  # one or two weights per word: no large constants


@pytest.fixture(params=list(ZOO))
def folder(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A model's name and the folder of its graphs; trained weights are float16 numbers."""
    return request.param, quick_pipeline().version(request.param)


def axes(path: Path) -> dict[str, list[str | int]]:
    graph = onnx.load(path).graph
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


@pytest.mark.parametrize("folder", CLASSIFIERS, indirect=True)
def test_axes_of_classifiers_are_named(folder: tuple[str, Path]) -> None:
    name, path = folder
    recipe, shapes = classifier(name), axes(path / ONESHOT)
    assert shapes["tokens"] == ["batch", "words"]
    assert shapes["logits"] == ["batch", 1 if recipe.activation == "sigmoid" else 2]
    assert all(shapes[output][0] == "batch" for output in recipe.outputs)
    assert shapes.get("attention", [])[3:] in ([], ["words", "words"])


@pytest.mark.parametrize("folder", STEPWISE, indirect=True)
def test_a_step_takes_one_token_and_the_states(folder: tuple[str, Path]) -> None:
    name, path = folder
    shapes = axes(path / STEP)
    states = [f"{state}_{side}" for side in ("in", "out") for state in classifier(name).states]
    assert all(shapes.pop(state) == [1, "batch", 64] for state in states)
    assert shapes == {"token": ["batch"], "logits": ["batch", 1], "vector": ["batch", 64]}


def test_no_paths_of_the_machine_are_left(folder: tuple[str, Path]) -> None:
    for file in folder[1].iterdir():
        raw = file.read_bytes()
        for trace in (b".py", b"site-packages", str(Path.cwd()).encode(), b"pkg.torch"):
            assert trace not in raw


def test_large_weights_are_stored_as_float16(folder: tuple[str, Path]) -> None:
    name, path = folder
    for file in path.glob("*.onnx"):
        constants = onnx.load(file).graph.initializer
        large = [constant for constant in constants if np.prod(constant.dims) > 2000]
        assert all(constant.data_type == TensorProto.FLOAT16 for constant in large)
        assert bool(large) is (name not in BAGS)


def test_several_graphs_store_their_weights_once(folder: tuple[str, Path]) -> None:
    name, path = folder
    graphs = list(path.glob("*.onnx"))
    assert (path / WEIGHTS).exists() is (len(graphs) > 1)
    if len(graphs) > 1:
        parameters = read_record(quick_build() / "models").scores[name].parameters
        assert sum(file.stat().st_size for file in path.iterdir()) < 2 * parameters + 80_000
        assert all(file.stat().st_size < 45_000 for file in graphs)


def test_weights_that_are_not_float16_numbers_stay_float32(tmp_path: Path) -> None:
    recipe = classifier("sentiment-lstm")
    graphs = forms(recipe, recipe.build(300), 300).graph_specs("dynamo")
    export_onnx([graph for graph in graphs if graph.file == ONESHOT], tmp_path)
    constants = onnx.load(tmp_path / ONESHOT).graph.initializer
    embedding = next(constant for constant in constants if "embedding" in constant.name)
    assert embedding.data_type == TensorProto.FLOAT
