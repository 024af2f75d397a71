"""Streams with many requests in flight.

messages read -> requests started -> events in any order -> results queued -> messages written.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc

from ..errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import messages
    from ..frontend.registry import ModelRegistry
    from ..frontend.requests import InferenceRequest, InFlightRequests
    from .instrumentation import Context

Result = TypeVar("Result")

_READ_TIMEOUT_S = 0.1
"""If nothing arrives for this long, the client waits for the status."""

_DRAIN_TIMEOUT_S = 2.0


async def drain_reads(context: Context) -> None:
    """Read and drop the remaining messages of a failed stream, for at most 2 s.

    Some clients report a failed write instead of the status if the stream ends while they write.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_TIMEOUT_S):
            while await asyncio.wait_for(context.read(), _READ_TIMEOUT_S) is not grpc.aio.EOF:
                pass


class PipelinedStream(ABC, Generic[Result]):
    """A stream whose results are written as they become ready.

    A task reads messages and starts requests; the handler writes. At `max_inflight` requests and unwritten
    results the reader pauses, so that HTTP/2 flow control slows the client down.
    """

    def __init__(
        self, registry: ModelRegistry, requests: InFlightRequests, context: Context, max_inflight: int
    ) -> None:
        self._registry, self._requests, self._context = registry, requests, context
        self._inflight: set[int] = set()
        self._ready: deque[Result] = deque()
        self._updates = asyncio.Event()
        self._room = asyncio.Event()
        self._max_inflight = max_inflight
        self._peer = context.peer()
        self._ended = False

    async def run(self) -> None:
        reader = asyncio.create_task(self._read())
        try:
            await self._write()
            await reader
        except ServingError:
            if reader.done():
                await drain_reads(self._context)
            raise
        finally:
            reader.cancel()
            for key in list(self._inflight):
                self._requests.cancel(key)

    @abstractmethod
    async def _begin(self, request: Any) -> None:
        """Start the requests of one message.

        Raises:
            ServingError: ends the stream, after the results of earlier messages are written.
        """

    @abstractmethod
    def _next_message(self) -> Any:
        """Take results from `_ready` and make the next message of them."""

    def _start(self, inference: InferenceRequest, on_event: Callable[[messages.Event], None]) -> None:
        """Accept one request; `on_event` is called with its event.

        Raises:
            ServingError: the request is refused.
        """
        key = 0

        def end(event: messages.Event) -> None:
            self._inflight.discard(key)
            on_event(event)

        key = self._requests.start(inference, end)
        self._inflight.add(key)

    def _queue(self, result: Result) -> None:
        """Queue a result. Its message is made by the writer, so that an error there ends this stream only."""
        self._ready.append(result)
        self._updates.set()

    async def _read(self) -> None:
        try:
            while (request := await self._context.read()) is not grpc.aio.EOF:
                await self._begin(request)
                while len(self._inflight) + len(self._ready) >= self._max_inflight:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._ended = True
            self._updates.set()

    async def _write(self) -> None:
        while self._ready or self._inflight or not self._ended:
            while self._ready:
                await self._context.write(self._next_message())
                self._room.set()
            self._updates.clear()
            if not self._ended or self._inflight:
                await self._updates.wait()
