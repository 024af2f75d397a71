"""A stream with many requests in flight: read and started beside one another, answered as they are ready."""

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

A = TypeVar("A")

_QUIET_S = 0.1
"""Nothing comes for so long: who is refused waits for an answer."""

_LINGER_S = 2.0


async def linger(context: Context) -> None:
    """Take what is on its way to a stream that is refused, until there is no more: some clients whose write
    is cut short tell of that, not of the error."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while await asyncio.wait_for(context.read(), _QUIET_S) is not grpc.aio.EOF:
                pass


class PipelinedStream(ABC, Generic[A]):
    """One such stream; an `A` is an answer that waits to be written.

    A task reads and starts requests, the handler writes. Past `max_inflight` the reader waits, and
    HTTP/2's own flow control reaches the client.
    """

    def __init__(
        self, registry: ModelRegistry, calls: InFlightRequests, context: Context, max_inflight: int
    ) -> None:
        self._registry, self._calls, self._context = registry, calls, context
        self._inflight: set[int] = set()
        self._ready: deque[A] = deque()
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
                await linger(self._context)
            raise
        finally:
            reader.cancel()
            for key in list(self._inflight):
                self._calls.cancel(key)

    @abstractmethod
    def _begin(self, request: Any) -> None:
        """Start what one message asks.

        Raises:
            ServingError: it ends the stream, once all before it has been answered.
        """

    @abstractmethod
    def _next_message(self) -> Any:
        """Of what is ready, take what one message holds."""

    def _start(self, ask: InferenceRequest, say: Callable[[messages.Event], None]) -> None:
        """Accept one request; `say` is called with its event.

        Raises:
            ServingError: it is refused at the door.
        """
        key = 0

        def resolve(event: messages.Event) -> None:
            self._inflight.discard(key)
            say(event)

        key = self._calls.start(ask, resolve)
        self._inflight.add(key)

    def _say(self, answer: A) -> None:
        """Queue an answer. Its message is made when it is written, so that its faults are this stream's."""
        self._ready.append(answer)
        self._updates.set()

    async def _read(self) -> None:
        try:
            while (request := await self._context.read()) is not grpc.aio.EOF:
                self._begin(request)
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
