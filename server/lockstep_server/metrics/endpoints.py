"""`/metrics` and `/healthz` over HTTP."""

from __future__ import annotations

import socketserver
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

_PATIENCE_S = 10.0
"""For who has connected, and neither asks nor takes the answer."""


class HttpEndpoints:
    """The HTTP server, on a thread; each who asks has one too.

    Args:
        registry: what `/metrics` tells of; none: there is no such page.
        before: called before each scrape, on the scrape's thread.

    Raises:
        OSError: the port is taken.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry | None,
        healthy: Callable[[], bool],
        before: Callable[[], None],
    ) -> None:
        self._server = make_server(host, port, _endpoints(registry, healthy, before), _Server, _Quiet)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _endpoints(
    registry: CollectorRegistry | None, healthy: Callable[[], bool], before: Callable[[], None]
) -> Any:
    metrics = make_wsgi_app(registry) if registry is not None else None

    def endpoints(environ: dict[str, Any], respond: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == "/metrics" and metrics is not None:
            before()
            return metrics(environ, respond)
        status, body = ("200 OK", b"ok\n") if healthy() else ("503 Service Unavailable", b"not ready\n")
        if path == "/metrics":
            status, body = "404 Not Found", b"metrics are off; start the server with --metrics\n"
        elif path != "/healthz":
            status, body = "404 Not Found", b"there are /metrics and /healthz\n"
        respond(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    return endpoints


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    # Who connects and asks nothing keeps neither the others waiting, nor the server from its end.
    daemon_threads = True
    block_on_close = False
    # A second server must be told that the port is taken.
    allow_reuse_port = False

    def server_bind(self) -> None:
        # HTTPServer's own looks the host's name up, which can hang where there is no name service.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()


class _Quiet(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def handle(self) -> None:
        with suppress(TimeoutError, ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """A scrape is no news."""
