"""Equal weights are written once, whatever their names in the graphs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from lockstep_export.sharing import ALIGNMENT, WEIGHTS, share_weights

LARGE = np.arange(1024, dtype=np.float32).reshape(32, 32)


def model(name: str, weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> onnx.ModelProto:
    """y = x @ weight"""
    x, y = (helper.make_tensor_value_info(v, TensorProto.FLOAT, ["batch", 32]) for v in "xy")
    node = helper.make_node("MatMul", ["x", name], ["y"])
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(weight, name)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_two_graphs_share_one_file_and_give_the_same_results(tmp_path: Path) -> None:
    models = {"a": model("w", LARGE), "b": model("other", LARGE), "c": model("w", LARGE + 1)}
    share_weights(list(models.values()), tmp_path)
    for name, one in models.items():
        onnx.save(one, tmp_path / f"{name}.onnx")
    assert (tmp_path / WEIGHTS).stat().st_size == ALIGNMENT + LARGE.nbytes
    x = np.eye(32, dtype=np.float32)
    for name, weight in (("a", LARGE), ("b", LARGE), ("c", LARGE + 1)):
        answer = InferenceSession(tmp_path / f"{name}.onnx").run(None, {"x": x})[0]
        assert np.array_equal(answer, weight)


def test_small_constants_stay_in_the_graph(tmp_path: Path) -> None:
    small = helper.make_model(
        helper.make_graph([], "g", [], [], [numpy_helper.from_array(np.ones(3, np.float32), "w")])
    )
    share_weights([small], tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == b""
    assert numpy_helper.to_array(small.graph.initializer[0]).tolist() == [1, 1, 1]


def test_a_graph_without_its_weights_does_not_load(tmp_path: Path) -> None:
    one = model("w", LARGE)
    share_weights([one], tmp_path)
    onnx.save(one, tmp_path / "a.onnx")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(Exception, match=WEIGHTS):
        InferenceSession(tmp_path / "a.onnx")
