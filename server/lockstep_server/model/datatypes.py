"""The tensor datatypes of the Open Inference Protocol and their names in ONNX and numpy.

Source: https://github.com/kserve/open-inference-protocol, "Tensor Data Types". ONNX Runtime's
`NodeArg.type` writes a tensor's type as `tensor(float)`.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]
"""Tensors by name."""

NUMPY: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}

FROM_ONNX: dict[str, str] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}

INTEGERS = frozenset(name for name, dtype in NUMPY.items() if dtype.kind in "iu")

EXACT_INTEGERS: dict[str, tuple[int, int]] = {
    **{name: (int(np.iinfo(NUMPY[name]).min), int(np.iinfo(NUMPY[name]).max)) for name in INTEGERS},
    **{name: (-(2**bits), 2**bits) for name, bits in (("FP16", 11), ("BF16", 8), ("FP32", 24), ("FP64", 53))},
}
"""The smallest and the largest integer of the range in which a datatype holds every integer exactly."""

_LARGEST_FLOAT = {name: float(ml_dtypes.finfo(NUMPY[name]).max) for name in ("FP16", "BF16", "FP32", "FP64")}  # type: ignore[no-untyped-call]


def holds(datatype: str, value: float) -> bool:
    """Whether a tensor of this datatype can have this element: an integer type holds integers in its range,
    a floating-point type rounds, but holds no finite number as infinity."""
    if datatype in INTEGERS:
        smallest, largest = EXACT_INTEGERS[datatype]
        return math.isfinite(value) and value == int(value) and smallest <= int(value) <= largest
    if datatype in EXACT_INTEGERS:
        return not math.isfinite(value) or abs(value) <= _LARGEST_FLOAT[datatype]
    return datatype == "BOOL" and value in (0, 1)


def from_onnx(onnx_type: str) -> tuple[str, bool] | None:
    """`tensor(float)` -> ("FP32", False); `optional(tensor(float))` -> ("FP32", True).

    None if the protocol has no such datatype: sequences, maps, complex and sub-byte types.

    """
    optional = onnx_type.startswith("optional(")
    if optional:
        onnx_type = onnx_type.removeprefix("optional(").removesuffix(")")
    if not onnx_type.startswith("tensor("):
        return None
    name = FROM_ONNX.get(onnx_type.removeprefix("tensor(").removesuffix(")"))
    return (name, optional) if name else None
