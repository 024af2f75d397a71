"""Streams generated tokens to a client.

chunks from the engine -> all pending chunks joined -> one message -> written -> credits to the engine.
If the client stops reading, `write` blocks, no credits are returned, and the engine pauses the sequence.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from .. import messages
from ..frontend.callers import current as caller_of_task
from ..frontend.tracing import current

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..frontend.flush_control import FlushController
    from ..frontend.inference_request import InferenceRequest
    from ..frontend.requests import InFlightRequests
    from .generate import MakeReply
    from .status import Context

_CREDIT_BATCH = messages.STREAM_CREDITS // 4
"""Written chunks after which credits are returned, in one message."""


class TokenStream:
    """Writes the chunks and the final event of one generation request."""

    def __init__(
        self, requests: InFlightRequests, flush_control: FlushController, inference: InferenceRequest
    ) -> None:
        self._requests, self._flush_control, self._inference = requests, flush_control, inference
        self._chunks: list[messages.Chunk] = []
        self._sent = 0.0
        self._event: messages.Event | None = None
        self._updates = asyncio.Event()
        self._uncredited = 0
        self._last = 0.0
        self._accepted = time.monotonic()
        self._key = 0

    async def write_all(self, context: Context, make_reply: MakeReply) -> None:
        """Write replies until the sequence ends; the last one has the final event.

        Raises:
            ServingError: the sequence failed. Tokens generated before were written.
        """
        self._key = self._requests.start(self._inference, self._on_event, self._on_chunk)
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
                    self._count_tokens(tokens)
                    await context.write(make_reply(joined, None if failed else event))
                    self._wrote(len(chunks))
            if event.error is not None:
                raise event.error
        finally:
            if self._event is None:
                self._requests.cancel(self._key)

    def _count_tokens(self, tokens: int) -> None:
        """Called before the write: if the client takes the message and cancels, `write` does not return."""
        if not tokens:
            return
        now, meters = time.monotonic(), self._inference.served.meters
        meters.record_tokens(tokens)
        message = self._inference.message
        beams = message.beams if isinstance(message, messages.Generate) else 1
        self._requests.usage.add_tokens(caller_of_task.get(), tokens * beams)
        if self._last:
            meters.record_later_tokens(tokens, (now - self._last) / tokens)
        else:
            trace = current.get()
            meters.record_first_token(now - self._accepted, trace.id if trace is not None else "")
        self._last = now

    def _wrote(self, chunks: int) -> None:
        self._flush_control.record_written(time.monotonic() - self._sent)
        self._uncredited += chunks
        if self._uncredited >= _CREDIT_BATCH:
            self._requests.send(messages.Credit(self._key, self._uncredited))
            self._uncredited = 0

    def _on_chunk(self, chunk: messages.Chunk, sent: float) -> None:
        self._sent = sent
        self._chunks.append(chunk)
        self._updates.set()

    def _on_event(self, event: messages.Event) -> None:
        self._event = event
        self._sent = self._sent or time.monotonic()
        self._updates.set()


async def write_samples(streams: Sequence[TokenStream], context: Context, make: Sequence[MakeReply]) -> None:
    """Write the replies of several streams of one call, each as it comes. If one fails, all end.

    Raises:
        ServingError: that of the first sequence that failed.
    """
    writer = _OneAtATime(context)
    tasks = [
        asyncio.ensure_future(stream.write_all(writer, one))
        for stream, one in zip(streams, make, strict=True)
    ]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _OneAtATime:
    """Writes one message after the other."""

    def __init__(self, context: Context) -> None:
        self._context, self._lock = context, asyncio.Lock()

    async def write(self, message: Any) -> None:
        async with self._lock:
            await self._context.write(message)


def join(chunks: Sequence[messages.Chunk]) -> messages.Chunk | None:
    """Join consecutive chunks of one stream. None if there are none."""
    if len(chunks) < 2:
        return chunks[0] if chunks else None
    return messages.Chunk(
        key=chunks[0].key,
        ids=[token for chunk in chunks for token in chunk.ids],
        text="".join(chunk.text for chunk in chunks),
        log_probabilities=[one for chunk in chunks for one in chunk.log_probabilities],
        attention=[row for chunk in chunks for row in chunk.attention],
        token_texts=[text for chunk in chunks for text in chunk.token_texts],
        top=[one for chunk in chunks for one in chunk.top],
    )
