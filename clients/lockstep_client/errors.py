"""What went wrong, by meaning: one exception class for each, one table from gRPC's codes.

grpc.RpcError → status code → the class; the server's google.rpc details → its attributes. Some are raised
before anything is sent, where a request cannot be written at all. Every message names what is wrong and,
where there is one, the remedy.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

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
    """One thing wrong with a request: the field, and why."""

    field: str
    description: str


class LockstepError(Exception):
    """A call that has no answer. The message is fit to show to a person."""

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
        """The fields that are wrong, where the server named them."""
        self.resource = resource
        """The model that is not there, where the server named it."""
        self.retry_after_s = retry_after_s
        """When to try again, where the server said so."""


class InvalidRequest(LockstepError, ValueError):
    """The request is wrong: shape, type, bytes, text or ids. `violations` names the fields. Never retry."""

    meaning = "invalid_request"
    code = "INVALID_ARGUMENT"


class ModelNotFound(LockstepError, LookupError):
    """The server has no model, or no version, of this name."""

    meaning = "model_not_found"
    code = "NOT_FOUND"


class Overloaded(LockstepError):
    """Refused at the door: the wait would be too long. Try again after `retry_after_s`."""

    meaning = "overloaded"
    code = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(LockstepError, TimeoutError):
    """No answer within the call's `timeout_s`, or the server let go of it when it passed."""

    meaning = "deadline_exceeded"
    code = "DEADLINE_EXCEEDED"


class Unavailable(LockstepError):
    """The model loads or unloads, the server drains, or the connection broke. Try again soon."""

    meaning = "unavailable"
    code = "UNAVAILABLE"


class Unreachable(Unavailable):
    """No connection: nothing listens at the address, or its name is not known."""

    meaning = "unreachable"


class SequenceLost(LockstepError):
    """A sequence that was evicted, or used after its end. Start a new one."""

    meaning = "sequence_lost"
    code = "FAILED_PRECONDITION"


class Unauthenticated(LockstepError):
    """The server wants a token, or does not accept this one."""

    meaning = "unauthenticated"
    code = "UNAUTHENTICATED"


class Denied(LockstepError):
    """The token is good, but not for this call."""

    meaning = "denied"
    code = "PERMISSION_DENIED"


class Cancelled(LockstepError):
    """The call was given up, by this side or the other."""

    meaning = "cancelled"
    code = "CANCELLED"


class Unsupported(LockstepError):
    """The server, or the model, has no such call."""

    meaning = "unsupported"
    code = "UNIMPLEMENTED"


class ServerFailure(LockstepError):
    """The server failed; its message holds a log id, where it is a Lockstep server."""

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
    # The server's words, where they are not ours.
    "bad_input": InvalidRequest,
    "not_found": ModelNotFound,
    "deadline": DeadlineExceeded,
    "unimplemented": Unsupported,
    **{kind.meaning: kind for kind in _TABLE.values()},
}
_NO_CONNECTION = ("failed to connect", "errors resolving", "dns resolution failed", "name resolution failure")
_TOO_LARGE = "larger than max"
# What grpc.aio makes of any end that meets a stream while a message of it is being written.
_CUT_SHORT = "Internal error from Core"
_TOO_LATE = "Deadline Exceeded"


def from_rpc(
    error: grpc.RpcError, address: str, timeout_s: float | None, awaited: str = "answer"
) -> LockstepError:
    """The exception that a failed call means; `awaited` is what the call's deadline was for."""
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


def from_code(
    code: int,
    message: str,
    *,
    field: str = "",
    resource: str = "",
    retry_after_s: float | None = None,
) -> LockstepError:
    """The exception of one of many, told in a message of its stream by the number of its status code."""
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
    """The exception of an error that ModelStreamInfer told: a Lockstep server begins it with the meaning."""
    meaning, colon, message = text.partition(": ")
    kind = _BY_MEANING.get(meaning) if colon else None
    return kind(message) if kind else ServerFailure(text or "the server failed and did not say why")


def _meaning(code: grpc.StatusCode, text: str) -> type[LockstepError]:
    if code is grpc.StatusCode.UNAVAILABLE and text.lower().startswith(_NO_CONNECTION):
        return Unreachable
    if code is grpc.StatusCode.INTERNAL and text == _CUT_SHORT:
        return Unavailable
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in text:
        return InvalidRequest
    return _TABLE.get(code, ServerFailure)


def _message(
    code: grpc.StatusCode, text: str, violations: tuple[Violation, ...], address: str, too_late: str
) -> str:
    if _meaning(code, text) is Unreachable:
        return f"no server at {address}: is it running, and is the address right? ({text})"
    if text == _CUT_SHORT:
        return f"the stream to {address} broke while it was written to"
    if _TOO_LARGE in text:
        return f"{text}: send fewer rows in a call, or raise max_message_bytes on both sides"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and (not text or _TOO_LATE in text):
        return f"{too_late}: allow more time with timeout_s"
    missing = [f"{v.field}: {v.description}" for v in violations if v.description not in text]
    return "; ".join(filter(None, [text, *missing])) or f"{address}: {_first_sentence(_meaning(code, text))}"


def _first_sentence(error: type[LockstepError]) -> str:
    """What the class means, for a server that sent a bare code."""
    sentence = " ".join((error.__doc__ or error.__name__).split()).split(". ")[0].rstrip(".")
    return sentence[0].lower() + sentence[1:]


def _status(error: grpc.RpcError) -> Status | None:
    """The server's google.rpc.Status; None where there is none, or it contradicts the call's own."""
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
    trailers: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    for key, value in trailers:
        if key == "grpc-retry-pushback-ms":
            with suppress(ValueError):
                return max(0.0, float(value) / 1e3)
    return None
