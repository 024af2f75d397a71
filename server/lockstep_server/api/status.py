"""Converts errors to gRPC statuses with google.rpc details: the only table from error codes to statuses."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from ..errors import ErrorCode, ServingError

if TYPE_CHECKING:
    from google.protobuf.message import Message

Context = Any  # grpc.aio.ServicerContext, generic in its messages

CODES: dict[ErrorCode, grpc.StatusCode] = {
    ErrorCode.BAD_INPUT: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    # Never UNAVAILABLE: clients retry it by default, which would make an overload worse.
    ErrorCode.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.QUOTA: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorCode.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.SEQUENCE_LOST: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.REFUSED_STATE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorCode.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.CANCELLED: grpc.StatusCode.CANCELLED,
    ErrorCode.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    ErrorCode.FAILED: grpc.StatusCode.INTERNAL,
}


def _details(error: ServingError) -> list[Message]:
    """google.rpc details but the retry delay: BadRequest (field), ResourceInfo (missing model)."""
    found: list[Message] = []
    if error.field:
        why = error.message.removeprefix(f"{error.field}: ")
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=why)
        found.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.resource:
        found.append(
            error_details_pb2.ResourceInfo(
                resource_type="model", resource_name=error.resource, description=error.message
            )
        )
    return found


def trailers(error: ServingError, remaining_s: float | None) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata: status details, the retry pushback in ms (-1: the deadline comes first), and where a
    sequence that was moved is."""
    code = CODES[error.code].value[0]
    status: bytes = status_pb2.Status(code=code, message=error.message).SerializeToString()
    status += b"".join(_packed(detail) for detail in _details(error))
    more: tuple[tuple[str, str], ...] = ()
    if error.moved_to:
        more = (("lockstep-moved-to", error.moved_to),)
        more += (("lockstep-sequence", error.sequence),) if error.sequence else ()
    if error.retry_after_s is None:
        return (("grpc-status-details-bin", status), *more)
    fits = remaining_s is None or error.retry_after_s < remaining_s
    retry_ms = round(error.retry_after_s * 1000)
    pushback = str(retry_ms) if fits else "-1"
    return (
        ("grpc-status-details-bin", status + _retry_info(retry_ms)),
        ("grpc-retry-pushback-ms", pushback),
        *more,
    )


def _packed(detail: Message) -> bytes:
    """A detail as a field of `google.rpc.Status`."""
    wrapped = any_pb2.Any()
    wrapped.Pack(detail)
    packed: bytes = status_pb2.Status(details=[wrapped]).SerializeToString()
    return packed


@lru_cache(4096)
def _retry_info(retry_ms: int) -> bytes:
    """Overloaded servers refuse many calls with few different times."""
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(retry_ms)
    return _packed(error_details_pb2.RetryInfo(retry_delay=delay))


async def abort(context: grpc.aio.ServicerContext, error: ServingError) -> NoReturn:  # type: ignore[type-arg]
    """End the call with the error's status. Always raises."""
    try:
        await context.abort(CODES[error.code], error.message, trailers(error, context.time_remaining()))
    except grpc.aio.InternalError:  # the call has ended meanwhile; gRPC would log a traceback
        raise asyncio.CancelledError from None
    raise AssertionError("abort raises")
