"""The tensor datatypes of the Open Inference Protocol and their names in ONNX and numpy.

Source: https://github.com/kserve/open-inference-protocol, "Tensor Data Types". ONNX Runtime's
`NodeArg.type` writes a tensor's type as `tensor(float)`.
"""

from __future__ import annotations

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
