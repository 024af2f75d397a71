"""Unary and server-streaming gRPC calls at a few microseconds each: HTTP/2 frames written and read by hand.

A client library costs a load as much as the server spends on a refusal, on the same cores. Here a call is
three frames made in advance; of a reply only the first message's arrival and `grpc-status` are looked at.
"""

from __future__ import annotations

import re
import socket
import struct
from collections import deque
from typing import NamedTuple

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_FRAME_BYTES, _WINDOW_BYTES, _FIRST_WINDOW = 16384, (1 << 31) - 1, 65535
_STATUS = re.compile(rb"grpc-status.(\d+)", re.DOTALL)
"""Without a dynamic table, which the settings forbid, names and values of trailers are sent as they are."""

_PUSHBACK = b"grpc-retry-pushback-ms"


class Reply(NamedTuple):
    """Something that arrived for a call.

    `status`: a gRPC status code; None for a message, -1 for a reset stream. `has_retry`: the trailers have a
    time after which the call may be sent again.
    """

    call: int
    status: int | None
    has_retry: bool


class Call(NamedTuple):
    """A call made in advance: the block of its headers, and its message."""

    headers: bytes
    body: bytes


def call(path: str, message: bytes, timeout_s: float = 0.0) -> Call:
    """A call to `path`, with a message of less than 64 KB. `timeout_s`: its deadline; 0: none."""
    if len(message) > _FIRST_WINDOW - 5:
        raise ValueError(
            f"a message of {len(message)} bytes; at most {_FIRST_WINDOW - 5} fit the first window"
        )
    block = b"\x83\x86" + b"\x04" + _text(path.encode()) + b"\x01" + _text(b"localhost")
    block += b"\x0f\x10" + _text(b"application/grpc") + b"\x00" + _text(b"te") + _text(b"trailers")
    if timeout_s:
        block += b"\x00" + _text(b"grpc-timeout") + _text(b"%dm" % round(timeout_s * 1000))
    return Call(block, b"\x00" + struct.pack(">I", len(message)) + message)


def _text(value: bytes) -> bytes:
    if len(value) >= 127:
        raise ValueError("too long for one byte of length")
    return bytes((len(value),)) + value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


class Connection:
    """One plaintext HTTP/2 connection. `begin` never blocks: what the windows or the socket do not take yet
    waits, which a late start of the call would be, too."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, _WINDOW_BYTES)
        window = struct.pack(">I", _WINDOW_BYTES - _FIRST_WINDOW)
        self._out = bytearray(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW, 0, 0, window))
        self._in = bytearray()
        self._next = 1
        self._window = _FIRST_WINDOW  # bytes of messages that the server takes on this connection
        self._waiting: deque[tuple[int, Call]] = deque()
        self._received = 0

    @property
    def has_unsent(self) -> bool:
        return bool(self._out)

    def begin(self, made: Call) -> int:
        """Send a call. Returns its number."""
        number, self._next = self._next, self._next + 2
        self._waiting.append((number, made))
        self._write_waiting()
        return number

    def _write_waiting(self) -> None:
        while self._waiting and len(self._waiting[0][1].body) <= self._window:
            number, made = self._waiting.popleft()
            self._window -= len(made.body)
            self._out += _frame(_HEADERS, _END_HEADERS, number, made.headers)
            for at in range(0, len(made.body), _FRAME_BYTES):
                part = made.body[at : at + _FRAME_BYTES]
                last = at + _FRAME_BYTES >= len(made.body)
                self._out += _frame(_DATA, _END_STREAM if last else 0, number, part)

    def flush(self) -> None:
        """Write what the socket takes."""
        try:
            while self._out:
                del self._out[: self.socket.send(self._out)]
        except BlockingIOError:
            pass

    def receive(self) -> list[Reply]:
        """What has arrived.

        Raises:
            ConnectionError: the server closed the connection.
        """
        try:
            while part := self.socket.recv(1 << 18):
                self._in += part
            raise ConnectionError("the server closed the connection")
        except BlockingIOError:
            pass
        found: list[Reply] = []
        at, data = 0, self._in
        while len(data) - at >= 9:
            size = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if len(data) - at < 9 + size:
                break
            kind, flags = data[at + 3], data[at + 4]
            number = int.from_bytes(data[at + 5 : at + 9])
            self._take(kind, flags, number, bytes(data[at + 9 : at + 9 + size]), found)
            at += 9 + size
        del data[:at]
        return found

    def _take(self, kind: int, flags: int, number: int, payload: bytes, found: list[Reply]) -> None:
        if kind == _DATA:
            self._received += len(payload)
            if self._received > _WINDOW_BYTES // 2:
                self._out += _frame(_WINDOW, 0, 0, struct.pack(">I", self._received))
                self._received = 0
            found.append(Reply(number, None, has_retry=False))
        elif kind == _HEADERS and flags & _END_STREAM:
            status = _STATUS.search(payload)
            found.append(Reply(number, int(status[1]) if status else -1, _PUSHBACK in payload))
        elif kind == _RESET:
            found.append(Reply(number, -1, has_retry=False))
        elif kind == _WINDOW and not number:
            self._window += int.from_bytes(payload)
            self._write_waiting()
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._out += _frame(kind, _ACK, 0, payload if kind == _PING else b"")
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server closed the connection: {payload[8:].decode(errors='replace')}")

    def close(self) -> None:
        self.socket.close()
