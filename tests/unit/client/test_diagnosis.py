"""The cause of a connection that fails, from real sockets of each kind."""

from __future__ import annotations

import http.server
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import security

from lockstep_client.diagnosis import why_unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def certs() -> Path:
    return security.certificates()


@contextmanager
def grpc_server(credentials: Any = None) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    add = server.add_insecure_port if credentials is None else server.add_secure_port
    port = add("127.0.0.1:0", *(() if credentials is None else (credentials,)))
    server.start()
    yield f"localhost:{port}"
    server.stop(0).wait()


def server_credentials(certs: Path, *, mutual: bool = False) -> Any:
    pair = (certs / "server.key").read_bytes(), (certs / "server.pem").read_bytes()
    return grpc.ssl_server_credentials([pair], (certs / "ca.pem").read_bytes() if mutual else None, mutual)


@contextmanager
def tcp_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"localhost:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_server_with_tls_is_recognised(certs: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with grpc_server(server_credentials(certs)) as address:
        assert "the server uses TLS; set --tls system, or --tls CA.pem" in why_unreachable(address)
        other = tmp_path_factory.mktemp("other")
        security.make_certificates(other)
        why = why_unreachable(address, str(other / "ca.pem"))
        assert "the server's certificate is not trusted: " in why
        assert "is not trusted" in why_unreachable(address, "system")


def test_a_server_that_requires_a_certificate_is_recognised(certs: Path) -> None:
    with grpc_server(server_credentials(certs, mutual=True)) as address:
        authority = str(certs / "ca.pem")
        assert "set --tls-cert and --tls-key" in why_unreachable(address, authority)
        assert "did not accept the certificate of me.pem" in why_unreachable(address, authority, "x/me.pem")


def test_a_server_without_tls_is_recognised() -> None:
    with grpc_server() as address:
        assert why_unreachable(address, "system") == "the server does not use TLS; leave --tls out"


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"lockstep_requests_total 1", "the metrics port of a Lockstep server"), (b"hello", "an HTTP server")],
)
def test_an_http_server_is_recognised(content: bytes, why: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert why in why_unreachable(f"localhost:{server.server_port}")
        server.shutdown()
        thread.join()


def test_another_protocol_is_recognised() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"+OK\r\n")

    with tcp_server(answer) as address:
        assert "does not speak gRPC" in why_unreachable(address)


def test_nothing_is_said_where_nothing_listens(nowhere: str) -> None:
    assert why_unreachable(nowhere) == ""
    assert why_unreachable("unix:/run/none.sock") == ""
    assert "the host 'no.such.host.invalid' is not known" in why_unreachable("no.such.host.invalid:8001")
