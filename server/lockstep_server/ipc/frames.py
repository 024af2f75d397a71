"""Encodes lists of messages as frames for the sockets between the server's processes.

    u32 version · u32 body length · u32 number of arrays · u64 length of each array · body · arrays

The body is MessagePack (msgspec), one tagged array per message. Arrays of at least 32 KiB follow the body,
without a copy; smaller ones are part of it.
"""

from __future__ import annotations

import logging
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from .. import messages, supervision
from ..errors import ServingError, failed
from ..model import datatypes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

log = logging.getLogger(__name__)

_READ_BYTES = 256 * 1024
"""Bytes per read of small frames, into one buffer: allocating this size costs more than a small frame."""

_LARGE_READ_BYTES = 1 << 20
"""Bytes per read of a large frame, so that the event loop does other work in between."""

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
    | messages.GetRuns
    | messages.GetSequence
    | messages.PutSequence
    | messages.ThawSequence
    | messages.ListSequences
    | messages.Load
    | messages.Unload
    | messages.Heartbeat
    | messages.LoadStarted
    | messages.LoadStep
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
    | messages.RunRecords
    | messages.EngineStarted
    | messages.EngineFailed
    | messages.FrontEndHello
    | messages.LoadSeen
    | messages.FindSequence
    | messages.SequenceFound
    | messages.SequenceAnswer
    | messages.SequenceList
    | messages.SequenceMoved
    | supervision.FrontEndConfig
    | supervision.FrontEndStarted
    | supervision.FrontEndFailed
    | supervision.FrontEndState
    | supervision.ServerState
    | supervision.Usage
    | supervision.FrontEndCame
    | supervision.FrontEndGone
    | supervision.Drain
    | supervision.Drained
    | supervision.GetStatistics
    | supervision.StatisticsAsked
    | supervision.Statistics
    | supervision.GetReport
    | supervision.Report
)
"""Every message that is sent on its own."""


class Encoder:
    """Encodes frames. One thread at a time."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._plain)
        self._arrays: list[memoryview] = []

    def encode(self, batch: Sequence[Any]) -> list[bytes | memoryview]:
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
            return value.plain
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
    if isinstance(message, messages.SequenceAnswer):
        return [messages.SequenceAnswer(key=message.key, error=failed(message.model))]
    if isinstance(message, messages.ModelUpdate):
        reason = "its description cannot be sent to the front end; see the server's log"
        return [replace(message, state="UNAVAILABLE", reason=reason, spec=None, costs=None, tokenizer=b"")]
    return []


class _Frame(NamedTuple):
    """Where the parts of a frame are."""

    end: int  # a lower bound until the header has arrived
    body: int = 0
    arrays: int = 0
    sizes: tuple[int, ...] = ()  # of the arrays

    @classmethod
    def at(cls, data: memoryview, start: int) -> _Frame:
        """The frame that begins at `start`.

        Raises:
            ValueError: it is of another version.
        """
        at = start + _HEAD.size
        if len(data) < at:
            return cls(at)
        version: int
        body: int
        count: int
        version, body, count = _HEAD.unpack_from(data, start)
        if version != messages.VERSION:
            raise ValueError(f"frame version {version} instead of {messages.VERSION}")
        if not count:
            return cls(at + body, at, at + body)
        begin = at + count * _SIZE.size
        if len(data) < begin:
            return cls(begin)
        sizes: tuple[int, ...] = struct.unpack_from(f"<{count}Q", data, at)
        return cls(sum(sizes, begin + body), begin, begin + body, sizes)


class Decoder:
    """Decodes frames from a byte stream that arrives in arbitrary chunks.

    receive into `place()` -> `received` -> the messages of each frame that is complete
    """

    def __init__(self) -> None:
        self._decoder = msgspec.msgpack.Decoder(list[Sent], dec_hook=self._typed)
        self._arrays: list[memoryview] = []
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._chunks: list[bytearray] = []
        self._received = 0  # bytes in `_chunks`
        self._needed = _HEAD.size  # bytes before the next frame can be decoded
        self._large: memoryview | None = None  # the place of what is needed, if that is much

    def feed(self, data: bytes) -> Iterator[list[Any]]:
        """As `received`, for bytes that are somewhere else."""
        while data:
            place = self.place()[: len(data)]
            place[:], data = data[: len(place)], data[len(place) :]
            yield from self.received(len(place))

    def place(self) -> memoryview:
        """Where the next bytes belong."""
        if self._large is None:
            return self._buffer
        return self._large[self._received : self._received + _LARGE_READ_BYTES]

    def received(self, count: int) -> Iterable[list[Any]]:
        """The messages of each frame that is complete with the first `count` bytes of `place`.

        Raises:
            ValueError: a frame of another version, or one that holds something else than messages.
        """
        if not self._received and count >= _HEAD.size:
            version, body, arrays = _HEAD.unpack_from(self._buffer)
            if version == messages.VERSION and not arrays and _HEAD.size + body == count:  # most are so
                decoded: list[Any] = self._decoder.decode(self._buffer[_HEAD.size : count])
                return (decoded,)
        return self._frames(count)

    def _frames(self, count: int) -> Iterator[list[Any]]:
        self._received += count
        if self._large is None:
            self._chunks.append(bytearray(self._buffer[:count]))
        if self._received < self._needed:
            return
        if self._large is not None:
            joined = self._large
        else:
            whole = self._chunks[0] if len(self._chunks) == 1 else bytearray().join(self._chunks)
            joined = memoryview(whole)
        start, size = 0, len(joined)
        frame = _Frame.at(joined, 0)
        while frame.end <= size:
            yield self._decode(joined, frame)
            start = frame.end
            if start == size:
                self._keep(bytearray(), _HEAD.size)
                return
            frame = _Frame.at(joined, start)
        self._keep(bytearray(joined[start:]), frame.end - start)

    def _keep(self, rest: bytearray, needed: int) -> None:
        """Keep the beginning of a frame, of which `needed` bytes are known to follow, with `rest` among them.
        A large frame gets its place at once, and is received there without a copy."""
        self._chunks.clear()
        self._received, self._needed, self._large = len(rest), needed, None
        if needed >= _LARGE_BYTES:
            place: Any = np.empty(needed, np.uint8)  # untouched, unlike a bytearray
            self._large = memoryview(place)
            self._large[: len(rest)] = rest
        elif rest:
            self._chunks.append(rest)

    def _decode(self, data: memoryview, frame: _Frame) -> list[Any]:
        offset, self._arrays = frame.arrays, []
        for size in frame.sizes:
            self._arrays.append(data[offset : offset + size])
            offset += size
        decoded: list[Any] = self._decoder.decode(data[frame.body : frame.arrays])
        return decoded

    def _typed(self, kind: Any, value: Any) -> Any:
        if kind is ServingError:
            return ServingError.of_plain(*value)
        name, shape, content = value
        dtype = datatypes.NUMPY[name]
        if name == "BYTES":
            array = np.empty(len(content), np.object_)
            array[:] = content
            return array.reshape(shape)
        # The arrays after the body are writable, so the ones inside it are too.
        content = self._arrays[content] if isinstance(content, int) else bytearray(content)
        return np.frombuffer(content, dtype).reshape(shape)
