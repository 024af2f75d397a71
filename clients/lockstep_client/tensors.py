"""Conversion between numpy arrays and raw tensors of the Open Inference Protocol, for all its datatypes.

Raw tensors are little-endian and row-major. A BYTES element is a 4-byte length followed by the data; str is
sent as UTF-8 and returned as bytes. Scalars have the empty shape, and any axis may have size 0.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from lockstep_client.errors import InvalidRequest, ServerFailure, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from lockstep_client.inference import InferTensorContents

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The datatypes with elements of fixed size: all but BYTES."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_TYPED_FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@dataclass(frozen=True)
class WireTensor:
    """A tensor in wire format."""

    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def encode(name: str, value: npt.ArrayLike) -> WireTensor:
    """Encode `value` as input `name`. Raises InvalidRequest for a type that the protocol lacks.

    str and bytes become BYTES, as a scalar, in a list, or in an array of dtype object, U or S. numpy drops
    trailing zero bytes of U and S arrays; use object arrays to keep them.
    """
    array = _as_array(name, value)
    if array.dtype.kind in "OUS":
        return WireTensor("BYTES", array.shape, b"".join(_length_prefixed(name, array)))
    little = array.dtype.newbyteorder("<") if array.dtype.kind in "iuf" else array.dtype
    datatype = _NAMES.get(little)
    if datatype is None:
        raise _wrong(name, f"dtype {array.dtype} cannot be sent: use one of {', '.join(DTYPES)} or BYTES")
    return WireTensor(datatype, array.shape, array.astype(little, copy=False).tobytes())


def decode(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> npt.NDArray[Any]:
    """Decode output `name` to a read-only array. Raises ServerFailure if bytes and shape do not match."""
    elements = _element_count(name, shape)
    if datatype == "BYTES":
        return _object_array(list(_split(name, raw)), name, shape)
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise ServerFailure(f"output {name!r} has the unknown datatype {datatype!r}")
    if elements * dtype.itemsize != len(raw):
        raise _torn(name, f"{len(raw)} bytes", datatype, shape)
    return np.frombuffer(raw, dtype).reshape(shape) if raw else _frozen(np.empty(shape, dtype))


def decode_typed(
    name: str, datatype: str, shape: Sequence[int], contents: InferTensorContents
) -> npt.NDArray[Any]:
    """Decode output `name` from typed contents, which some other servers send."""
    if datatype not in _TYPED_FIELDS:
        raise ServerFailure(f"output {name!r} of datatype {datatype!r} has no raw contents")
    elements = list(getattr(contents, _TYPED_FIELDS[datatype]))
    if datatype == "BYTES":
        return _object_array(elements, name, shape)
    if len(elements) != _element_count(name, shape):
        raise _torn(name, f"{len(elements)} elements", datatype, shape)
    return _frozen(np.array(elements, DTYPES[datatype]).reshape(shape))


def _as_array(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
        # numpy's string types drop trailing zero bytes; object arrays keep them.
        if array.dtype.kind in "US" and not isinstance(value, np.ndarray):
            array = np.asarray(value, dtype=object)
    except ValueError as error:
        raise _wrong(name, f"not a tensor: {error}") from error
    return array


def _length_prefixed(name: str, array: npt.NDArray[Any]) -> Iterator[bytes]:
    for index, element in enumerate(array.ravel()):
        if not isinstance(element, str | bytes):
            raise _wrong(
                name, f"element {index} is {type(element).__name__}: BYTES elements must be str or bytes"
            )
        try:
            data = element.encode() if isinstance(element, str) else element
        except UnicodeEncodeError as error:
            raise _wrong(name, f"element {index} is not valid Unicode: {error.reason}") from error
        yield struct.pack("<I", len(data))
        yield data


def _split(name: str, raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise ServerFailure(f"output {name!r}: truncated BYTES tensor, inside the length of an element")
        start = at + 4
        at = start + int.from_bytes(raw[at:start], "little")
        if at > len(raw):
            raise ServerFailure(f"output {name!r}: truncated BYTES tensor, inside an element")
        yield raw[start:at]


def _object_array(elements: list[bytes], name: str, shape: Sequence[int]) -> npt.NDArray[Any]:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    if len(elements) != _element_count(name, shape):
        raise _torn(name, f"{len(elements)} elements", "BYTES", shape)
    return _frozen(array.reshape(shape))


def _element_count(name: str, shape: Sequence[int]) -> int:
    if any(size < 0 for size in shape):
        raise ServerFailure(f"output {name!r} has the invalid shape {list(shape)}")
    return math.prod(shape)


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.flags.writeable = False
    return array


def _wrong(name: str, description: str) -> InvalidRequest:
    field = f"inputs[{name!r}]"
    return InvalidRequest(f"{field}: {description}", violations=(Violation(field, description),))


def _torn(name: str, found: str, datatype: str, shape: Sequence[int]) -> ServerFailure:
    return ServerFailure(f"output {name!r}: {found} do not match {datatype} of shape {list(shape)}")
