"""Messages as bytes on a socket between two processes of this server: length, pickle, large arrays.

    u32 length of the pickle · u32 number of buffers · u64 length of each · the pickle · the buffers

Both ends are this program, started by itself, on a socket that has no name: nothing else can write
here, which is what makes unpickling safe. Arrays above a size go beside the pickle, without a copy.
"""

from __future__ import annotations

import pickle
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_BYTES = 256 * 1024
"""Read at once; into one buffer, for a new one of this size costs more than a small frame does."""

_HEAD = struct.Struct("<II")
_SIZE = struct.Struct("<Q")
_BESIDE = 32 * 1024
"""Bytes: arrays from here on go beside the pickle."""


class StopEngine(NamedTuple):
    """To the host: end within so many seconds, and tell no more after that."""

    within_s: float


class EngineStarted(NamedTuple):
    """From the host: what is in the repository has been told."""

    about: Any  # port.About


class EngineFailed(NamedTuple):
    """From the host: it cannot start, and why."""

    reason: str


def encode(messages: list[Any]) -> list[bytes | memoryview]:
    """One frame, as the pieces to write in order."""
    beside: list[memoryview] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _BESIDE:
            return True
        beside.append(raw)
        return False

    body = pickle.dumps(messages, protocol=5, buffer_callback=is_small)
    head = _HEAD.pack(len(body), len(beside)) + b"".join(_SIZE.pack(one.nbytes) for one in beside)
    return [head + body, *beside]


class Decoder:
    """Frames out of bytes as they come."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._wanted = _HEAD.size

    def feed(self, data: bytes) -> Iterator[list[Any]]:
        """Take bytes; the messages of each frame that is whole now."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._wanted:
            return
        whole = bytearray().join(self._pieces)
        at = 0
        while (end := self._end(whole, at)) <= len(whole):
            yield _decode(whole, at)
            at = end
        rest = bytes(memoryview(whole)[at:])
        self._pieces.clear()
        if rest:
            self._pieces.append(rest)
        self._held, self._wanted = len(rest), end - at

    @staticmethod
    def _end(whole: bytearray, at: int) -> int:
        """Where the frame that begins at `at` ends, as far as can be told."""
        end = at + _HEAD.size
        if len(whole) < end:
            return end
        body: int
        count: int
        body, count = _HEAD.unpack_from(whole, at)
        end += count * _SIZE.size
        if len(whole) < end:
            return end
        sizes: tuple[int, ...] = struct.unpack_from(f"<{count}Q", whole, at + _HEAD.size)
        return sum(sizes, end + body)


def _decode(whole: bytearray, at: int) -> list[Any]:
    body, count = _HEAD.unpack_from(whole, at)
    start = at + _HEAD.size + count * _SIZE.size
    view = memoryview(whole)
    buffers: list[memoryview] = []
    place = start + body
    for index in range(count):
        (size,) = _SIZE.unpack_from(whole, at + _HEAD.size + index * _SIZE.size)
        buffers.append(view[place : place + size])
        place += size
    messages: list[Any] = pickle.loads(view[start : start + body], buffers=buffers)
    return messages
