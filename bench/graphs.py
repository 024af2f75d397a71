"""Models made for the benchmarks: a wide Transformer encoder and a no-op model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHIPPED = Path(__file__).parent.parent / "models"
VOCABULARY = 8000

_ENCODER_TOML = """\
task = "encode"
[lengths.words]
max = 512
[inputs.tokens]
batch_axis = 0
lengths = {1 = "words"}
range = [0, 8000]
[inputs.mask]
batch_axis = 0
lengths = {1 = "words"}
generated = "mask"
of = "words"
[outputs.vector]
batch_axis = 0
[roles]
vector = "vector"
[batching]
max_queue_ms = 5000
"""
_NOOP_TOML = """\
[inputs.x]
batch_axis = 0
[outputs.y]
batch_axis = 0
[batching]
max_queue_ms = 5000
"""


def make_repository(root: Path) -> Path:
    """Create a repository at `root` with the shipped models and the benchmark models."""
    shutil.copytree(SHIPPED, root)
    add_encoder(root)
    _add(root, "bench-noop", noop(), _NOOP_TOML)
    _add(root, "bench-any-size", noop("size"), _NOOP_TOML)
    return root


def add_encoder(root: Path) -> None:
    """Add the wide encoder, `bench-encoder`, to a repository."""
    _add(root, "bench-encoder", encoder(), _ENCODER_TOML)


def _add(root: Path, name: str, model: onnx.ModelProto, manifest: str) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    (root / name / "model.toml").write_text(manifest)


def noop(width: int | str = 32) -> onnx.ModelProto:
    """y = x: int64 [batch, width]. A name stands for any width."""
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", width])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, ["batch", width])
    return _model([helper.make_node("Identity", ["x"], ["y"])], [x], [y], {})


class _Builder:
    """Collects the nodes and weights of a graph."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray[Any, Any]] = {}
        self._rng = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, values: Any, dtype: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(values, dtype)
        return name

    def linear(self, x: str, rows: int, columns: int) -> str:
        spread = self._rng.standard_normal((rows, columns)) / np.sqrt(rows)
        product = self.op("MatMul", x, self.constant(spread, np.float32))
        return self.op("Add", product, self.constant(np.zeros(columns), np.float32))

    def norm(self, x: str, width: int) -> str:
        one, zero = self.constant(np.ones(width), np.float32), self.constant(np.zeros(width), np.float32)
        return self.op("LayerNormalization", x, one, zero, axis=-1)

    def heads(self, x: str, heads: int, width: int) -> str:
        """[batch, words, width] -> [batch, heads, words, width / heads]."""
        split = self.op("Reshape", x, self.constant([0, 0, heads, width // heads], np.int64))
        return self.op("Transpose", split, perm=[0, 2, 1, 3])


def encoder(width: int = 256, layers: int = 4, heads: int = 4, feed_forward: int = 1024) -> onnx.ModelProto:
    """tokens int64 [batch, words], mask float [batch, words] -> vector [batch, width], random weights."""
    b = _Builder(seed=0)
    table = b.constant(np.random.default_rng(1).standard_normal((VOCABULARY, width)), np.float32)
    x = b.op("Gather", table, "tokens")
    away = b.op("Mul", b.op("Sub", b.constant(1, np.float32), "mask"), b.constant(-1e9, np.float32))
    bias = b.op("Unsqueeze", away, b.constant([1, 2], np.int64))
    for _ in range(layers):
        x = b.norm(b.op("Add", x, _attention(b, x, bias, width, heads)), width)
        wide = b.op("Relu", b.linear(x, width, feed_forward))
        x = b.norm(b.op("Add", x, b.linear(wide, feed_forward, width)), width)
    real = b.op("Unsqueeze", "mask", b.constant([2], np.int64))
    axis = b.constant([1], np.int64)
    total = b.op("ReduceSum", b.op("Mul", x, real), axis, keepdims=0)
    b.nodes.append(helper.make_node("Div", [total, b.op("ReduceSum", real, axis, keepdims=0)], ["vector"]))
    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "words"]),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", "words"]),
    ]
    output = helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", width])
    return _model(b.nodes, inputs, [output], b.weights)


def _attention(b: _Builder, x: str, bias: str, width: int, heads: int) -> str:
    query, key, value = (b.heads(b.linear(x, width, width), heads, width) for _ in range(3))
    scaled = b.op("Mul", query, b.constant((width // heads) ** -0.5, np.float32))
    scores = b.op("MatMul", scaled, b.op("Transpose", key, perm=[0, 1, 3, 2]))
    weights = b.op("Softmax", b.op("Add", scores, bias), axis=-1)
    mixed = b.op("Transpose", b.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    return b.linear(b.op("Reshape", mixed, b.constant([0, 0, width], np.int64)), width, width)


def _model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any]
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "bench", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
