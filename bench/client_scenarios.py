"""The client library's pipelines on no-op models, compared with a bare echo server and with single calls."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from . import processes
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LABELS = "bench-labels"
_TOML = """\
task = "classify"
labels = ["no", "yes"]
[lengths.words]
max = 512
[inputs.tokens]
batch_axis = 0
lengths = {1 = "words"}
range = [0, 8000]
[outputs.logits]
batch_axis = 0
[roles]
input = "tokens"
scores = "logits"
[batching]
max_queue_ms = 5000
"""


def many(models: Path, rounds: int) -> Iterator[Result]:
    """Rows of 32 ids sent by classify_many and by single calls, and as tensors by infer_many."""
    _add_labels(models)
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        with processes.echo() as address:
            echoed = processes.drive(address, "bench-noop", [32] * 8000, mode="stream", inflight=256)
            rates.setdefault("echo", []).append(echoed["rate"])
        with processes.server(models, "--only", f"{LABELS},bench-noop") as address:
            for name, spec in _SPECS.items():
                rates.setdefault(name, []).append(_rate(address, spec))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name in ("classify_many, blocking", "classify_many, asyncio"):
        yield Result(f"{name}, against a bare echo stream", medians[name], "texts/s", medians["echo"], 0.6)
        yield Result(f"{name}, against single calls", medians[name], "texts/s", medians["single calls"], 1.0)
    for name in ("infer_many, blocking", "infer_many, asyncio"):
        yield Result(
            f"{name}, against a bare echo stream", medians[name], "requests/s", medians["echo"], None
        )


_SPECS = {
    "classify_many, blocking": {"model": LABELS, "call": "classify_many", "count": 16000, "async": False},
    "classify_many, asyncio": {"model": LABELS, "call": "classify_many", "count": 16000, "async": True},
    "single calls": {"model": LABELS, "call": "classify", "count": 3000, "async": True},
    "infer_many, blocking": {"model": "bench-noop", "call": "infer_many", "count": 6000, "async": False},
    "infer_many, asyncio": {"model": "bench-noop", "call": "infer_many", "count": 6000, "async": True},
}


def _rate(address: str, spec: dict[str, object]) -> float:
    found = processes.tool("many", json.dumps({"address": address, **spec}))
    if found["failed"]:
        raise RuntimeError(f"{found['failed']} of {spec['count']} requests failed")
    rate: float = found["rate"]
    return rate


def _add_labels(models: Path) -> None:
    folder = models / LABELS / "1"
    if not folder.exists():
        folder.mkdir(parents=True)
        onnx.save(_labels(), folder / "model.onnx")
        (models / LABELS / "model.toml").write_text(_TOML)


def _labels() -> onnx.ModelProto:
    """tokens int64 [batch, words] -> logits float [batch, 2], always 0, so that padding has no effect."""
    constants = {"first": [0], "next": [1], "axis": [1]}
    weights = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    zeros = numpy_helper.from_array(np.zeros((1, 2), np.float32), "zeros")
    nodes = [
        helper.make_node("Slice", ["tokens", "first", "next", "axis"], ["one"]),
        helper.make_node("Cast", ["one"], ["score"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["score", "zeros"], ["logits"]),
    ]
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "words"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "bench", [tokens], [logits], [*weights, zeros])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


SCENARIOS: dict[str, Callable[[Path, int], Iterator[Result]]] = {"many": many}
