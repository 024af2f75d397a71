"""Small ONNX graphs that are made here, as the server has no library that writes them.

nodes → `model` → the bytes of a model file, which an ONNX Runtime session opens. Inputs have a type and no
shape, so that one graph serves tensors of any size.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_IR_VERSION, _OPSET = 8, 16
_FLOAT, _INT, _INTS = 1, 2, 7  # AttributeProto.AttributeType

ELEMENT_TYPES = {
    "FP32": 1, "UINT8": 2, "INT8": 3, "UINT16": 4, "INT16": 5, "INT32": 6, "INT64": 7, "BOOL": 9, "FP16": 10,
    "FP64": 11, "UINT32": 12, "UINT64": 13, "BF16": 16,
}  # fmt: skip
"""TensorProto.DataType by datatype."""


class Node(NamedTuple):
    """An operator with its inputs, the output that is used, and numbers as attributes."""

    operator: str
    inputs: Sequence[str]
    output: str
    attributes: Mapping[str, int | float | Sequence[int]] = {}


def model(nodes: Sequence[Node], inputs: Mapping[str, str], outputs: Mapping[str, str]) -> bytes:
    """The model of these nodes, in order; `inputs` and `outputs` have datatypes by name."""
    graph = b"".join(_message(1, _node(node)) for node in nodes) + _text(2, "graph")
    graph += b"".join(_message(11, _value(*each)) for each in inputs.items())
    graph += b"".join(_message(12, _value(*each)) for each in outputs.items())
    opset = _text(1, "") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _message(7, graph) + _message(8, opset)


def _node(node: Node) -> bytes:
    found = b"".join(_text(1, name) for name in node.inputs) + _text(2, node.output)
    if node.operator == "TopK":
        found += _text(2, f"{node.output}, indices")
    found += _text(4, node.operator)
    for name, value in node.attributes.items():
        found += _message(5, _text(1, name) + _attribute(value))
    return found


def _attribute(value: int | float | Sequence[int]) -> bytes:
    if isinstance(value, float):
        return _varint(2 << 3 | 5) + struct.pack("<f", value) + _number(20, _FLOAT)
    if isinstance(value, int):
        return _number(3, value) + _number(20, _INT)
    return b"".join(_number(8, each) for each in value) + _number(20, _INTS)


def _value(name: str, datatype: str) -> bytes:
    tensor = _number(1, ELEMENT_TYPES[datatype])
    return _text(1, name) + _message(2, _message(1, tensor))


# --- the wire format of protobuf ----------------------------------------------------------------------


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # of a negative one
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(found) + bytes([value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def places(shape: Sequence[int], indices: Mapping[int, np.ndarray]) -> np.ndarray:
    """The indices of ScatterND for the part of a tensor of this shape that has `indices` along their axes,
    each broadcast to the shape of the part up to the last of these axes: int64 [*part, last axis + 1]."""
    last = max(indices)
    grids = []
    for axis in range(last + 1):
        along = indices.get(axis, np.arange(shape[axis]))
        if along.ndim == 1:
            along = along.reshape([-1 if other == axis else 1 for other in range(last + 1)])
        grids.append(along)
    return np.stack(np.broadcast_arrays(*grids), axis=-1).astype(np.int64)
