"""Connection settings: tokens, metadata, channel options and keepalive, and their validation."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import lockstep_client as lc
from lockstep_client.channel import KEEPALIVE_S, LEAST_KEEPALIVE_S, Connection
from lockstep_server.api import server as served
from lockstep_server.settings import Settings


def connection(**more) -> Connection:
    usual: dict[str, Any] = {
        "address": "localhost:1", "timeout_s": 1.0, "retries": 3, "tls": False, "token": "",
        "plaintext_token": False, "metadata": (), "max_message_bytes": 1000, "keepalive_s": KEEPALIVE_S,
        "channel_options": (),
    }  # fmt: skip
    return Connection(**usual | more)


def test_a_token_function_is_called_for_each_call(server, connect) -> None:
    count = itertools.count(1)
    with connect(server.address, token=lambda: f"token {next(count)}") as client:
        client.models()
        client.models()
    assert [m["authorization"] for m in server.metadata] == ["Bearer token 1", "Bearer token 2"]


def test_a_token_is_not_sent_unencrypted_over_the_network() -> None:
    with pytest.raises(
        ValueError, match=r"token would be sent to example\.org:8001 unencrypted: set tls, or"
    ):
        connection(address="example.org:8001", token="secret")
    assert connection(address="example.org:8001", token="secret", plaintext_token=True).call_metadata
    assert connection(address="example.org:8001", token="secret", tls=True).call_metadata
    assert connection(address="[::1]:8001", token="secret").call_metadata


def test_with_metadata_affects_only_its_own_calls(server, client) -> None:
    traced = client.with_metadata(("traceparent", "00-1-2-01"), ("x-team", "b"))
    traced.models()
    client.models()
    list(traced.generate("sentiment", "x"))
    sent = [m.get("traceparent") for m in server.metadata]
    assert sent == ["00-1-2-01", None, "00-1-2-01"]
    assert server.metadata[0]["x-team"] == "b"


def test_clients_that_share_a_connection_close_together(client) -> None:
    other = client.with_metadata(("a", "b"))
    other.close()
    with pytest.raises(lc.Cancelled, match="closed"):
        client.models()


@pytest.mark.parametrize("pair", [("Upper", "x"), ("key", "two\nlines"), ("key", "é")])
def test_invalid_metadata_raises_at_once(client, pair) -> None:
    with pytest.raises(ValueError, match="metadata"):
        client.with_metadata(pair)


def test_given_options_override_the_defaults() -> None:
    options = connection(channel_options=(("grpc.max_send_message_length", 5), ("x", "y"))).options
    assert dict(options)["grpc.max_send_message_length"] == 5
    assert dict(options)["x"] == "y"
    assert len(options) == len(dict(options))


def test_the_server_accepts_the_shortest_keepalive() -> None:
    """Pings that are too frequent end the connection: GOAWAY, too_many_pings."""
    accepted_ms = dict(served._options(Settings()))["grpc.http2.min_ping_interval_without_data_ms"]
    assert accepted_ms < LEAST_KEEPALIVE_S * 1e3
    assert dict(connection().options)["grpc.keepalive_time_ms"] >= 300_000  # what other servers accept
    assert "grpc.keepalive_permit_without_calls" not in dict(connection().options)
    with pytest.raises(ValueError, match="keepalive_s is 5"):
        connection(keepalive_s=5)
    assert dict(connection(keepalive_s=float("inf")).options)["grpc.keepalive_time_ms"] == (1 << 31) - 1
