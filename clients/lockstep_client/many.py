"""`Outcomes` and `AsyncOutcomes`: many items pipelined over one stream, blocking or with asyncio.

    source → `ItemTracker` → messages → the wire → `ItemTracker` → outcomes, to the iterating caller

A thread (Client) or task (AsyncClient) reads the source while there is room, concurrently with the results.
Each message holds all items that are ready when it is written. If the stream breaks because the server went
away, it is reopened and the items without a result are sent again.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc

from lockstep_client import arguments, errors
from lockstep_client.closing import AsyncClosing, Closing
from lockstep_client.item_tracker import ItemTracker
from lockstep_client.streams import task_cancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from google.protobuf.message import Message

    from lockstep_client.protocol import ManyCall
    from lockstep_client.results import Outcome

G = TypeVar("G")
R = TypeVar("R")


class _Pipeline(Generic[G, R]):
    """The state of both kinds of outcomes: the call, its items, its deadline and how it ended."""

    def __init__(
        self,
        call: ManyCall[G, R],
        open_: Callable[[Any, float], Any],
        check: Callable[[int], None],
        to_error: Callable[[grpc.RpcError], errors.LockstepError],
        *,
        retries: bool,
    ) -> None:
        self._call, self._open, self._to_error = call, open_, to_error
        self._tracker: ItemTracker[G, R] = ItemTracker(call, check, retries=retries)
        self._rpc: Any = None
        self._started = self._closed = False
        self._failure: Exception | None = None
        self._deadline = math.inf
        self._streams = 0

    def _start(self) -> None:
        if self._started or self._closed:
            raise errors.Cancelled("outcomes already read or closed: make a new call")
        self._started = True
        self._deadline = time.monotonic() + self._call.timeout_s

    def _connect(self, messages: Any) -> None:
        if self._closed:
            raise errors.Cancelled("outcomes closed before their end: make a new call")
        self._rpc = self._open(messages, max(0.0, self._deadline - time.monotonic()))

    def _pause_s(self, error: grpc.RpcError) -> float:
        """Seconds to wait before reopening the stream. Raises if it must not be reopened."""
        if self._closed:
            raise errors.Cancelled("outcomes closed before their end: make a new call")
        failure, now = self._to_error(error), time.monotonic()
        if now >= self._deadline:
            failure = errors.DeadlineExceeded(
                f"not all items answered within {self._call.timeout_s:g} s: increase timeout_s"
            )
        pause_s = self._tracker.stream_broke(failure, now)
        if pause_s is None or now + pause_s > self._deadline:
            raise self._failure or failure from error
        return pause_s

    def _check_end(self) -> None:
        if not self._tracker.finished:
            raise errors.ServerFailure("the server ended the stream before answering every item")

    def _raise_source_error(self) -> None:
        """Raise the exception of the source, after all outcomes have been delivered."""
        if self._failure:
            raise self._failure


class Outcomes(_Pipeline[G, R], Closing):
    """One `Outcome` per item. Iterate once; sending starts with the iteration.

        with client.classify_many("sentiment-lstm", lines) as outcomes:
            for outcome in outcomes:
                print(outcome.number, outcome.error or outcome.answer.best.name)

    Leaving the loop, by break or by an exception, cancels the items in flight. An exception raised by the
    source is raised here after the outcomes of all earlier items. An error of the whole stream is raised as
    one of `lockstep_client.errors`; an error of one item is in its outcome.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[Outcome[G, R]]:
        self._start()
        threading.Thread(target=self._take_items, name="lockstep-items", daemon=True).start()
        try:
            while not self._tracker.finished:
                yield from self._receive()
            yield from self._readable()
            self._raise_source_error()
        finally:
            self.close()

    def _receive(self) -> Iterator[Outcome[G, R]]:
        """Yield the outcomes from one stream until it ends or breaks. Raises if it must not be reopened."""
        self._connect(self._messages())
        try:
            for reply in self._rpc:
                with self._changed:
                    self._tracker.settle(reply, time.monotonic())
                    self._changed.notify_all()
                yield from self._readable()
            self._check_end()
        except grpc.RpcError as error:
            with self._changed:
                self._streams += 1
                pause_s = self._pause_s(error)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed, pause_s)

    def _readable(self) -> Iterator[Outcome[G, R]]:
        while (outcome := self._next()) is not None:
            yield outcome

    def _next(self) -> Outcome[G, R] | None:
        with self._changed:
            outcome = self._tracker.next_outcome()
            self._changed.notify_all()
        return outcome

    def _messages(self) -> Iterator[Message]:
        """The messages of one stream, until every item is answered or the stream has broken."""
        stream = self._streams
        while (message := self._next_message(stream)) is not None:
            yield message

    def _next_message(self, stream: int) -> Message | None:
        with self._changed:
            while stream == self._streams and not (self._closed or self._tracker.finished):
                message = self._tracker.message(time.monotonic())
                if message is not None:
                    return message
                self._changed.wait(self._tracker.wait_s(time.monotonic()))
        return None

    def _take_items(self) -> None:
        try:
            if isinstance(self._call.source, AsyncIterable):
                raise arguments.invalid("given", "async iterables need an AsyncClient")
            for item in self._call.source:
                with self._changed:
                    self._changed.wait_for(lambda: self._tracker.has_room or self._closed)
                    if self._closed:
                        return
                    self._tracker.take(item)
                    self._changed.notify_all()
        except Exception as error:
            self._failure = error
        finally:
            with self._changed:
                self._tracker.ended = True
                self._changed.notify_all()

    def close(self) -> None:
        """Cancel the items in flight."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._rpc is not None:
            self._rpc.cancel()


class AsyncOutcomes(_Pipeline[G, R], AsyncClosing):
    """One `Outcome` per item. Iterate once; sending starts with the iteration.

        async with client.classify_many("sentiment-lstm", lines) as outcomes:
            async for outcome in outcomes:
                print(outcome.number, outcome.error or outcome.answer.best.name)

    Leaving the loop, by break or by an exception, cancels the items in flight. An exception raised by the
    source is raised here after the outcomes of all earlier items. An error of the whole stream is raised as
    one of `lockstep_client.errors`; an error of one item is in its outcome.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._room, self._changed = asyncio.Event(), asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Outcome[G, R]]:
        self._start()
        taker = asyncio.ensure_future(self._take_items())
        try:
            while not self._tracker.finished:
                self._connect(self._messages())
                try:
                    async for reply in self._rpc:
                        self._tracker.settle(reply, time.monotonic())
                        for outcome in self._readable():
                            yield outcome
                    self._check_end()
                except grpc.RpcError as error:
                    await self._pause(error)
            for outcome in self._readable():
                yield outcome
            self._raise_source_error()
        except asyncio.CancelledError:
            if task_cancelled():
                raise
            raise errors.Cancelled("outcomes closed before their end: make a new call") from None
        finally:
            taker.cancel()
            await self.close()

    async def _pause(self, error: grpc.RpcError) -> None:
        self._streams += 1
        self._changed.set()
        await asyncio.sleep(self._pause_s(error))

    def _readable(self) -> Iterator[Outcome[G, R]]:
        while (outcome := self._tracker.next_outcome()) is not None:
            self._room.set()
            yield outcome
        self._changed.set()

    async def _messages(self) -> AsyncIterator[Message]:
        """The messages of one stream, until every item is answered or the stream has broken."""
        stream = self._streams
        while stream == self._streams and not (self._closed or self._tracker.finished):
            message = self._tracker.message(time.monotonic())
            if message is not None:
                yield message
                continue
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._tracker.wait_s(time.monotonic())):
                    await self._changed.wait()

    async def _take_items(self) -> None:
        try:
            if isinstance(self._call.source, AsyncIterable):
                async for item in self._call.source:
                    await self._take(item)
            else:
                for item in self._call.source:
                    await self._take(item)
        except Exception as error:
            self._failure = error
        finally:
            self._tracker.ended = True
            self._changed.set()

    async def _take(self, item: G) -> None:
        while not self._tracker.has_room:
            self._room.clear()
            await self._room.wait()
        self._tracker.take(item)
        self._changed.set()

    async def close(self) -> None:
        """Cancel the items in flight."""
        self._closed = True
        self._changed.set()
        if self._rpc is not None:
            self._rpc.cancel()
