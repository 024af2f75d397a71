"""Calls written and read by hand get from gRPC what a client library gets."""

from __future__ import annotations

import select
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import patience
import pytest

from bench.raw_calls import Connection, Reply, call

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = b"x" * 60_000  # two of them are more than the first window


class _Service(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        if details.method == "/s/stream":
            return grpc.unary_stream_rpc_method_handler(lambda request, _: iter([request] * 3))
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"refuse":
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "250"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if request == b"fail":
            context.abort(grpc.StatusCode.INTERNAL, "failed")
        if request == b"deadline":
            remaining_s = context.time_remaining()
            assert remaining_s is not None
            assert 0 < remaining_s < 3600
        return request


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((_Service(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    made = Connection("127.0.0.1", port)
    yield made
    made.close()
    server.stop(None)


def replies(connection: Connection, calls: int) -> list[Reply]:
    """What arrives until so many calls have ended."""
    found: list[Reply] = []

    def have_ended() -> bool:
        connection.flush()
        select.select([connection.socket], [connection.socket] if connection.has_unsent else [], [], 0.1)
        found.extend(connection.receive())
        return sum(reply.status is not None for reply in found) == calls

    patience.wait_until(have_ended, "the ends of the calls")
    return found


def test_the_status_and_whether_there_is_a_retry_time_are_read(connection: Connection) -> None:
    begun = {body: connection.begin(call("/s/unary", body)) for body in (b"refuse", b"fail", b"fine")}
    ended = {one.call: one for one in replies(connection, 3) if one.status is not None}
    assert ended[begun[b"refuse"]][1:] == (8, True)
    assert ended[begun[b"fail"]][1:] == (13, False)
    assert ended[begun[b"fine"]][1:] == (0, False)


def test_a_call_has_its_deadline(connection: Connection) -> None:
    connection.begin(call("/s/unary", b"deadline", 3600))
    assert replies(connection, 1)[-1].status == 0


def test_messages_come_before_the_end(connection: Connection) -> None:
    number = connection.begin(call("/s/stream", b"fine"))
    found = [one.status for one in replies(connection, 1) if one.call == number]
    assert found[0] is None
    assert found[-1] == 0


def test_more_than_the_window_of_a_connection_waits_for_room(connection: Connection) -> None:
    for _ in range(5):
        connection.begin(call("/s/unary", LARGE))
    assert [one.status for one in replies(connection, 5) if one.status is not None] == [0] * 5
