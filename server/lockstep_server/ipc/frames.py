"""Encodes lists of messages as frames for the socket between the server's two processes.

    u32 pickle length · u32 number of buffers · u64 length of each buffer · pickle · buffers

Unpickling is safe here: both ends are this program, and the socket pair has no name, so no other process can
write to it. Large arrays are sent as buffers after the pickle, without a copy.
"""

from __future__ import annotations

import pickle
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_BYTES = 256 * 1024
"""Bytes per read. Readers reuse one buffer, because allocating this size costs more than a small frame."""

_HEAD = struct.Struct("<II")
_SIZE = struct.Struct("<Q")
_OUT_OF_BAND_BYTES = 32 * 1024
"""Arrays of at least this size are sent after the pickle instead of inside it."""


class StopEngine(NamedTuple):
    """To the engine: stop within `within_s` seconds and send no updates after that."""

    within_s: float


class EngineStarted(NamedTuple):
    """From the engine: it runs, and all models of the repository have been reported."""

    info: Any  # messages.EngineInfo


class EngineFailed(NamedTuple):
    """From the engine: it could not start."""

    reason: str


def encode(messages: list[Any]) -> list[bytes | memoryview]:
    """Encode messages as one frame: the parts to write, in order."""
    buffers: list[memoryview] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _OUT_OF_BAND_BYTES:
            return True
        buffers.append(raw)
        return False

    body = pickle.dumps(messages, protocol=5, buffer_callback=is_small)
    head = _HEAD.pack(len(body), len(buffers)) + b"".join(_SIZE.pack(one.nbytes) for one in buffers)
    return [head + body, *buffers]


class Decoder:
    """Decodes frames from a byte stream that arrives in arbitrary chunks."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._received = 0  # bytes in `_chunks`
        self._needed = _HEAD.size  # bytes before the next frame can be decoded

    def feed(self, data: bytes) -> Iterator[list[Any]]:
        """Add bytes, and yield the messages of each frame that is now complete."""
        self._chunks.append(data)
        self._received += len(data)
        if self._received < self._needed:
            return
        joined = bytearray().join(self._chunks)
        start = 0
        while (end := self._frame_end(joined, start)) <= len(joined):
            yield _decode(joined, start)
            start = end
        rest = bytes(memoryview(joined)[start:])
        self._chunks.clear()
        if rest:
            self._chunks.append(rest)
        self._received, self._needed = len(rest), end - start

    @staticmethod
    def _frame_end(data: bytearray, start: int) -> int:
        """End of the frame that begins at `start`: a lower bound until its header has arrived."""
        end = start + _HEAD.size
        if len(data) < end:
            return end
        body: int
        count: int
        body, count = _HEAD.unpack_from(data, start)
        end += count * _SIZE.size
        if len(data) < end:
            return end
        sizes: tuple[int, ...] = struct.unpack_from(f"<{count}Q", data, start + _HEAD.size)
        return sum(sizes, end + body)


def _decode(data: bytearray, start: int) -> list[Any]:
    body, count = _HEAD.unpack_from(data, start)
    pickled = start + _HEAD.size + count * _SIZE.size
    view = memoryview(data)
    buffers: list[memoryview] = []
    offset = pickled + body
    for index in range(count):
        (size,) = _SIZE.unpack_from(data, start + _HEAD.size + index * _SIZE.size)
        buffers.append(view[offset : offset + size])
        offset += size
    messages: list[Any] = pickle.loads(view[pickled : pickled + body], buffers=buffers)
    return messages
