"""How a request ended. Failures are results: they are counted by cause and never dropped."""

from __future__ import annotations

from enum import IntEnum

import grpc


class RequestOutcome(IntEnum):
    """The outcome of one request that was sent."""

    OK = 0
    OVERLOADED = 1
    """Rejected by admission control (RESOURCE_EXHAUSTED)."""
    DEADLINE = 2
    """No answer within the timeout."""
    UNAVAILABLE = 3
    """No connection, the server is shutting down, or the model is loading."""
    INVALID = 4
    """The request is invalid."""
    NOT_FOUND = 5
    """Unknown model."""
    DENIED = 6
    """Not authenticated or not permitted."""
    LOST = 7
    """The server dropped the sequence (FAILED_PRECONDITION)."""
    CANCELLED = 8
    """Cancelled by an interrupted run, or by the server."""
    FAILED = 9
    """Any other error: a server failure."""

    @property
    def label(self) -> str:
        """The name in reports."""
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
    """The outcome for a gRPC status.

    gRPC also reports a message above the size limit as RESOURCE_EXHAUSTED; that is INVALID, not OVERLOADED.
    """
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details:
        return RequestOutcome.INVALID
    return _BY_CODE.get(code, RequestOutcome.FAILED)
