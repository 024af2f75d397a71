"""Validation of call arguments before anything is sent.

Each function returns a value that fits the request message, or raises InvalidRequest. The exception names the
argument in `violations`, as the server's errors do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lockstep_client import tensors
from lockstep_client.errors import InvalidRequest, Violation
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt


def model(name: str) -> str:
    """A non-empty model name."""
    if not name:
        raise invalid("model", "empty: expected the name of a model")
    return name


def text(field: str, value: str) -> str:
    """A string that can be encoded as UTF-8."""
    if not isinstance(value, str):
        raise invalid(field, f"expected str, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise invalid(field, f"not valid Unicode: {error.reason}") from error
    return value


def row(field: str, ids: Iterable[int]) -> pb.Ids:
    """One sequence of token ids."""
    try:
        return pb.Ids(ids=ids)
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid(field, f"expected a sequence of 64-bit integers: {error}") from error


def frames(field: str, chunk: npt.ArrayLike | Mapping[str, npt.ArrayLike]) -> pb.Frames:
    """The frames of one message: an array of the only input, or arrays by the names of their inputs."""
    named = chunk if isinstance(chunk, Mapping) else {"": chunk}
    message = pb.Frames()
    for name, value in named.items():
        try:
            wire = tensors.encode(name, value)
        except InvalidRequest as error:
            raise invalid(field, error.violations[0].description) from error
        message.tensors.add(name=name, datatype=wire.datatype, shape=wire.shape, contents=wire.raw)
    return message


def count(field: str, value: int, *, below: int = 1 << 64) -> int:
    """An integer from 0 to `below` - 1."""
    if value < 0:
        raise invalid(field, f"{value} is negative: expected 0 or more")
    if value >= below:
        raise invalid(field, f"{value} is too large: expected less than {below}")
    return value


def count_32(field: str, value: int) -> int:
    """An unsigned 32-bit integer."""
    return count(field, value, below=1 << 32)


def seconds(field: str, value: float) -> float:
    """A finite duration of 0 s or more."""
    if not 0 <= value < float("inf"):
        raise invalid(field, f"{value} is not a finite number of seconds >= 0")
    return value


def aggregation(value: str) -> str:
    """An aggregation by its name; "" leaves the choice to the server."""
    names = [name.removeprefix("AGGREGATION_").lower() for name in pb.Aggregation.keys()[1:]]
    if value not in ("", *names):
        raise invalid("aggregation", f"{value!r} is unknown: use one of {', '.join(names)}")
    return f"AGGREGATION_{value.upper() or 'UNSPECIFIED'}"


def invalid(field: str, description: str) -> InvalidRequest:
    """The exception for an invalid argument."""
    return InvalidRequest(f"{field}: {description}", violations=(Violation(field, description),))
