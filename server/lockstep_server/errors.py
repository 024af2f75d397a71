"""What can go wrong with a request, by meaning. Imports nothing of the server.

bytes -> tensors -> ids -> a place in the queue -> a run -> an answer: each arrow has its meanings
below, and `rpc/status.py` holds the one table that turns a meaning into a gRPC status.
"""

from __future__ import annotations

import secrets
from enum import Enum

_LONGEST_TOLD = 400
"""Characters of a message or a name that a caller is told."""


class ErrorCode(Enum):
    """Why a request has no answer."""

    BAD_INPUT = "bad_input"  # never valid: shape, dtype, bytes, text, ids
    NOT_FOUND = "not_found"  # no such model or version, or one that failed to load
    OVERLOADED = "overloaded"  # the wait would be too long: come back later
    DEADLINE = "deadline"  # passed while waiting, or between two steps
    UNAVAILABLE = "unavailable"  # loading, unloading, draining
    SEQUENCE_LOST = "sequence_lost"  # evicted, or used after its end
    UNAUTHENTICATED = "unauthenticated"
    DENIED = "denied"
    CANCELLED = "cancelled"  # by its caller
    UNIMPLEMENTED = "unimplemented"
    FAILED = "failed"  # our fault: a session failed


class ServingError(Exception):
    """A request that ends without an answer.

    Plain data, so that it crosses a process boundary. `field` names what in the request is wrong,
    `resource` what is not there, `retry_after_s` when a refused call may come back.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        field: str = "",
        resource: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        self.code = code
        self.message = _short(message)
        self.field = _short(field)
        self.resource = _short(resource)
        super().__init__(self.message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.code, self.message, self.field, self.resource, self.retry_after_s)


def _short(text: str) -> str:
    """What a caller sent may be echoed, but gRPC's metadata holds 8 KiB in all."""
    return text if len(text) <= _LONGEST_TOLD else f"{text[:_LONGEST_TOLD]}…"


def _rebuild(
    code: ErrorCode, message: str, field: str, resource: str, retry_after_s: float | None
) -> ServingError:
    return ServingError(code, message, field=field, resource=resource, retry_after_s=retry_after_s)


def in_field(error: ServingError, field: str) -> ServingError:
    """A BAD_INPUT told of the field that the caller wrote, rather than of the tensor it became."""
    if not field or error.code is not ErrorCode.BAD_INPUT:
        return error
    return bad_input(field, error.message.removeprefix(f"{error.field}: "))


def bad_input(field: str, why: str) -> ServingError:
    """The request can never be answered as it stands; `why` says what to change."""
    return ServingError(ErrorCode.BAD_INPUT, f"{field}: {why}", field=field)


def not_found(resource: str, why: str) -> ServingError:
    return ServingError(ErrorCode.NOT_FOUND, why, resource=resource)


def overloaded(why: str, retry_after_s: float) -> ServingError:
    return ServingError(ErrorCode.OVERLOADED, why, retry_after_s=retry_after_s)


def unavailable(why: str, retry_after_s: float = 1.0) -> ServingError:
    return ServingError(ErrorCode.UNAVAILABLE, why, retry_after_s=retry_after_s)


def deadline_passed(where: str) -> ServingError:
    return ServingError(ErrorCode.DEADLINE, f"the deadline passed {where}")


def failed(model: str) -> ServingError:
    """What callers are told of a failure that is ours: where to find it in the log, no internals."""
    log_id = secrets.token_hex(4)
    return ServingError(ErrorCode.FAILED, f"model {model} failed on this request (log id {log_id})")


class LoadError(Exception):
    """A model that cannot be served; the message names file, key and remedy."""
