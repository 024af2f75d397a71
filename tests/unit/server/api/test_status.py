"""Error codes map to gRPC statuses with details and trailers."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from lockstep_server.api import status
from lockstep_server.errors import ErrorCode, ServingError, bad_input, not_found, overloaded


def test_every_error_code_has_a_status() -> None:
    assert set(status.CODES) == set(ErrorCode)


def test_overload_is_never_unavailable() -> None:
    assert status.CODES[ErrorCode.OVERLOADED] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_details_name_the_field_the_resource_and_the_retry_delay() -> None:
    (bad,) = status.details(bad_input("x", "why"))
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [("x", "why")]
    (missing,) = status.details(not_found("m/1", "why"))
    assert isinstance(missing, error_details_pb2.ResourceInfo)
    assert missing.resource_name == "m/1"
    (retry,) = status.details(overloaded("why", 0.25))
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 250
    assert status.details(ServingError(ErrorCode.FAILED, "why")) == []


@pytest.mark.parametrize(("remaining_s", "pushback"), [(None, "250"), (1.0, "250"), (0.1, "-1")])
def test_pushback_is_minus_one_if_the_deadline_is_earlier(remaining_s: float | None, pushback: str) -> None:
    assert dict(status.trailers(overloaded("why", 0.25), remaining_s))["grpc-retry-pushback-ms"] == pushback


@pytest.mark.parametrize("code", ErrorCode)
def test_trailers_have_the_code_and_message_of_the_error(code: ErrorCode) -> None:
    content = dict(status.trailers(ServingError(code, "naïve", field="x"), None))["grpc-status-details-bin"]
    assert isinstance(content, bytes)
    decoded = status_pb2.Status.FromString(content)
    assert (decoded.code, decoded.message) == (status.CODES[code].value[0], "naïve")
    assert decoded.details[0].TypeName() == error_details_pb2.BadRequest.DESCRIPTOR.full_name
