"""Conversion of gRPC statuses to exceptions."""

from __future__ import annotations

import pickle

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

import lockstep_client as lc

CODES = grpc.StatusCode


@pytest.fixture
def client(server):
    with lc.Client(server.address, retries=0) as client:
        yield client


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (CODES.INVALID_ARGUMENT, lc.InvalidRequest),
        (CODES.OUT_OF_RANGE, lc.InvalidRequest),
        (CODES.NOT_FOUND, lc.ModelNotFound),
        (CODES.RESOURCE_EXHAUSTED, lc.Overloaded),
        (CODES.DEADLINE_EXCEEDED, lc.DeadlineExceeded),
        (CODES.UNAVAILABLE, lc.Unavailable),
        (CODES.FAILED_PRECONDITION, lc.SequenceLost),
        (CODES.UNAUTHENTICATED, lc.Unauthenticated),
        (CODES.PERMISSION_DENIED, lc.Denied),
        (CODES.CANCELLED, lc.Cancelled),
        (CODES.UNIMPLEMENTED, lc.Unsupported),
        (CODES.INTERNAL, lc.ServerFailure),
        (CODES.UNKNOWN, lc.ServerFailure),
        (CODES.DATA_LOSS, lc.ServerFailure),
    ],
)
def test_each_code_has_its_exception(server, client, failure, code, error):
    server.failures.append(failure(code, "what happened: what to do"))
    with pytest.raises(lc.LockstepError) as caught:
        client.classify("sentiment", "good")
    assert type(caught.value) is error
    assert caught.value.code == code.name
    assert str(caught.value) == "what happened: what to do"


def test_a_stream_that_a_balancer_ended_without_a_status_is_unavailable(server, client, failure):
    server.failures.append(
        failure(CODES.UNKNOWN, "Stream removed (Data frame with END_STREAM flag received)")
    )
    with pytest.raises(lc.Unavailable, match="ended without a status: the connection to the server broke"):
        client.classify("sentiment", "good")


def test_violations_have_their_fields(server, client, failure):
    wrong = error_details_pb2.BadRequest()
    wrong.field_violations.add(field="texts[1]", description="600 tokens, at most 512: shorten it")
    server.failures.append(failure(CODES.INVALID_ARGUMENT, "wrong texts", (wrong,)))
    with pytest.raises(lc.InvalidRequest) as caught:
        client.classify("sentiment", ["a", "b"])
    assert caught.value.violations == (lc.Violation("texts[1]", "600 tokens, at most 512: shorten it"),)
    assert str(caught.value) == "wrong texts; texts[1]: 600 tokens, at most 512: shorten it"


def test_a_missing_model_is_named(client):
    with pytest.raises(lc.ModelNotFound) as caught:
        client.classify("sentinent", "good")
    assert caught.value.resource == "sentinent"


def test_retry_info_and_pushback_set_retry_after_s(server, client, failure):
    later = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    pushback = (("grpc-retry-pushback-ms", "250"),)
    server.failures += [
        failure(CODES.RESOURCE_EXHAUSTED, "full", (later,), pushback),
        failure(CODES.RESOURCE_EXHAUSTED, "full", (), pushback),
        failure(CODES.RESOURCE_EXHAUSTED, "full"),
    ]
    waits = []
    for _ in range(3):
        with pytest.raises(lc.Overloaded) as caught:
            client.classify("sentiment", "good")
        waits.append(caught.value.retry_after_s)
    assert waits == [1.5, 0.25, None]


def test_a_status_without_a_message_gets_a_description(server, client, failure):
    server.failures.append(failure(CODES.NOT_FOUND, ""))
    with pytest.raises(lc.ModelNotFound) as caught:
        client.health("nothing")
    assert str(caught.value) == f"{server.address}: the server has no model, or no version, of this name"


def test_an_undecodable_detail_does_not_hide_the_error(server, client, failure):
    class Torn:
        DESCRIPTOR = error_details_pb2.BadRequest.DESCRIPTOR

        def SerializeToString(self, deterministic=None):
            return b"\xff\xff"

    server.failures.append(failure(CODES.INVALID_ARGUMENT, "wrong", (Torn(),)))
    with pytest.raises(lc.InvalidRequest, match="wrong") as caught:
        client.classify("sentiment", "good")
    assert caught.value.violations == ()


def test_no_server_is_unreachable_and_names_the_address(nowhere):
    with (
        lc.Client(nowhere, retries=0) as client,
        pytest.raises(lc.Unreachable, match=f"no server at {nowhere}"),
    ):
        client.models()


def test_an_unknown_host_is_unreachable():
    with lc.Client("nohost.invalid:1", retries=0) as client, pytest.raises(lc.Unreachable, match="nohost"):
        client.models()


def test_a_request_above_the_servers_limit_is_invalid(server, client):
    with pytest.raises(lc.InvalidRequest, match="send fewer rows"):
        client.classify("sentiment", "x" * (2 << 20))


def test_a_request_above_the_clients_limit_is_not_sent(server):
    with lc.Client(server.address, max_message_bytes=100) as client:
        with pytest.raises(lc.InvalidRequest, match="above the limit of 100"):
            client.classify("sentiment", "x" * 200)
        assert server.requests == []


def test_errors_derive_from_similar_builtin_ones():
    assert issubclass(lc.InvalidRequest, ValueError)
    assert issubclass(lc.DeadlineExceeded, TimeoutError)
    assert issubclass(lc.ModelNotFound, LookupError)


@pytest.mark.parametrize("error", [lc.Overloaded, lc.DeadlineExceeded, lc.InvalidRequest])
def test_errors_can_be_pickled(error):
    back = pickle.loads(pickle.dumps(error("m", code="X", retry_after_s=2.0)))
    assert (str(back), back.code, back.retry_after_s) == ("m", "X", 2.0)
