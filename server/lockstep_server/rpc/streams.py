"""One stream of chunks on its way out: what is ready goes into one message.

engine's chunks -> waiting ones joined -> one message -> written -> credit back to the engine. A
reader that stops leaves `write` waiting, no credit goes back, and the engine pauses the sequence.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from .. import port
from .traces import current

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .calls import Ask, Calls
    from .interceptors import Context
    from .pacing import Pacer

_CREDITS_A_MESSAGE = port.CREDITS // 4
"""Chunks that are credited together."""


class Stream:
    """The chunks of one autoregressive request, and its end."""

    def __init__(self, calls: Calls, pacer: Pacer, ask: Ask) -> None:
        self._calls, self._pacer, self._ask = calls, pacer, ask
        self._chunks: list[port.Chunk] = []
        self._sent = 0.0
        self._event: port.Event | None = None
        self._news = asyncio.Event()
        self._uncredited = 0
        self._last = 0.0
        self._accepted = time.monotonic()
        self._key = 0

    async def write_all(
        self, context: Context, reply: Callable[[port.Chunk | None, port.Event | None], Any]
    ) -> None:
        """Write messages until the sequence ends; the last one has its event.

        Raises:
            ServingError: the sequence ended with an error; what came before it was written.
        """
        self._key = self._calls.start(self._ask, self._end, self._take)
        try:
            event = None
            while event is None:
                await self._news.wait()
                self._news.clear()
                chunks, self._chunks, event = self._chunks, [], self._event
                failed = event is not None and event.error is not None
                if chunks or not failed:
                    joined = join(chunks)
                    tokens = len(joined.ids) if joined is not None else 0
                    self._hand_over(tokens)
                    await context.write(reply(joined, None if failed else event))
                    self._wrote(len(chunks))
            if event.error is not None:
                raise event.error
        finally:
            if self._event is None:
                self._calls.cancel(self._key)

    def _hand_over(self, tokens: int) -> None:
        """Count before the write: a reader that takes a message and leaves ends the write in its middle."""
        if not tokens:
            return
        now, meters = time.monotonic(), self._ask.served.meters
        meters.sent(tokens)
        if self._last:
            meters.went_on(tokens, (now - self._last) / tokens)
        else:
            trace = current.get()
            meters.began(now - self._accepted, trace.id if trace is not None else "")
        self._last = now

    def _wrote(self, chunks: int) -> None:
        self._pacer.wrote(time.monotonic() - self._sent)
        self._uncredited += chunks
        if self._uncredited >= _CREDITS_A_MESSAGE:
            self._calls.send(port.Credit(self._key, self._uncredited))
            self._uncredited = 0

    def _take(self, chunk: port.Chunk, sent: float) -> None:
        self._sent = sent
        self._chunks.append(chunk)
        self._news.set()

    def _end(self, event: port.Event) -> None:
        self._event = event
        self._sent = self._sent or time.monotonic()
        self._news.set()


def join(chunks: Sequence[port.Chunk]) -> port.Chunk | None:
    """Chunks of one stream, in order, as one."""
    if len(chunks) < 2:
        return chunks[0] if chunks else None
    return port.Chunk(
        chunks[0].key,
        [token for chunk in chunks for token in chunk.ids],
        "".join(chunk.text for chunk in chunks),
        [one for chunk in chunks for one in chunk.log_probabilities],
        [row for chunk in chunks for row in chunk.attention],
        tuple(piece for chunk in chunks for piece in chunk.pieces),
        chunks[0].source,
    )
