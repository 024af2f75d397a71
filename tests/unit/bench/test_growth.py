"""The load over many connections uses each of them, and the figure has every curve."""

from __future__ import annotations

from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc

from bench import growth, levels

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_calls_go_over_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = set()

    class Service(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(self._answer)

        def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
            peers.add(context.peer())
            return b""

    monkeypatch.setattr(growth, "_server_cpu_s", lambda _: 0.0)
    monkeypatch.setattr(levels, "pss_mb", lambda _: 1.0)
    monkeypatch.setattr(growth, "_LEAD_S", 0.0)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Service(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    spec = {
        "address": f"127.0.0.1:{port}", "server": 0, "connections": 5, "inflight": 2, "seconds": 0.2
    }  # fmt: skip
    found = growth.over_connections(spec)
    server.stop(None)
    assert len(peers) == 5
    assert found["rate"] > 0
    assert 0 < found["p50_ms"] <= found["p99_ms"]


def test_the_figure_has_every_curve(tmp_path: Path) -> None:
    values = dict.fromkeys(
        ("ms", "front_ms", "engine_ms", "front_MB", "engine_MB", "new_s", "known_s", "server_us"), 1.0
    )
    curves = (growth.MODEL, growth.ENCODER, "connections", "size", "models")
    growth.draw({curve: {1: values, 10: values} for curve in curves}, tmp_path / "growth.svg")
    text = (tmp_path / "growth.svg").read_text()
    for label in ("BiLSTM", "4-layer Transformer", "front end, MB", "start again, s", "CPU, engine"):
        assert label in text
