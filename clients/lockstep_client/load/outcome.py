"""How a request ended. A refusal is data: it is counted by its meaning, never left out."""

from __future__ import annotations

from enum import IntEnum

import grpc


class Outcome(IntEnum):
    """One for each request that was sent."""

    OK = 0
    OVERLOADED = 1
    """Refused at the door (RESOURCE_EXHAUSTED): the wait would have been too long."""
    DEADLINE = 2
    """No answer within the timeout."""
    UNAVAILABLE = 3
    """No connection, or the server drains, or the model loads."""
    INVALID = 4
    """The server finds the request itself wrong."""
    NOT_FOUND = 5
    """No such model."""
    DENIED = 6
    """Not authenticated, or not allowed."""
    LOST = 7
    """The server let go of the sequence (FAILED_PRECONDITION)."""
    CANCELLED = 8
    """Given up: the run was interrupted, or the server cancelled it."""
    FAILED = 9
    """All else: the server has a fault."""

    @property
    def label(self) -> str:
        """As reports write it."""
        return self.name.lower()


_BY_CODE = {
    grpc.StatusCode.OK: Outcome.OK,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Outcome.OVERLOADED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Outcome.DEADLINE,
    grpc.StatusCode.UNAVAILABLE: Outcome.UNAVAILABLE,
    grpc.StatusCode.INVALID_ARGUMENT: Outcome.INVALID,
    grpc.StatusCode.OUT_OF_RANGE: Outcome.INVALID,
    grpc.StatusCode.UNIMPLEMENTED: Outcome.INVALID,
    grpc.StatusCode.NOT_FOUND: Outcome.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED: Outcome.DENIED,
    grpc.StatusCode.PERMISSION_DENIED: Outcome.DENIED,
    grpc.StatusCode.FAILED_PRECONDITION: Outcome.LOST,
    grpc.StatusCode.CANCELLED: Outcome.CANCELLED,
}
_TOO_LARGE = "larger than max"


def of(code: grpc.StatusCode, details: str = "") -> Outcome:
    """What a status means. A message above a size limit has the code of overload, and is an invalid one."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details:
        return Outcome.INVALID
    return _BY_CODE.get(code, Outcome.FAILED)
