"""Refuses what other sites make a browser send, and limits what the page itself may do.

A page that is open in the same browser can send requests to this machine, and a name that its owner points
here ("DNS rebinding") makes them look like requests of one site. So the Host header must name this machine,
and the Origin header must name the same host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocketClose

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_OWN = ("same-origin", "none")
"""Values of Sec-Fetch-Site: sent by this page, or by the person, who typed the address."""


def refusal(scope: Scope, hosts: Collection[str]) -> str:
    """Why the request is refused; empty if it is not. `hosts` are the names that this page goes by."""
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if _name(host) not in hosts:
        return (
            f"this page does not go by the name {host!r}: open it as localhost, or start it with --allow-host"
        )
    origin = headers.get("origin")
    if origin is None:
        if scope["type"] == "websocket":
            return "a WebSocket needs the Origin header"
    elif urlsplit(origin).netloc.lower() != host.lower():
        return f"requests of {origin!r} are refused: only this page may call its server"
    followed = headers.get("sec-fetch-mode") == "navigate" and scope.get("method") == "GET"
    if headers.get("sec-fetch-site", "none") not in _OWN and not (followed and scope["path"] == "/"):
        return "requests of other sites are refused: only this page may call its server"
    return ""


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and (port.isdecimal() or not port) else host.lower()


class Guard:
    """ASGI middleware: answers refused requests with 403, and sets the security headers of all others."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        why = refusal(scope, self._hosts)
        if not why:
            await self._app(scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await WebSocketClose(1008, why[:120])(scope, receive, send)
        else:
            await PlainTextResponse(why, 403)(scope, receive, send_with_headers)
