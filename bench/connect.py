"""How the tools of a benchmark connect, by their spec: in plaintext, or with certificates and a token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
"""No two channels share a connection."""


def channel(spec: Mapping[str, Any]) -> grpc.aio.Channel:
    """A channel to `address`, over TLS if the spec has a folder of certificates: with that of a `client`."""
    folder = spec.get("certs")
    if not folder:
        return grpc.aio.insecure_channel(spec["address"], _OPTIONS)
    files = [Path(folder) / name for name in ("ca.pem", "caller.key", "caller.pem")]
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    return grpc.aio.secure_channel(spec["address"], credentials, _OPTIONS)


def call_options(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of each call."""
    token = spec.get("token")
    return {"metadata": (("authorization", f"Bearer {token}"),)} if token else {}
