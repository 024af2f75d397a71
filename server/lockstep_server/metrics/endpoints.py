"""Serves `/metrics`, `/healthz` and `/readyz` over HTTP."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client import CollectorRegistry

    from ..certificates import CertificateFiles

    Refusal = Callable[[str, Sequence[str]], str]

_SOCKET_TIMEOUT_S = 10.0
"""Socket timeout for idle or stalled HTTP clients."""


class Condition(Enum):
    """What `/readyz` answers: its status and body."""

    READY = "200 OK", b"ok\n"
    NOT_READY = "503 Service Unavailable", b"not ready\n"
    # What HAProxy's disable-on-404 takes as: send no new calls, and let the open ones end.
    DRAINING = "404 Not Found", b"draining\n"

    @classmethod
    def of(cls, *, ready: bool) -> Condition:
        return cls.READY if ready else cls.NOT_READY


class HttpEndpoints:
    """An HTTP server on a background thread, with one thread per connection.

    Args:
        registry: the metrics to serve at `/metrics`; None: `/metrics` answers 404.
        condition: of the server. `/healthz` answers 200 if it is ready and 503 otherwise; `/readyz` answers
            the condition.
        before_scrape: called before each scrape, on the scrape's thread.
        certificates: serve over TLS with these.
        refusal: from the Authorization header and the names in the client's certificate, why `/metrics` may
            not be read, or "". Called on the scrape's thread.

    Raises:
        OSError: the port is in use.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry | None,
        condition: Callable[[], Condition],
        before_scrape: Callable[[], None],
        certificates: CertificateFiles | None = None,
        refusal: Refusal = lambda *_: "",
    ) -> None:
        app = _wsgi_app(registry, condition, before_scrape, refusal)
        server_class = _IPv6Server if ":" in host else _ThreadingServer
        self._server = make_server(host, port, app, server_class, _RequestHandler)
        self._server.certificates = certificates
        self.port: int = self._server.server_port
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopping:  # `serve_forever` polls, and delays each stop by up to 0.5 s
            self._server.handle_request()

    def stop(self) -> None:
        self._stopping = True
        address = str(self._server.server_address[0]), self.port
        with suppress(OSError), socket.create_connection(address, _SOCKET_TIMEOUT_S):
            pass  # wakes the thread
        self._thread.join(_SOCKET_TIMEOUT_S)
        self._server.server_close()


def _wsgi_app(
    registry: CollectorRegistry | None,
    condition: Callable[[], Condition],
    before_scrape: Callable[[], None],
    refusal: Refusal,
) -> Any:
    metrics = make_wsgi_app(registry) if registry is not None else None
    one_at_a_time = threading.Lock()  # a page takes the interpreter from the event loop

    def app(environ: dict[str, Any], respond: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == "/metrics" and metrics is not None:
            why = refusal(environ.get("HTTP_AUTHORIZATION", ""), environ["lockstep.certificate"])
            if why:
                headers = [("Content-Type", "text/plain; charset=utf-8"), ("WWW-Authenticate", "Bearer")]
                respond("401 Unauthorized", headers)
                return [f"{why}\n".encode()]
            before_scrape()
            with one_at_a_time:
                return metrics(environ, respond)
        now = condition()
        status, body = now.value
        if path == "/healthz" and now is Condition.DRAINING:
            status, body = Condition.NOT_READY.value
        elif path == "/metrics":
            status, body = "404 Not Found", b"metrics are disabled; start the server with --metrics\n"
        elif path not in ("/healthz", "/readyz"):
            status, body = "404 Not Found", b"not found; available: /metrics, /healthz, /readyz\n"
        respond(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    return app


def _certificate_names(connection: socket.socket) -> tuple[str, ...]:
    """The names in a verified client certificate: its alternative names, then its common name."""
    shown: Any = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    if not shown:
        return ()
    common = (value for part in shown["subject"] for key, value in part if key == "commonName")
    return (*(value for _, value in shown.get("subjectAltName", ())), *common)


class _ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    # An idle connection must block neither other clients nor the shutdown.
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512  # connections that may come at once; the default is 5
    # A second server on the same port must fail.
    allow_reuse_port = False
    certificates: CertificateFiles | None = None

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection. The TLS handshake follows on the connection's own thread."""
        connection, address = super().get_request()
        if self.certificates is not None:
            context = self.certificates.current().context
            connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def server_bind(self) -> None:
        # HTTPServer.server_bind looks up the host name, which can hang without a name service.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()


class _IPv6Server(_ThreadingServer):
    address_family = socket.AF_INET6


class _RequestHandler(WSGIRequestHandler):
    timeout = _SOCKET_TIMEOUT_S

    def handle(self) -> None:
        with suppress(TimeoutError, ConnectionError, ssl.SSLError):
            if isinstance(self.connection, ssl.SSLSocket):
                self.connection.do_handshake()
            super().handle()

    def get_environ(self) -> dict[str, Any]:
        environ = super().get_environ()
        environ["lockstep.certificate"] = _certificate_names(self.connection)
        return environ

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Do not log scrapes."""
