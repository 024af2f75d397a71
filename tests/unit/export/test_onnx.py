"""The exported file: named axes, no notes of the tracer, small weights that lose nothing."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from lockstep_export.onnx import export_onnx
from lockstep_export.zoo import ZOO


@pytest.fixture(scope="module", params=list(ZOO))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    recipe = ZOO[request.param]
    module = recipe.build(300).eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(weight.half().float())
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(recipe, module, path)
    return request.param, path


def test_axes_are_named(exported: tuple[str, Path]) -> None:
    name, path = exported
    graph = onnx.load(path).graph
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes["tokens"] == ["batch", "words"]
    assert shapes["logits"] == ["batch", 1 if ZOO[name].activation == "sigmoid" else 2]
    for output in ZOO[name].outputs:
        assert shapes[output.name][0] == "batch"
        assert all(shapes[output.name][axis] == "words" for axis in output.word_axes)


def test_nothing_of_the_machine_is_left(exported: tuple[str, Path]) -> None:
    _, path = exported
    raw = path.read_bytes()
    for trace in (b".py", b"site-packages", str(Path.cwd()).encode(), b"pkg.torch"):
        assert trace not in raw


def test_large_weights_are_stored_as_halves_and_used_as_floats(exported: tuple[str, Path]) -> None:
    name, path = exported
    model = onnx.load(path)
    large = [constant for constant in model.graph.initializer if np.prod(constant.dims) > 2000]
    assert all(constant.data_type == TensorProto.FLOAT16 for constant in large)
    assert bool(large) is (name != "sentiment-bow")


def test_weights_that_are_no_halves_stay_floats(tmp_path: Path) -> None:
    recipe = ZOO["sentiment-lstm"]
    export_onnx(recipe, recipe.build(300).eval(), tmp_path / "model.onnx")
    embedding = next(c for c in onnx.load(tmp_path / "model.onnx").graph.initializer if "embedding" in c.name)
    assert embedding.data_type == TensorProto.FLOAT
