"""Converts errors to gRPC statuses with google.rpc details: the only table from error codes to statuses."""

from __future__ import annotations

import asyncio
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
    ErrorCode.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorCode.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.SEQUENCE_LOST: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorCode.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.CANCELLED: grpc.StatusCode.CANCELLED,
    ErrorCode.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    ErrorCode.FAILED: grpc.StatusCode.INTERNAL,
}


def details(error: ServingError) -> list[Message]:
    """google.rpc details: BadRequest (field), ResourceInfo (missing model), RetryInfo (retry delay)."""
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
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        found.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return found


def trailers(error: ServingError, remaining_s: float | None) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata: status details, and the retry pushback in ms (-1: the deadline comes first)."""
    packed = []
    for detail in details(error):
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        packed.append(wrapped)
    code = CODES[error.code].value[0]
    status = status_pb2.Status(code=code, message=error.message, details=packed)
    found: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    if error.retry_after_s is not None:
        fits = remaining_s is None or error.retry_after_s < remaining_s
        found.append(("grpc-retry-pushback-ms", str(round(error.retry_after_s * 1000)) if fits else "-1"))
    return tuple(found)


async def abort(context: grpc.aio.ServicerContext, error: ServingError) -> NoReturn:  # type: ignore[type-arg]
    """End the call with the error's status. Always raises."""
    try:
        await context.abort(CODES[error.code], error.message, trailers(error, context.time_remaining()))
    except grpc.aio.InternalError:  # the call has ended meanwhile; gRPC would log a traceback
        raise asyncio.CancelledError from None
    raise AssertionError("abort raises")
