"""Graphs that are adopted in tests: their inputs and outputs matter, and for some also that they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Axes = tuple[int | str | None, ...]
Tensors = dict[str, Any]
"""Axes by name, or pairs of a type and axes."""

FLOAT, HALF, INT64, BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL


def save(file: Path, inputs: Tensors, outputs: Tensors, nodes: Sequence[onnx.NodeProto] = ()) -> Path:
    """An ONNX file with this interface. A tensor is FLOAT unless it is a pair of its type and its axes.
    Without `nodes` it cannot run."""
    graph = helper.make_graph(list(nodes), "test", _values(inputs), _values(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, file)
    return file


def _values(tensors: Tensors) -> list[onnx.ValueInfoProto]:
    found = []
    for name, tensor in tensors.items():
        kind, axes = tensor if len(tensor) == 2 and isinstance(tensor[1], tuple) else (FLOAT, tensor)
        found.append(helper.make_tensor_value_info(name, kind, axes))
    return found


def streaming_encoder(file: Path) -> Path:
    """A streaming encoder with 99 inputs, of which 98 are states, named as in icefall: frames [N, 45, 80]."""
    inputs: dict[str, Sequence[int | str | None] | tuple[int, Sequence[int | str | None]]] = {
        "x": ("N", 45, 80)
    }
    shapes = {
        "key": (64, "N", 8), "nonlin_attn": (1, "N", 64, 6), "val1": (64, "N", 4), "val2": (64, "N", 4),
        "conv1": ("N", 12, 15), "conv2": ("N", 12, 15),
    }  # fmt: skip
    for layer in range(16):
        inputs |= {f"cached_{kind}_{layer}": shape for kind, shape in shapes.items()}
    inputs |= {"embed_states": ("N", 16, 3, 19), "processed_lens": (INT64, ("N",))}
    states = [name for name in inputs if name != "x"]
    outputs = {"encoder_out": ("N", 45, 80)} | {f"new_{name}": inputs[name] for name in states}
    make = helper.make_node
    constants: dict[str, Any] = {
        "half": (FLOAT, [], [0.5]), "chunk": (INT64, [], [16]), "axes": (INT64, [3], [1, 2, 3]),
        "last": (INT64, [1], [3]),
    }  # fmt: skip
    nodes = [
        *(
            make("Constant", [], [name], value=helper.make_tensor(name, *value))
            for name, value in constants.items()
        ),
        make("ReduceMean", ["embed_states", "axes"], ["embedded"]),
        make("Squeeze", ["embedded", "last"], ["seen"]),
        make("Add", ["x", "seen"], ["encoder_out"]),
        make("Add", ["processed_lens", "chunk"], ["new_processed_lens"]),
        *(make("Mul", [name, "half"], [f"new_{name}"]) for name in states if name != "processed_lens"),
    ]
    return save(file, inputs, outputs, nodes)
