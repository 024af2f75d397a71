"""Encodes lists of messages as frames for the socket between the server's two processes.

    u32 version · u32 body length · u32 number of arrays · u64 length of each array · body · arrays

The body is MessagePack (msgspec), one tagged array per message. Arrays of at least 32 KiB follow the body,
without a copy; smaller ones are part of it.
"""

from __future__ import annotations

import logging
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec.structs import replace

from .. import messages
from ..errors import ErrorCode, ServingError, failed
from ..model import datatypes

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

READ_BYTES = 256 * 1024
"""Bytes per read. Readers reuse one buffer, because allocating this size costs more than a small frame."""

_HEAD = struct.Struct("<III")
_SIZE = struct.Struct("<Q")
_OUT_OF_BAND_BYTES = 32 * 1024
"""Arrays of at least this size are sent after the body instead of inside it."""

_LARGE_BYTES = 1 << 20
"""A frame of which this much is known to follow is received in one place."""

_NAMES = {dtype: name for name, dtype in datatypes.NUMPY.items()}

Sent = (
    messages.EngineConfig
    | messages.Infer
    | messages.Generate
    | messages.Step
    | messages.Cancel
    | messages.Credit
    | messages.EndSequence
    | messages.SetFlushInterval
    | messages.GetEngineStats
    | messages.Load
    | messages.Unload
    | messages.Heartbeat
    | messages.LoadStarted
    | messages.ModelPaused
    | messages.ModelStuck
    | messages.StopEngine
    | messages.Events
    | messages.Costs
    | messages.Verified
    | messages.BatchingOff
    | messages.ModelUpdate
    | messages.LoadDone
    | messages.EngineStats
    | messages.EngineStarted
    | messages.EngineFailed
)
"""Every message that is sent on its own."""


class Encoder:
    """Encodes frames. One thread at a time."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._plain)
        self._arrays: list[memoryview] = []

    def encode(self, batch: list[Any]) -> list[bytes | memoryview]:
        """Encode messages as one frame: the parts to write, in order."""
        arrays: list[memoryview] = []
        self._arrays = arrays
        body = self._encoder.encode(batch)
        head = _HEAD.pack(messages.VERSION, len(body), len(arrays))
        if not arrays:
            return [head + body]
        return [head + b"".join(_SIZE.pack(one.nbytes) for one in arrays) + body, *arrays]

    def _plain(self, value: Any) -> Any:
        """A value of a type that MessagePack does not have."""
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, ServingError):
            return (value.code.value, value.message, value.field, value.resource, value.retry_after_s)
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"{type(value).__name__} cannot be sent to another process")

    def _array(self, array: np.ndarray[Any, Any]) -> tuple[str, tuple[int, ...], Any]:
        """(datatype, shape, content): elements of BYTES, bytes, or the index of an array after the body."""
        name = _NAMES[array.dtype]
        if name == "BYTES":
            return name, array.shape, array.ravel().tolist()
        if array.nbytes < _OUT_OF_BAND_BYTES:
            return name, array.shape, array.tobytes()
        flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._arrays.append(memoryview(flat))
        return name, array.shape, len(self._arrays) - 1


def encode_each(encoder: Encoder, batch: list[Any]) -> list[bytes | memoryview]:
    """Encode messages as one frame. If one cannot be encoded, the others are, and what stands for it."""
    try:
        return encoder.encode(batch)
    except Exception:
        parts: list[bytes | memoryview] = []
        for message in batch:
            try:
                parts += encoder.encode([message])
            except Exception:
                log.exception("a %s cannot be encoded", type(message).__name__)
                if substitutes := _substitutes(message):
                    parts += encoder.encode(substitutes)
        return parts


def _substitutes(message: Any) -> list[Any]:
    """What is sent in place of a message that cannot be encoded."""
    if isinstance(message, messages.Events):
        error = failed(message.model)
        ends = [messages.Event(key=event.key, error=error) for event in message.events]
        ends += [messages.Event(key=chunk.key, error=error) for chunk in message.chunks]
        return [messages.Events(model=message.model, version=message.version, events=ends)]
    if isinstance(message, messages.ModelUpdate):
        reason = "its description cannot be sent to the front end; see the server's log"
        return [replace(message, state="UNAVAILABLE", reason=reason, spec=None, costs=None, tokenizer=b"")]
    return []


class Decoder:
    """Decodes frames from a byte stream that arrives in arbitrary chunks."""

    def __init__(self) -> None:
        self._decoder = msgspec.msgpack.Decoder(list[Sent], dec_hook=self._typed)
        self._arrays: list[memoryview] = []
        self._chunks: deque[bytes] = deque()
        self._received = 0  # bytes in `_chunks`
        self._needed = _HEAD.size  # bytes before the next frame can be decoded
        self._large: memoryview | None = None  # the place of what is needed, if that is much

    def feed(self, data: bytes) -> Iterator[list[Any]]:
        """Add bytes, and yield the messages of each frame that is now complete.

        Raises:
            ValueError: a frame of another version, or one that holds something else than messages.
        """
        later = b""
        if self._large is None:
            self._chunks.append(data)
            self._received += len(data)
            if self._received < self._needed:
                return
            joined = memoryview(bytearray().join(self._chunks))
        else:
            data, later = data[: self._needed - self._received], data[self._needed - self._received :]
            self._large[self._received : self._received + len(data)] = data
            self._received += len(data)
            if self._received < self._needed:
                return
            joined = self._large
        start = 0
        while (end := self._frame_end(joined, start)) <= len(joined):
            yield self._decode(joined, start)
            start = end
        self._keep(bytes(joined[start:]), end - start)
        if later:
            yield from self.feed(later)

    def _keep(self, rest: bytes, needed: int) -> None:
        """Keep the beginning of a frame, of which `needed` bytes are known to follow, with `rest` among them.

        A large frame gets its place at once, and each chunk is copied as it arrives: one copy of all of it
        would hold up the event loop.
        """
        self._chunks.clear()
        self._received, self._needed, self._large = len(rest), needed, None
        if needed >= _LARGE_BYTES:
            place: Any = np.empty(needed, np.uint8)  # untouched, unlike a bytearray
            self._large = memoryview(place)
            self._large[: len(rest)] = rest
        elif rest:
            self._chunks.append(rest)

    @staticmethod
    def _frame_end(data: memoryview, start: int) -> int:
        """End of the frame that begins at `start`: a lower bound until its header has arrived."""
        end = start + _HEAD.size
        if len(data) < end:
            return end
        version: int
        body: int
        count: int
        version, body, count = _HEAD.unpack_from(data, start)
        if version != messages.VERSION:
            raise ValueError(f"frame version {version} instead of {messages.VERSION}")
        end += count * _SIZE.size
        if len(data) < end:
            return end
        sizes: tuple[int, ...] = struct.unpack_from(f"<{count}Q", data, start + _HEAD.size)
        return sum(sizes, end + body)

    def _decode(self, data: memoryview, start: int) -> list[Any]:
        _, body, count = _HEAD.unpack_from(data, start)
        sizes = struct.unpack_from(f"<{count}Q", data, start + _HEAD.size)
        begin = start + _HEAD.size + count * _SIZE.size
        offset, self._arrays = begin + body, []
        for size in sizes:
            self._arrays.append(data[offset : offset + size])
            offset += size
        decoded: list[Any] = self._decoder.decode(data[begin : begin + body])
        return decoded

    def _typed(self, kind: Any, value: Any) -> Any:
        if kind is ServingError:
            code, message, field, resource, retry_after_s = value
            return ServingError(
                ErrorCode(code), message, field=field, resource=resource, retry_after_s=retry_after_s
            )
        name, shape, content = value
        dtype = datatypes.NUMPY[name]
        if name == "BYTES":
            array = np.empty(len(content), np.object_)
            array[:] = content
            return array.reshape(shape)
        # The arrays after the body are writable, so the ones inside it are too.
        content = self._arrays[content] if isinstance(content, int) else bytearray(content)
        return np.frombuffer(content, dtype).reshape(shape)
