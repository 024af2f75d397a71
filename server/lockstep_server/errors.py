"""Why a request can fail, as error codes. Imports nothing from the server.

bytes -> tensors -> ids -> queue -> run -> answer: each arrow has its error codes below, and
`api/status.py` maps every code to a gRPC status.
"""

from __future__ import annotations

import secrets
from enum import Enum

from .durations import bounded_s

_MAX_CHARS = 400
"""Longest message or name in an error, in characters."""


class ErrorCode(Enum):
    """Why a request ended without an answer."""

    BAD_INPUT = "bad_input"  # never valid: shape, dtype, bytes, text, ids
    NOT_FOUND = "not_found"  # no such model or version, or one that failed to load
    OVERLOADED = "overloaded"  # the wait would be too long: retry later
    QUOTA = "quota"  # the caller has reached a limit of its own: retry later
    DEADLINE = "deadline"  # passed while waiting, or between two steps
    UNAVAILABLE = "unavailable"  # loading, unloading, draining
    SEQUENCE_LOST = "sequence_lost"  # unknown here, evicted, or used after its end
    REFUSED_STATE = "refused_state"  # a sequence's state cannot be given, or is of another model
    UNAUTHENTICATED = "unauthenticated"
    DENIED = "denied"
    CANCELLED = "cancelled"  # by its caller
    UNIMPLEMENTED = "unimplemented"
    FAILED = "failed"  # a run failed: the fault of the server


class ServingError(Exception):
    """A request ended without an answer.

    Plain data that can be pickled, so it can cross the process boundary.

    Args:
        field: the request field that is wrong, if any.
        resource: the model or version that was not found, if any.
        retry_after_s: after how many seconds a rejected request may be retried.
        moved_to: address of the server that has the sequence now, if another one has it.
        sequence: the id by which that server goes on with it, if its caller does not know it.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        field: str = "",
        resource: str = "",
        retry_after_s: float | None = None,
        moved_to: str = "",
        sequence: str = "",
    ) -> None:
        self.code = code
        self.message = _truncated(message)
        self.field = _truncated(field)
        self.resource = _truncated(resource)
        super().__init__(self.message)
        self.retry_after_s = None if retry_after_s is None else bounded_s(retry_after_s)
        self.moved_to, self.sequence = moved_to, sequence

    @property
    def plain(self) -> tuple[str, str, str, str, float | None, str, str]:
        """All that it holds, for `of_plain`."""
        return (
            self.code.value, self.message, self.field, self.resource, self.retry_after_s, self.moved_to,
            self.sequence,
        )  # fmt: skip

    @classmethod
    def of_plain(
        cls,
        code: str,
        message: str,
        field: str,
        resource: str,
        retry_after_s: float | None,
        moved_to: str,
        sequence: str,
    ) -> ServingError:
        return ServingError(
            ErrorCode(code),
            message,
            field=field,
            resource=resource,
            retry_after_s=retry_after_s,
            moved_to=moved_to,
            sequence=sequence,
        )

    def __reduce__(self) -> tuple[object, ...]:
        return ServingError.of_plain, self.plain


def _truncated(text: str) -> str:
    # An error may quote the request, but gRPC metadata is limited to 8 KiB in total.
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}…"


def in_field(error: ServingError, field: str) -> ServingError:
    """Return a BAD_INPUT error that names the request field instead of the tensor made from it."""
    if not field or error.code is not ErrorCode.BAD_INPUT:
        return error
    return bad_input(field, error.message.removeprefix(f"{error.field}: "))


def bad_input(field: str, why: str) -> ServingError:
    """The request is invalid and must not be retried unchanged. `why` describes what to change."""
    return ServingError(ErrorCode.BAD_INPUT, f"{field}: {why}", field=field)


def not_found(resource: str, why: str) -> ServingError:
    return ServingError(ErrorCode.NOT_FOUND, why, resource=resource)


def overloaded(why: str, retry_after_s: float) -> ServingError:
    return ServingError(ErrorCode.OVERLOADED, why, retry_after_s=retry_after_s)


def quota_exceeded(why: str, retry_after_s: float) -> ServingError:
    return ServingError(ErrorCode.QUOTA, why, retry_after_s=retry_after_s)


def unavailable(why: str, retry_after_s: float = 1.0) -> ServingError:
    return ServingError(ErrorCode.UNAVAILABLE, why, retry_after_s=retry_after_s)


def moved(address: str, sequence: str = "") -> ServingError:
    """The sequence of a request is on another server, and the request has not run."""
    why = f"the sequence was moved to {address}; go on there"
    return ServingError(ErrorCode.UNAVAILABLE, why, retry_after_s=0.05, moved_to=address, sequence=sequence)


def deadline_passed(where: str) -> ServingError:
    return ServingError(ErrorCode.DEADLINE, f"the deadline passed {where}")


def failed(model: str) -> ServingError:
    """A server failure. The message has a log id to look up in the log, and no internal details."""
    log_id = secrets.token_hex(4)
    return ServingError(ErrorCode.FAILED, f"model {model} failed on this request (log id {log_id})")


class RunTooLong(ServingError):
    """A run was ended because it took longer than `max_run_s`."""

    def __init__(self, model: str, max_run_s: float) -> None:
        why = f"model {model}: the run took longer than {max_run_s:g} s (max_run_s) and was ended"
        super().__init__(ErrorCode.FAILED, why)


class LoadError(Exception):
    """A model or the server cannot be started. The message names the file, the key and the remedy.

    Args:
        detail: text of a library, for the log and for operators. `message` is without it.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(f"{message} ({detail})" if detail else message)
        self.message = message
