"""How a request ended. A refusal is data: it is counted by its meaning, never left out."""

from __future__ import annotations

from enum import IntEnum

import grpc


class RequestOutcome(IntEnum):
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
    grpc.StatusCode.OK: RequestOutcome.OK,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RequestOutcome.OVERLOADED,
    grpc.StatusCode.DEADLINE_EXCEEDED: RequestOutcome.DEADLINE,
    grpc.StatusCode.UNAVAILABLE: RequestOutcome.UNAVAILABLE,
    grpc.StatusCode.INVALID_ARGUMENT: RequestOutcome.INVALID,
    grpc.StatusCode.OUT_OF_RANGE: RequestOutcome.INVALID,
    grpc.StatusCode.UNIMPLEMENTED: RequestOutcome.INVALID,
    grpc.StatusCode.NOT_FOUND: RequestOutcome.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED: RequestOutcome.DENIED,
    grpc.StatusCode.PERMISSION_DENIED: RequestOutcome.DENIED,
    grpc.StatusCode.FAILED_PRECONDITION: RequestOutcome.LOST,
    grpc.StatusCode.CANCELLED: RequestOutcome.CANCELLED,
}
_TOO_LARGE = "larger than max"


def outcome_of(code: grpc.StatusCode, details: str = "") -> RequestOutcome:
    """What a status means. A message above a size limit has the code of overload, and is an invalid one."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details:
        return RequestOutcome.INVALID
    return _BY_CODE.get(code, RequestOutcome.FAILED)
