"""The request messages of a stream: the first message, then one per piece that its caller sends over time.

Each of the calls that a stream makes, one after another, reads its own `messages()`. A piece that was taken
from the source for a call that has broken is sent by the next one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any

from lockstep_client import arguments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from google.protobuf.message import Message

    from lockstep_client.protocol import RequestStream


class RequestMessages:
    """The messages so far, of which those that may be sent again are kept.

    An exception of the source ends the requests and is kept in `failure`; if raised to gRPC, it would only be
    logged. There is no reference to the stream, so an unreferenced stream is collected while pieces wait.

    Args:
        limit: bytes to keep. Beyond, the messages cannot be sent again.
    """

    def __init__(
        self, first: Message, pieces: RequestStream, checked_size: Callable[[Message], Message], limit: int
    ) -> None:
        self._first, self._pieces, self._checked_size = first, pieces, checked_size
        self._source: Any = None
        self._kept: list[Message] = []
        self._dropped = self._size = 0
        self._limit = limit
        self._ended = False
        self._turn = threading.Lock()
        self._reading: asyncio.Future[None] | None = None
        self.failure: Exception | None = None

    @property
    def complete(self) -> bool:
        """Whether all messages so far can be sent again."""
        return not self._dropped

    def keep(self, limit: int) -> None:
        """Keep at most so many bytes from the next message on."""
        self._limit = limit

    def messages(self) -> Iterator[Message]:
        """The messages of one call."""
        yield self._first
        place = 0
        while True:
            while (message := self._message(place)) is None:
                if self._ended:
                    return
                with self._turn:  # a call that has broken may still wait for its next piece
                    if self._message(place) is None and not self._ended:
                        self._read()
            place += 1
            yield message
            self._trim(place)

    async def async_messages(self) -> AsyncIterator[Message]:
        """The messages of one asyncio call. That it is cancelled does not cancel the source."""
        yield self._first
        place = 0
        while True:
            while (message := self._message(place)) is None:
                if self._ended:
                    return
                if self._reading is None or self._reading.done():
                    self._reading = asyncio.ensure_future(self._read_async())
                await asyncio.shield(self._reading)
            place += 1
            yield message
            self._trim(place)

    def close(self) -> None:
        """Nothing more is sent. A source that is read by asyncio is cancelled."""
        self._ended = True
        if self._reading is not None:
            self._reading.cancel()

    def _message(self, place: int) -> Message | None:
        kept = place - self._dropped
        return self._kept[kept] if 0 <= kept < len(self._kept) else None

    def _read(self) -> None:
        try:
            if isinstance(self._pieces.source, AsyncIterable):
                raise arguments.invalid("pieces", "async iterables need an AsyncClient")
            self._source = self._source or iter(self._pieces.source)
            self._add(next(self._source))
        except StopIteration:
            self._ended = True
        except Exception as error:
            self._ended, self.failure = True, error

    async def _read_async(self) -> None:
        if not isinstance(self._pieces.source, AsyncIterable):
            return self._read()
        try:
            self._source = self._source or aiter(self._pieces.source)
            self._add(await anext(self._source))
        except StopAsyncIteration:
            self._ended = True
        except Exception as error:
            self._ended, self.failure = True, error

    def _add(self, piece: Any) -> None:
        message = self._checked_size(self._pieces.write(piece))
        self._size += message.ByteSize()
        self._kept.append(message)

    def _trim(self, place: int) -> None:
        """Forget all messages, once the call has sent them, if they are more than are to be kept."""
        if self._size > self._limit and place == self._dropped + len(self._kept):
            self._kept = []
            self._dropped, self._size = place, 0
