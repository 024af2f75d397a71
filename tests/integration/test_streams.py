"""ModelStreamInfer: many requests in flight on one stream, each answered once."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

import fakes
import pytest
from integration.harness import Served, serve
from patience import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    fakes.write_model(root, "same", fakes.identity())
    fakes.write_model(root, "fragile", fakes.fragile())
    with serve(root, max_stream_inflight=16) as running:
        yield running


class Stream:
    """A stream to which a test writes requests at any time."""

    def __init__(self, server: Served) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.replies = server.inference.ModelStreamInfer(iter(self._requests.get, None), timeout=PATIENCE_S)

    def send(self, *requests: Any) -> None:
        for one in requests:
            self._requests.put(one)

    def end(self) -> None:
        self._requests.put(None)


def numbered(i: int) -> Any:
    return fakes.floats("same", [[i]], request_id=str(i))


def test_requests_on_a_stream_share_runs(server: Served) -> None:
    stream = Stream(server)
    with server.hold():
        stream.send(*(numbered(i) for i in range(8)))
        server.wait_waiting("same", 8)
    replies = [next(stream.replies) for _ in range(8)]
    assert {r.infer_response.id: fakes.values(r.infer_response, "y").item() for r in replies} == {
        str(i): i for i in range(8)
    }
    assert {r.infer_response.parameters["batch_rows"].double_param for r in replies} == {8}
    stream.end()
    assert list(stream.replies) == []
    server.wait_idle()


def test_requests_beyond_the_in_flight_limit_are_all_answered(server: Served) -> None:
    replies = list(server.inference.ModelStreamInfer((numbered(i) for i in range(200)), timeout=PATIENCE_S))
    assert sorted(int(r.infer_response.id) for r in replies) == list(range(200))
    server.wait_idle()


def test_a_stream_is_not_read_beyond_the_in_flight_limit(server: Served) -> None:
    stream = Stream(server)
    with server.hold():
        stream.send(*(numbered(i) for i in range(40)))
        server.wait_waiting("same", 16)
        for _ in range(20):  # round trips through the event loop, so the stream could have been read further
            assert server.serving()
        assert server.waiting("same") == 16
    stream.end()
    assert len(list(stream.replies)) == 40


def test_an_error_fails_its_request_and_the_stream_continues(server: Served) -> None:
    requests = [
        numbered(1),
        fakes.floats("nobody", [[1]], request_id="unknown"),
        fakes.request("fragile", {"x": ("INT64", [99])}, request_id="broken"),
        numbered(2),
    ]
    replies = {
        r.infer_response.id: r for r in server.inference.ModelStreamInfer(iter(requests), timeout=PATIENCE_S)
    }
    assert set(replies) == {"1", "2", "unknown", "broken"}
    assert "unknown model 'nobody'" in replies["unknown"].error_message
    assert replies["broken"].error_message
    assert not replies["1"].error_message
    assert fakes.values(replies["2"].infer_response, "y").item() == 2
    server.wait_idle()


def test_a_cancelled_stream_leaves_nothing_and_affects_no_other_request(server: Served) -> None:
    stream = Stream(server)
    with server.hold():
        stream.send(*(numbered(i) for i in range(5)))
        server.wait_waiting("same", 5)
        other = server.inference.ModelInfer.future(numbered(7), timeout=PATIENCE_S)
        server.wait_waiting("same", 6)
        stream.replies.cancel()
        wait_until(lambda: len(server.app.requests) == 1, "the cancel arrived")
    stream.end()
    assert fakes.values(other.result(), "y").item() == 7
    server.wait_idle()


def test_a_half_closed_stream_gets_all_its_answers(server: Served) -> None:
    with server.hold():
        replies = server.inference.ModelStreamInfer(iter([numbered(1), numbered(2)]), timeout=PATIENCE_S)
        server.wait_waiting("same", 2)
    assert len(list(replies)) == 2


def test_an_empty_stream_ends_without_an_error(server: Served) -> None:
    assert list(server.inference.ModelStreamInfer(iter([]), timeout=PATIENCE_S)) == []


def test_triton_final_response_is_never_false(server: Served) -> None:
    """A missing flag means true; with false, clients would wait for more responses."""
    (reply,) = server.inference.ModelStreamInfer(iter([numbered(1)]), timeout=PATIENCE_S)
    parameters = reply.infer_response.parameters
    assert "triton_final_response" not in parameters or parameters["triton_final_response"].bool_param


def test_the_messages_of_a_stream_are_counted(server: Served) -> None:
    labels = {"grpc_method": "ModelStreamInfer"}
    received = server.metric("grpc_server_msg_received_total", **labels)
    sent = server.metric("grpc_server_msg_sent_total", **labels)
    ended = server.metric("grpc_server_handled_total", **labels, grpc_code="OK")
    assert (
        len(list(server.inference.ModelStreamInfer((numbered(i) for i in range(3)), timeout=PATIENCE_S))) == 3
    )
    wait_until(
        lambda: server.metric("grpc_server_handled_total", **labels, grpc_code="OK") == ended + 1,
        "it was counted",
    )
    assert server.metric("grpc_server_msg_sent_total", **labels) == sent + 3
    assert server.metric("grpc_server_msg_received_total", **labels) == received + 3
