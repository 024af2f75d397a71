"""The client's exceptions: one class per kind of failure, and one table from gRPC status codes to them.

grpc.RpcError → status code → exception class; the server's google.rpc details → its attributes. Invalid
arguments raise InvalidRequest before anything is sent. Messages state the problem and, if possible, the fix.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2  # type: ignore[import-untyped, unused-ignore]
from grpc_status import rpc_status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.rpc.status_pb2 import Status  # type: ignore[import-untyped, unused-ignore]

_Detail = TypeVar("_Detail", bound=Message)


@dataclass(frozen=True)
class Violation:
    """One invalid field of a request, and why it is invalid."""

    field: str
    description: str


class LockstepError(Exception):
    """The base class of all failed calls. The message is written for end users."""

    meaning: ClassVar[str] = "failure"
    code: str = "UNKNOWN"
    """The gRPC status code's name."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        violations: tuple[Violation, ...] = (),
        resource: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.violations = violations
        """The invalid fields, if known."""
        self.resource = resource
        """The name of the missing model, if known."""
        self.retry_after_s = retry_after_s
        """Seconds to wait before a retry, if the server sent a delay."""


class InvalidRequest(LockstepError, ValueError):
    """The request is invalid. `violations` names the fields. A retry fails again."""

    meaning = "invalid_request"
    code = "INVALID_ARGUMENT"


class ModelNotFound(LockstepError, LookupError):
    """The server has no model, or no version, of this name."""

    meaning = "model_not_found"
    code = "NOT_FOUND"


class Overloaded(LockstepError):
    """The server is overloaded and rejected the request on arrival. Retry after `retry_after_s`."""

    meaning = "overloaded"
    code = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(LockstepError, TimeoutError):
    """No reply within the call's deadline, `timeout_s`."""

    meaning = "deadline_exceeded"
    code = "DEADLINE_EXCEEDED"


class Unavailable(LockstepError):
    """The model is loading or unloading, the server is draining, or the connection broke. Retry later."""

    meaning = "unavailable"
    code = "UNAVAILABLE"


class Unreachable(Unavailable):
    """Cannot connect: no server listens at the address, or its host name does not resolve."""

    meaning = "unreachable"


class SequenceLost(LockstepError):
    """The sequence was evicted or has ended. Start a new one."""

    meaning = "sequence_lost"
    code = "FAILED_PRECONDITION"


class Unauthenticated(LockstepError):
    """The server requires a token, or rejects this one."""

    meaning = "unauthenticated"
    code = "UNAUTHENTICATED"


class Denied(LockstepError):
    """This call is not permitted."""

    meaning = "denied"
    code = "PERMISSION_DENIED"


class Cancelled(LockstepError):
    """The call was cancelled by the client or the server."""

    meaning = "cancelled"
    code = "CANCELLED"


class Unsupported(LockstepError):
    """The server or the model does not support this call."""

    meaning = "unsupported"
    code = "UNIMPLEMENTED"


class ServerFailure(LockstepError):
    """The server failed. The message of a Lockstep server holds the id of its log entry."""

    meaning = "server_failure"
    code = "INTERNAL"


_TABLE: dict[grpc.StatusCode, type[LockstepError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.FAILED_PRECONDITION: SequenceLost,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Denied,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
}
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_BY_MEANING: dict[str, type[LockstepError]] = {
    # Names of error codes in a Lockstep server that differ from ours.
    "bad_input": InvalidRequest,
    "not_found": ModelNotFound,
    "deadline": DeadlineExceeded,
    "unimplemented": Unsupported,
    **{kind.meaning: kind for kind in _TABLE.values()},
}
_NO_CONNECTION = ("failed to connect", "errors resolving", "dns resolution failed", "name resolution failure")
_TOO_LARGE = "larger than max"
# grpc.aio reports this if a stream ends while it writes a message.
_CUT_SHORT = "Internal error from Core"
# gRPC says so of a call without a status: a balancer lost its server, or was closed itself.
_REMOVED = "Stream removed"
_TOO_LATE = "Deadline Exceeded"

MOVED_TO, MOVED_SEQUENCE = "lockstep-moved-to", "lockstep-sequence"
"""Trailing metadata of a server that stops and has moved a sequence: the address of the other server, and
the id that a stream goes on with there."""


def from_rpc(
    error: grpc.RpcError, address: str, timeout_s: float | None, awaited: str = "answer"
) -> LockstepError:
    """The exception for a failed call. `awaited` names what did not arrive before the deadline."""
    code, text = error.code(), error.details() or ""
    status = _status(error)
    violations = _violations(status)
    return _meaning(code, text)(
        _message(code, text, violations, address, f"no {awaited} from {address} within {timeout_s or 0:g} s"),
        code=code.name,
        violations=violations,
        resource=_resource(status),
        retry_after_s=_retry_after_s(status, error),
    )


def is_unavailable(error: grpc.RpcError) -> bool:
    """Whether the server was lost, stops, or loads the model."""
    return issubclass(_meaning(error.code(), error.details() or ""), Unavailable)


def is_unreachable(error: grpc.RpcError) -> bool:
    """Whether no connection was made, so that the call has not been sent."""
    return _meaning(error.code(), error.details() or "") is Unreachable


def is_cut_off(error: grpc.RpcError) -> bool:
    """Whether the connection to the server broke. A status of a Lockstep server has details."""
    kind = _meaning(error.code(), error.details() or "")
    return issubclass(kind, Unavailable) and kind is not Unreachable and _status(error) is None


def is_retryable(error: grpc.RpcError) -> bool:
    """Whether another server, or a later time, may help."""
    return issubclass(_meaning(error.code(), error.details() or ""), Unavailable | Overloaded)


def is_lost(error: grpc.RpcError) -> bool:
    """Whether a sequence is lost: its server is, or does not hold it."""
    return issubclass(_meaning(error.code(), error.details() or ""), Unavailable | SequenceLost)


def is_refusal(error: grpc.RpcError) -> bool:
    """Whether the server refused the call, and a sequence is as it was before."""
    kinds = InvalidRequest | Overloaded | Unauthenticated | Denied
    return issubclass(_meaning(error.code(), error.details() or ""), kinds)


@dataclass(frozen=True)
class Moved:
    """Where a sequence has been moved to."""

    address: str
    sequence_id: str
    """Of the stream's sequence, to go on with; "" for one whose caller named it."""


def moved_to(error: grpc.RpcError) -> Moved | None:
    """Where the server has moved the sequence of a call that failed; None if it has not."""
    trailers = dict(_trailers(error))
    address = trailers.get(MOVED_TO)
    return Moved(str(address), str(trailers.get(MOVED_SEQUENCE, ""))) if address else None


def retry_after_s(error: grpc.RpcError) -> float | None:
    """After how many seconds the server asks to retry, if it does."""
    return _retry_after_s(_status(error), error)


def from_code(
    code: int,
    message: str,
    *,
    field: str = "",
    resource: str = "",
    retry_after_s: float | None = None,
) -> LockstepError:
    """The exception for one failed item of a stream, from the number of its status code."""
    known = _BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN)
    why = message.removeprefix(f"{field}: ")
    return _meaning(known, message)(
        message,
        code=known.name,
        violations=(Violation(field, why),) if field else (),
        resource=resource,
        retry_after_s=retry_after_s,
    )


def from_text(text: str) -> LockstepError:
    """The exception for an error text of ModelStreamInfer, which a Lockstep server prefixes with its code."""
    meaning, colon, message = text.partition(": ")
    kind = _BY_MEANING.get(meaning) if colon else None
    return kind(message) if kind else ServerFailure(text or "the server failed without an error message")


def is_cut_short(error: Any) -> bool:
    """Whether gRPC's own INTERNAL stands for the status of a call that ended during a write."""
    return _broke_writing(error.code(), error.details() or "")


def _broke_writing(code: grpc.StatusCode, text: str) -> bool:
    return code is grpc.StatusCode.INTERNAL and text == _CUT_SHORT


def _broke(code: grpc.StatusCode, text: str) -> bool:
    return code is grpc.StatusCode.UNKNOWN and text.startswith(_REMOVED)


def _meaning(code: grpc.StatusCode, text: str) -> type[LockstepError]:
    if code is grpc.StatusCode.UNAVAILABLE and text.lower().startswith(_NO_CONNECTION):
        return Unreachable
    if _broke_writing(code, text) or _broke(code, text):
        return Unavailable
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in text:
        return InvalidRequest
    return _TABLE.get(code, ServerFailure)


def _message(
    code: grpc.StatusCode, text: str, violations: tuple[Violation, ...], address: str, too_late: str
) -> str:
    if _meaning(code, text) is Unreachable:
        return f"no server at {address}: check that it is running and that the address is right ({text})"
    if _broke_writing(code, text):
        return f"the stream to {address} broke during a write"
    if _broke(code, text):
        return f"the call to {address} ended without a status: the connection to the server broke ({text})"
    if _TOO_LARGE in text:
        return f"{text}: send fewer rows per call, or raise max_message_bytes and the server's limit"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and (not text or _TOO_LATE in text):
        return f"{too_late}: increase timeout_s"
    missing = [f"{v.field}: {v.description}" for v in violations if v.description not in text]
    return "; ".join(filter(None, [text, *missing])) or f"{address}: {_first_sentence(_meaning(code, text))}"


def _first_sentence(error: type[LockstepError]) -> str:
    """The first sentence of the class's docstring, for a status without a message."""
    sentence = " ".join((error.__doc__ or error.__name__).split()).split(". ")[0].rstrip(".")
    return sentence[0].lower() + sentence[1:]


def _status(error: grpc.RpcError) -> Status | None:
    """The server's google.rpc.Status; None if it is missing or contradicts the status of the call."""
    with suppress(ValueError, DecodeError):
        status: Status | None = rpc_status.from_call(error)  # type: ignore[arg-type]
        return status
    return None


def _detail(status: Status | None, kind: type[_Detail]) -> _Detail | None:
    for packed in status.details if status else ():
        detail = kind()
        with suppress(DecodeError):
            if packed.Unpack(detail):
                return detail
    return None


def _violations(status: Status | None) -> tuple[Violation, ...]:
    bad = _detail(status, error_details_pb2.BadRequest)
    return tuple(Violation(v.field, v.description) for v in bad.field_violations) if bad else ()


def _resource(status: Status | None) -> str:
    resource = _detail(status, error_details_pb2.ResourceInfo)
    return resource.resource_name if resource else ""


def _retry_after_s(status: Status | None, error: grpc.RpcError) -> float | None:
    retry = _detail(status, error_details_pb2.RetryInfo)
    if retry:
        return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    for key, value in _trailers(error):
        if key == "grpc-retry-pushback-ms":
            with suppress(ValueError):
                return max(0.0, float(value) / 1e3)
    return None


def _trailers(error: grpc.RpcError) -> Iterable[tuple[str, str | bytes]]:
    return error.trailing_metadata() or ()  # type: ignore[return-value]
