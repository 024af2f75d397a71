"""Error codes map to gRPC statuses with details and trailers."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from lockstep_server.api import status
from lockstep_server.errors import ErrorCode, ServingError, bad_input, not_found, overloaded


def test_every_error_code_has_a_status() -> None:
    assert set(status.CODES) == set(ErrorCode)


def test_overload_is_never_unavailable() -> None:
    assert status.CODES[ErrorCode.OVERLOADED] is grpc.StatusCode.RESOURCE_EXHAUSTED


def _status(error: ServingError) -> status_pb2.Status:
    content = dict(status.trailers(error, None))["grpc-status-details-bin"]
    assert isinstance(content, bytes)
    return status_pb2.Status.FromString(content)


def _detail(error: ServingError, kind: Any) -> Any:
    (packed,) = _status(error).details
    found = kind()
    assert packed.Unpack(found)
    return found


def test_details_name_the_field_the_resource_and_the_retry_delay() -> None:
    bad = _detail(bad_input("x", "why"), error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [("x", "why")]
    assert _detail(not_found("m/1", "why"), error_details_pb2.ResourceInfo).resource_name == "m/1"
    retry = _detail(overloaded("why", 0.25), error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 250
    assert not _status(ServingError(ErrorCode.FAILED, "why")).details


@pytest.mark.parametrize(("remaining_s", "pushback"), [(None, "250"), (1.0, "250"), (0.1, "-1")])
def test_pushback_is_minus_one_if_the_deadline_is_earlier(remaining_s: float | None, pushback: str) -> None:
    assert dict(status.trailers(overloaded("why", 0.25), remaining_s))["grpc-retry-pushback-ms"] == pushback


@pytest.mark.parametrize("code", ErrorCode)
def test_trailers_have_the_code_and_message_of_the_error(code: ErrorCode) -> None:
    decoded = _status(ServingError(code, "naïve", field="x"))
    assert (decoded.code, decoded.message) == (status.CODES[code].value[0], "naïve")
    assert decoded.details[0].TypeName() == error_details_pb2.BadRequest.DESCRIPTOR.full_name
