"""Streams with many requests in flight.

messages read -> requests started -> events in any order -> results queued -> messages written.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import grpc

from ..errors import ErrorCode, ServingError
from ..frontend.callers import current

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .. import messages
    from ..frontend.inference_request import InferenceRequest
    from ..frontend.registry import ModelRegistry
    from ..frontend.requests import InFlightRequests
    from .status import Context

Result = TypeVar("Result")

_READ_TIMEOUT_S = 0.1
"""If nothing arrives for this long, the client waits for the status."""

_PACED_S, _GAP_S = 0.3, 0.002
"""A client that goes on for so long is left in a gap between two messages, when it is not in a write."""

_DRAIN_TIMEOUT_S = 2.0

_FIRST_REQUESTS = 16
"""Requests in flight on a stream before the size of an answer is known."""

MAX_UNWRITTEN_BYTES = 32 << 20
"""Answers of one stream that wait for their reader, and those that requests in flight are expected to get."""


async def write_in_time(context: Context, message: Any, stall_s: float) -> None:
    """Write one message of a stream.

    Raises:
        ServingError: SEQUENCE_LOST, the client has not taken it for `stall_s` seconds.
    """
    try:
        async with asyncio.timeout(stall_s):
            await context.write(message)
    except TimeoutError:
        why = f"the client read nothing for {stall_s:g} s (max_stall_s); read the stream or cancel the call"
        raise ServingError(ErrorCode.SEQUENCE_LOST, why) from None


class Reader:
    """The task that reads a stream's messages. After a failure it drops what still arrives, for at most 2 s.

    Some clients report a failed write instead of the status if the stream ends while they write.
    """

    def __init__(self, context: Context, take: Callable[[Any], Awaitable[None]]) -> None:
        self._context, self._take = context, take
        self._dropping, self._arrived = False, asyncio.Event()
        self._taking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Read until the client has sent all.

        Raises:
            ServingError: as `take`.
        """
        while (message := await self._context.read()) is not grpc.aio.EOF:
            self._arrived.set()
            if not self._dropping:
                await self._take(message)

    async def drain(self, task: asyncio.Task[None]) -> None:
        """Drop what arrives until nothing more does. `task` runs `run`."""
        self._dropping = True
        if task.done():
            await drain_reads(self._context)
            return
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                while not task.done():
                    gap_s = _READ_TIMEOUT_S if loop.time() - begun < _PACED_S else _GAP_S
                    self._arrived.clear()
                    arrived = asyncio.ensure_future(self._arrived.wait())
                    try:
                        done, _ = await asyncio.wait(
                            (task, arrived), timeout=gap_s, return_when=asyncio.FIRST_COMPLETED
                        )
                    finally:
                        arrived.cancel()
                    if not done:
                        return


async def drain_reads(context: Context) -> None:
    """Read and drop the remaining messages of a failed stream, for at most 2 s.

    Some clients report a failed write instead of the status if the stream ends while they write.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_TIMEOUT_S):
            while await asyncio.wait_for(context.read(), _READ_TIMEOUT_S) is not grpc.aio.EOF:
                pass


class StreamLimits(NamedTuple):
    """Bounds of one stream."""

    max_inflight: int  # requests in flight and unwritten results
    stall_s: float  # how long the client may take nothing


class PipelinedStream(ABC, Generic[Result]):
    """A stream whose results are written as they become ready.

    A task reads messages and starts requests; the handler writes. At `max_inflight` requests and unwritten
    results, or at `MAX_UNWRITTEN_BYTES` of results, the reader pauses, so that HTTP/2 flow control slows the
    client down. A stream whose client takes nothing for `stall_s` is ended.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        requests: InFlightRequests,
        context: Context,
        limits: StreamLimits,
    ) -> None:
        self._registry, self._requests, self._context = registry, requests, context
        self._inflight: set[int] = set()
        self._ready: deque[Result] = deque()
        self._updates = asyncio.Event()
        self._room = asyncio.Event()
        self._max_inflight, self._stall_s = limits
        self._dropped = False
        self._ready_bytes = 0
        self._answer_bytes: float | None = None  # the largest lately; None: there was no answer yet
        self._peer = current.get().name
        self._ended = False

    async def run(self) -> None:
        """
        Raises:
            ServingError: a message is invalid, or the client takes nothing.
        """
        reader = Reader(self._context, self._begin)
        reading = asyncio.create_task(self._read(reader))
        try:
            await self._write()
            await reading
        except ServingError:
            self._drop()
            await reader.drain(reading)
            raise
        finally:
            reading.cancel()
            self._drop()

    def _drop(self) -> None:
        """Cancel all requests, forget all results, and take no more of either."""
        self._dropped = True
        for key in list(self._inflight):
            self._requests.cancel(key)
        self._inflight.clear()
        self._ready.clear()
        self._ready_bytes = 0
        self._room.set()

    @abstractmethod
    async def _begin(self, request: Any) -> None:
        """Start the requests of one message.

        Raises:
            ServingError: ends the stream, after the results of earlier messages are written.
        """

    @abstractmethod
    async def _next_message(self) -> Any:
        """Take results from `_ready` and make the next message of them."""

    def _start(self, inference: InferenceRequest, on_event: Callable[[messages.Event], None]) -> None:
        """Accept one request; `on_event` is called with its event.

        Raises:
            ServingError: the request is refused.
        """
        if self._dropped:
            return
        key = 0

        def end(event: messages.Event) -> None:
            self._inflight.discard(key)
            size = sum(array.nbytes for array in event.outputs.values()) if event.outputs else 0
            self._ready_bytes += size
            self._answer_bytes = max(size, 0.9 * (self._answer_bytes or 0.0))
            on_event(event)

        key = self._requests.start(inference, end)
        self._inflight.add(key)

    def _queue(self, result: Result) -> None:
        """Queue a result. Its message is made by the writer, so that an error there ends this stream only."""
        if self._dropped:
            return
        self._ready.append(result)
        self._updates.set()

    def _is_full(self) -> bool:
        waiting = len(self._inflight) + len(self._ready)
        if self._answer_bytes is None:
            return waiting >= min(self._max_inflight, _FIRST_REQUESTS)
        expected = self._ready_bytes + len(self._inflight) * self._answer_bytes
        return waiting >= self._max_inflight or expected >= MAX_UNWRITTEN_BYTES

    async def _wait_for_room(self) -> None:
        """Wait while as many requests and results as may be are in flight or unwritten."""
        while self._is_full():
            self._room.clear()
            await self._room.wait()

    async def _read(self, reader: Reader) -> None:
        try:
            await reader.run()
        finally:
            self._ended = True
            self._updates.set()

    async def _write(self) -> None:
        while self._ready or self._inflight or not self._ended:
            while self._ready:
                message = await self._next_message()
                if not self._ready:
                    self._ready_bytes = 0
                await write_in_time(self._context, message, self._stall_s)
                self._room.set()
            self._updates.clear()
            self._room.set()
            if not self._ended or self._inflight:
                await self._updates.wait()
