"""Connects to a target with the client library's settings, except that nothing is retried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from lockstep_client import address as addresses
from lockstep_client.channel import KEEPALIVE_S, MAX_MESSAGE_BYTES, Connection
from lockstep_client.client import Client
from lockstep_client.tls import Tls, of_options

if TYPE_CHECKING:
    from lockstep_load.plan import Target

# Reconnect within a second after a server restart.
_OPTIONS = (("grpc.max_reconnect_backoff_ms", 1_000),)


def client(target: Target, timeout_s: float) -> Client:
    """A blocking client for requests before a run. Raises ValueError if certificates are invalid."""
    return Client(
        target.address,
        timeout_s=timeout_s,
        retries=0,
        tls=tls(target),
        token=target.token,
    )


def channels(target: Target) -> list[grpc.aio.Channel]:
    """Channels for a worker process, one to each server."""
    return [_channel(_connection(target).to_server(one)) for one in addresses.split(target.address)]


def _channel(connection: Connection) -> grpc.aio.Channel:
    if credentials := connection.credentials:
        return grpc.aio.secure_channel(connection.address, credentials, connection.options)
    return grpc.aio.insecure_channel(connection.address, connection.options)


def call_options(target: Target) -> dict[str, Any]:
    """Keyword arguments of every gRPC call: timeout and metadata."""
    return {"timeout": target.timeout_s, "metadata": _connection(target).call_metadata}


def _connection(target: Target) -> Connection:
    return Connection(
        address=target.address,
        timeout_s=target.timeout_s,
        retries=0,
        tls=tls(target),
        token=target.token,
        plaintext_token=False,
        metadata=(),
        max_message_bytes=MAX_MESSAGE_BYTES,
        keepalive_s=KEEPALIVE_S,
        channel_options=_OPTIONS,
    )


def tls(target: Target) -> bool | Tls:
    """The TLS settings of a client of the target. Raises ValueError if certificates are invalid."""
    return of_options(target.tls, target.tls_cert, target.tls_key)
