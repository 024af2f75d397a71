"""`/metrics` and `/healthz` answer, whoever else is connected."""

from __future__ import annotations

import socket
import threading
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Gauge

from lockstep_server.metrics.endpoints import HttpEndpoints

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def endpoints() -> Iterator[HttpEndpoints]:
    registry = CollectorRegistry()
    Gauge("told", "Something.", registry=registry).set(7)
    made = HttpEndpoints("127.0.0.1", 0, registry, lambda: True, lambda: None)
    yield made
    ending = threading.Thread(target=made.stop, daemon=True)
    ending.start()
    ending.join(10.0)
    assert not ending.is_alive()


def read(endpoints: HttpEndpoints, path: str) -> bytes:
    # A proxy of the outside world does not reach this machine's ports.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://127.0.0.1:{endpoints.port}{path}", timeout=5.0) as answer:
        found: bytes = answer.read()
    return found


def test_one_who_connects_and_asks_nothing_keeps_nobody_waiting(endpoints: HttpEndpoints) -> None:
    with socket.create_connection(("127.0.0.1", endpoints.port)):
        assert read(endpoints, "/healthz") == b"ok\n"
        assert b"told 7.0" in read(endpoints, "/metrics")


def test_the_server_ends_while_somebody_is_connected() -> None:
    made = HttpEndpoints("127.0.0.1", 0, None, lambda: True, lambda: None)
    with socket.create_connection(("127.0.0.1", made.port)):
        read(made, "/healthz")
        ending = threading.Thread(target=made.stop, daemon=True)
        ending.start()
        ending.join(10.0)
        assert not ending.is_alive()


def test_one_who_says_nothing_is_let_go(endpoints: HttpEndpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lockstep_server.metrics.endpoints._Quiet.timeout", 0.1)
    with socket.create_connection(("127.0.0.1", endpoints.port), timeout=10.0) as silent:
        assert silent.recv(1) == b""
