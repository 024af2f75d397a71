"""HTTP/1.1 calls at a few microseconds each, written and read by hand; one call at a time on a connection."""

from __future__ import annotations

import re
import socket

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STATUS_AT = slice(9, 12)  # of b"HTTP/1.1 200 OK"


def post(path: str, body: bytes, content_type: str) -> bytes:
    """A request made in advance."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def read_status(data: bytes | bytearray) -> int | None:
    """The status of a whole answer; None while parts of it are missing.

    Raises:
        ValueError: the answer does not say how long it is.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    found = _LENGTH.search(data, 0, end)
    if found is None:
        raise ValueError(f"an answer without Content-Length: {bytes(data[:end])!r}")
    return int(data[_STATUS_AT]) if len(data) >= end + 4 + int(found[1]) else None


class HttpConnection:
    """A plaintext connection that is kept alive."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._in = bytearray()

    def send(self, made: bytes) -> None:
        """Requests are short and the connection is idle, so the socket takes all of it."""
        if self.socket.send(made) != len(made):
            raise ConnectionError("the socket did not take a whole request")

    def receive(self) -> int | None:
        """The status of the answer, once all of it has arrived.

        Raises:
            ConnectionError: the server closed the connection.
        """
        try:
            while part := self.socket.recv(1 << 16):
                self._in += part
                if len(part) < 1 << 16:
                    break
            else:
                raise ConnectionError("the server closed the connection")
        except BlockingIOError:
            pass
        status = read_status(self._in)
        if status is not None:
            self._in.clear()
        return status
