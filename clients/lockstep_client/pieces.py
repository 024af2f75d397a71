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
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from google.protobuf.message import Message

    from lockstep_client.protocol import RequestStream


class RequestMessages:
    """The messages so far, of which those that may be sent again are kept.

    An exception of the source ends the requests and is kept in `failure`; if raised to gRPC, it would only be
    logged. There is no reference to the stream, so an unreferenced stream is collected while pieces wait.

    Args:
        limit: bytes to keep. Beyond, those that have been answered are forgotten, or all.
    """

    def __init__(self, pieces: RequestStream, checked_size: Callable[[Message], Message], limit: int) -> None:
        self._pieces, self._checked_size = pieces, checked_size
        self._source: Any = None
        self._kept: list[Message] = []
        self._dropped = self._size = 0
        self._limit = limit
        self._gone = 0  # elements of messages that are not kept
        self._begin: tuple[int, Message | None] = 0, None
        self.answered = 0
        """Elements that the server has answered."""
        self._ended = False
        self._turn = threading.Lock()
        self._reading: asyncio.Future[None] | None = None
        self.failure: Exception | None = None

    @property
    def complete(self) -> bool:
        """Whether all messages so far can be sent again."""
        return not self._dropped

    def begin_again(self) -> None:
        """The next call sends all messages. They must be `complete`."""
        self._begin = 0, None

    def go_on(self) -> bool:
        """The next call sends what has not been answered. Returns False if that is not known: how many
        elements a text or a chunk of frames has is known to the server only."""
        left = self.answered - self._gone
        for place, message in enumerate(self._kept, self._dropped):
            count = _elements(message)
            if count is None:
                return False
            if left < count:
                self._begin = (place, _rest(message, left)) if left else (place, None)
                return True
            left -= count
        self._begin = self._dropped + len(self._kept), None
        return left == 0

    def messages(self, first: Message) -> Iterator[Message]:
        """The messages of one call, of which the first says what is followed."""
        yield first
        place, cut = self._begin
        if cut is not None:
            place += 1
            yield cut
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

    async def async_messages(self, first: Message) -> AsyncIterator[Message]:
        """The messages of one asyncio call. That it is cancelled does not cancel the source."""
        yield first
        place, cut = self._begin
        if cut is not None:
            place += 1
            yield cut
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
        """Forget messages, once the call has sent them, if they are more than are to be kept."""
        if self._size <= self._limit or place != self._dropped + len(self._kept):
            return
        while self._kept and (count := _elements(self._kept[0])) is not None:
            if self._gone + count > self.answered:
                break
            self._gone += count
            self._dropped += 1
            self._size -= self._kept.pop(0).ByteSize()
        if self._size > self._limit:
            self._dropped, self._kept, self._size = place, [], 0
            self._gone = _UNKNOWN


_UNKNOWN = -1 << 62
"""More is left than any messages have: what was not answered is no longer known."""


def _elements(message: Any) -> int | None:
    """How many elements a message has; None: not known before the server has read it."""
    kind = message.WhichOneof("message")
    return len(message.ids.ids) if kind == "ids" else 0 if kind == "flush" else None


def _rest(message: Any, answered: int) -> Message:
    """A message of ids without the first ones."""
    return pb.FollowRequest(ids=pb.Ids(ids=message.ids.ids[answered:]))
