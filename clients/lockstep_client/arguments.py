"""What callers give, checked before it is sent: each returns it fit for a message, or raises InvalidRequest.

The exception names the argument, as the server's own would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockstep_client.errors import InvalidRequest, Violation
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable


def model(name: str) -> str:
    """The name of a model."""
    if not name:
        raise wrong("model", "empty: give the name of a model")
    return name


def text(field: str, given: str) -> str:
    """A text that can be written as UTF-8."""
    if not isinstance(given, str):
        raise wrong(field, f"{type(given).__name__} is not a text: give str")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise wrong(field, f"not valid Unicode: {error.reason}") from error
    return given


def row(field: str, ids: Iterable[int]) -> pb.Ids:
    """Token ids."""
    try:
        return pb.Ids(ids=ids)
    except (TypeError, ValueError, OverflowError) as error:
        raise wrong(field, f"not a row of 64-bit integers: {error}") from error


def count(field: str, value: int, *, below: int = 1 << 64) -> int:
    """A whole number from 0 up."""
    if value < 0:
        raise wrong(field, f"{value} is negative: give 0 or more")
    if value >= below:
        raise wrong(field, f"{value} is too large: give less than {below}")
    return value


def count_32(field: str, value: int) -> int:
    """A whole number from 0 up that fits into 32 bits."""
    return count(field, value, below=1 << 32)


def seconds(field: str, value: float) -> float:
    """A finite time."""
    if not 0 <= value < float("inf"):
        raise wrong(field, f"{value} is not a number of seconds from 0 up")
    return value


def wrong(field: str, description: str) -> InvalidRequest:
    """The exception for an argument that cannot be sent."""
    return InvalidRequest(f"{field}: {description}", violations=(Violation(field, description),))
