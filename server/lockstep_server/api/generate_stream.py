"""One stream of chunks on its way out: what is ready goes into one message.

engine's chunks -> waiting ones joined -> one message -> written -> credit back to the engine. A
reader that stops leaves `write` waiting, no credit goes back, and the engine pauses the sequence.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from .. import messages
from ..frontend.tracing import current

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..frontend.flush_control import FlushController
    from ..frontend.requests import InferenceRequest, InFlightRequests
    from .instrumentation import Context

_CREDITS_A_MESSAGE = messages.STREAM_CREDITS // 4
"""Chunks that are credited together."""


class TokenStream:
    """The chunks of one autoregressive request, and its end."""

    def __init__(
        self, calls: InFlightRequests, flush_control: FlushController, ask: InferenceRequest
    ) -> None:
        self._calls, self._flush_control, self._ask = calls, flush_control, ask
        self._chunks: list[messages.Chunk] = []
        self._sent = 0.0
        self._event: messages.Event | None = None
        self._updates = asyncio.Event()
        self._uncredited = 0
        self._last = 0.0
        self._accepted = time.monotonic()
        self._key = 0

    async def write_all(
        self, context: Context, reply: Callable[[messages.Chunk | None, messages.Event | None], Any]
    ) -> None:
        """Write messages until the sequence ends; the last one has its event.

        Raises:
            ServingError: the sequence ended with an error; what came before it was written.
        """
        self._key = self._calls.start(self._ask, self._end, self._take)
        try:
            event = None
            while event is None:
                await self._updates.wait()
                self._updates.clear()
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
        meters.record_tokens(tokens)
        if self._last:
            meters.record_later_tokens(tokens, (now - self._last) / tokens)
        else:
            trace = current.get()
            meters.record_first_token(now - self._accepted, trace.id if trace is not None else "")
        self._last = now

    def _wrote(self, chunks: int) -> None:
        self._flush_control.wrote(time.monotonic() - self._sent)
        self._uncredited += chunks
        if self._uncredited >= _CREDITS_A_MESSAGE:
            self._calls.send(messages.Credit(self._key, self._uncredited))
            self._uncredited = 0

    def _take(self, chunk: messages.Chunk, sent: float) -> None:
        self._sent = sent
        self._chunks.append(chunk)
        self._updates.set()

    def _end(self, event: messages.Event) -> None:
        self._event = event
        self._sent = self._sent or time.monotonic()
        self._updates.set()


def join(chunks: Sequence[messages.Chunk]) -> messages.Chunk | None:
    """Chunks of one stream, in order, as one."""
    if len(chunks) < 2:
        return chunks[0] if chunks else None
    return messages.Chunk(
        chunks[0].key,
        [token for chunk in chunks for token in chunk.ids],
        "".join(chunk.text for chunk in chunks),
        [one for chunk in chunks for one in chunk.log_probabilities],
        [row for chunk in chunks for row in chunk.attention],
        tuple(piece for chunk in chunks for piece in chunk.pieces),
        chunks[0].source,
    )
