"""`/metrics` and `/healthz` answer while other clients are connected."""

from __future__ import annotations

import socket
import threading
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE_S
from prometheus_client import CollectorRegistry, Gauge

from lockstep_server.metrics.endpoints import Condition, HttpEndpoints

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def endpoints() -> Iterator[HttpEndpoints]:
    registry = CollectorRegistry()
    Gauge("slots", "Slots.", registry=registry).set(7)
    server = HttpEndpoints("127.0.0.1", 0, registry, lambda: Condition.READY, lambda: None)
    yield server
    stop_in_time(server)


def stop_in_time(server: HttpEndpoints) -> None:
    stopping = threading.Thread(target=server.stop, daemon=True)
    stopping.start()
    stopping.join(PATIENCE_S)
    assert not stopping.is_alive()


def read(endpoints: HttpEndpoints, path: str) -> bytes:
    # Ignore proxy settings: a proxy cannot reach ports of this machine.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://127.0.0.1:{endpoints.port}{path}", timeout=PATIENCE_S) as response:
        body: bytes = response.read()
    return body


def test_an_idle_connection_does_not_block_other_clients(endpoints: HttpEndpoints) -> None:
    with socket.create_connection(("127.0.0.1", endpoints.port)):
        assert read(endpoints, "/healthz") == b"ok\n"
        assert b"slots 7.0" in read(endpoints, "/metrics")


def test_the_server_stops_while_a_client_is_connected() -> None:
    server = HttpEndpoints("127.0.0.1", 0, None, lambda: Condition.READY, lambda: None)
    with socket.create_connection(("127.0.0.1", server.port)):
        read(server, "/healthz")
        stop_in_time(server)


@pytest.mark.parametrize("host", ["0.0.0.0", "::1", "::"])
def test_an_idle_server_stops_on_any_address_and_frees_its_port(host: str) -> None:
    server = HttpEndpoints(host, 0, None, lambda: Condition.READY, lambda: None)
    stop_in_time(server)
    assert not server._thread.is_alive()
    stop_in_time(HttpEndpoints(host, server.port, None, lambda: Condition.READY, lambda: None))


def test_an_idle_connection_is_closed_after_the_timeout(
    endpoints: HttpEndpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lockstep_server.metrics.endpoints._RequestHandler.timeout", 0.1)
    with socket.create_connection(("127.0.0.1", endpoints.port), timeout=PATIENCE_S) as idle:
        assert idle.recv(1) == b""


def test_a_burst_of_connections_is_accepted(
    endpoints: HttpEndpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, go_on = threading.Event(), threading.Event()
    process_request = type(endpoints._server).process_request

    def process_later(server: Any, *request: Any) -> None:
        busy.set()
        assert go_on.wait(PATIENCE_S)
        process_request(server, *request)

    monkeypatch.setattr(type(endpoints._server), "process_request", process_later)
    with ExitStack() as stack:
        address = ("127.0.0.1", endpoints.port)
        connections = [stack.enter_context(socket.create_connection(address, PATIENCE_S))]
        assert busy.wait(PATIENCE_S)  # nothing is accepted from now on
        connections += [
            stack.enter_context(socket.create_connection(address, PATIENCE_S)) for _ in range(200)
        ]
        go_on.set()
        for connection in connections:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert all(connection.recv(100).startswith(b"HTTP/1.0 200") for connection in connections)
