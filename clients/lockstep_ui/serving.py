"""Serves the page until a signal."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

import uvicorn

from lockstep_client.verbs.context import report_error
from lockstep_ui.app import make_app
from lockstep_ui.guard import LOOPBACK

_ANY = ("0.0.0.0", "::")
_DRAIN_S = 2


def serve(
    address: str, host: str, port: int, allowed: tuple[str, ...], as_json: bool, **connection: Any
) -> None:
    """Serve the page for the server at `address`. Prints its URL when it can be opened.

    Exits with code 1 if the port cannot be had.
    """
    try:
        listening = socket.create_server((host, port), family=_family(host))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        why = f"cannot listen on {host} port {port}: {reason}; choose another with --port"
        report_error(why, as_json)
        sys.exit(1)
    names = {*LOOPBACK, *(name.lower() for name in allowed)}
    if host not in _ANY:
        names.add(f"[{host}]" if ":" in host else host.lower())
    app = make_app(address, names, **connection)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        ws="wsproto", timeout_graceful_shutdown=_DRAIN_S,
    )  # fmt: skip
    _announce(host, listening.getsockname()[1], address, as_json)
    uvicorn.Server(config).run(sockets=[listening])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _announce(host: str, port: int, address: str, as_json: bool) -> None:
    name = "localhost" if host in (*_ANY, "127.0.0.1") else f"[{host}]" if ":" in host else host
    url = f"http://{name}:{port}"
    shown = {"url": url, "address": address}
    print(json.dumps(shown) if as_json else f"Open {url} (server: {address}). Ctrl-C stops it.", flush=True)
