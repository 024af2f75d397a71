"""`Outcomes` and `AsyncOutcomes`: many questions over one stream, blocking or with asyncio.

    what is given → feeder → `Ledger` → messages → the wire → `Ledger` → outcomes, to whoever iterates

The feeder takes questions while there is room, beside the reading: a thread of a Client, a task of an
AsyncClient. What is ready to be sent when a message is made goes in it. A stream that breaks because the
server went away is opened again, and what had no answer goes again.
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
from lockstep_client.ledger import ItemTracker
from lockstep_client.streams import own_cancellation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from google.protobuf.message import Message

    from lockstep_client.protocol import ManyCall
    from lockstep_client.results import Outcome

G = TypeVar("G")
R = TypeVar("R")


class _Pipeline(Generic[G, R]):
    """What both kinds share: the call, its account, and how it ends."""

    def __init__(
        self,
        call: ManyCall[G, R],
        open_: Callable[[Any, float], Any],
        check: Callable[[int], None],
        explain: Callable[[grpc.RpcError], errors.LockstepError],
        *,
        retries: bool,
    ) -> None:
        self._call, self._open, self._explain = call, open_, explain
        self._ledger: ItemTracker[G, R] = ItemTracker(call, check, retries=retries)
        self._rpc: Any = None
        self._begun = self._left = False
        self._failure: Exception | None = None
        self._ends = math.inf
        self._streams = 0

    def _begin(self) -> None:
        if self._begun or self._left:
            raise errors.Cancelled("these outcomes have been read, or left: ask again")
        self._begun = True
        self._ends = time.monotonic() + self._call.timeout_s

    def _connect(self, messages: Any) -> None:
        if self._left:
            raise errors.Cancelled("these outcomes were left before their end: ask again")
        self._rpc = self._open(messages, max(0.0, self._ends - time.monotonic()))

    def _pause_s(self, error: grpc.RpcError) -> float:
        """Seconds until the stream is opened again; raises where it is not."""
        if self._left:
            raise errors.Cancelled("these outcomes were left before their end: ask again")
        told, now = self._explain(error), time.monotonic()
        if now >= self._ends:
            told = errors.DeadlineExceeded(f"not all was answered within {self._call.timeout_s:g} s")
        pause_s = self._ledger.lost(told, now)
        if pause_s is None or now + pause_s > self._ends:
            raise self._failure or told from error
        return pause_s

    def _check_end(self) -> None:
        """The server has ended the stream."""
        if not self._ledger.finished:
            raise errors.ServerFailure("the stream ended before everything was answered")

    def _over(self) -> None:
        """All outcomes have been read: what the given raised is met now."""
        if self._failure:
            raise self._failure


class Outcomes(_Pipeline[G, R], Closing):
    """An `Outcome` for each question, to be iterated over once. Asking begins with the iteration.

        with client.classify_many("sentiment-lstm", lines) as outcomes:
            for one in outcomes:
                print(one.number, one.error or one.answer.best.name)

    Who leaves the loop, by break or by an exception, cancels what is on its way. What the given raises, the
    reader meets after the outcomes of all that came before. An error that ends the stream is raised, as one
    of `lockstep_client.errors`; one that concerns a single question is its outcome's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._news = threading.Condition()

    def __iter__(self) -> Iterator[Outcome[G, R]]:
        self._begin()
        threading.Thread(target=self._feed, name="lockstep-feeder", daemon=True).start()
        try:
            while not self._ledger.finished:
                yield from self._received()
            yield from self._readable()
            self._over()
        finally:
            self.close()

    def _received(self) -> Iterator[Outcome[G, R]]:
        """What one stream brings until it ends, or breaks and may be opened again."""
        self._connect(self._messages())
        try:
            for reply in self._rpc:
                with self._news:
                    self._ledger.settle(reply, time.monotonic())
                    self._news.notify_all()
                yield from self._readable()
            self._check_end()
        except grpc.RpcError as error:
            with self._news:
                self._streams += 1
                pause_s = self._pause_s(error)
                self._news.notify_all()
                self._news.wait_for(lambda: self._left, pause_s)

    def _readable(self) -> Iterator[Outcome[G, R]]:
        while (outcome := self._next()) is not None:
            yield outcome

    def _next(self) -> Outcome[G, R] | None:
        with self._news:
            outcome = self._ledger.read()
            self._news.notify_all()
        return outcome

    def _messages(self) -> Iterator[Message]:
        """For one stream, until everything is answered or the stream is no more."""
        stream = self._streams
        while (message := self._next_message(stream)) is not None:
            yield message

    def _next_message(self, stream: int) -> Message | None:
        with self._news:
            while stream == self._streams and not (self._left or self._ledger.finished):
                message = self._ledger.message(time.monotonic())
                if message is not None:
                    return message
                self._news.wait(self._ledger.due_s(time.monotonic()))
        return None

    def _feed(self) -> None:
        try:
            if isinstance(self._call.given, AsyncIterable):
                raise arguments.wrong("given", "an asynchronous iterable: use an AsyncClient")
            for given in self._call.given:
                with self._news:
                    self._news.wait_for(lambda: self._ledger.has_room or self._left)
                    if self._left:
                        return
                    self._ledger.take(given)
                    self._news.notify_all()
        except Exception as error:
            self._failure = error
        finally:
            with self._news:
                self._ledger.ended = True
                self._news.notify_all()

    def close(self) -> None:
        """Cancel what is still on its way."""
        with self._news:
            self._left = True
            self._news.notify_all()
        if self._rpc is not None:
            self._rpc.cancel()


class AsyncOutcomes(_Pipeline[G, R], AsyncClosing):
    """An `Outcome` for each question, to be iterated over once. Asking begins with the iteration.

        async with client.classify_many("sentiment-lstm", lines) as outcomes:
            async for one in outcomes:
                print(one.number, one.error or one.answer.best.name)

    Who leaves the loop, by break or by an exception, cancels what is on its way. What the given raises, the
    reader meets after the outcomes of all that came before. An error that ends the stream is raised, as one
    of `lockstep_client.errors`; one that concerns a single question is its outcome's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._room, self._news = asyncio.Event(), asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Outcome[G, R]]:
        self._begin()
        feeder = asyncio.ensure_future(self._feed())
        try:
            while not self._ledger.finished:
                self._connect(self._messages())
                try:
                    async for reply in self._rpc:
                        self._ledger.settle(reply, time.monotonic())
                        for one in self._readable():
                            yield one
                    self._check_end()
                except grpc.RpcError as error:
                    await self._pause(error)
            for one in self._readable():
                yield one
            self._over()
        except asyncio.CancelledError:
            if own_cancellation():
                raise
            raise errors.Cancelled("these outcomes were left before their end: ask again") from None
        finally:
            feeder.cancel()
            await self.close()

    async def _pause(self, error: grpc.RpcError) -> None:
        self._streams += 1
        self._news.set()
        await asyncio.sleep(self._pause_s(error))

    def _readable(self) -> Iterator[Outcome[G, R]]:
        while (outcome := self._ledger.read()) is not None:
            self._room.set()
            yield outcome
        self._news.set()

    async def _messages(self) -> AsyncIterator[Message]:
        """For one stream, until everything is answered or the stream is no more."""
        stream = self._streams
        while stream == self._streams and not (self._left or self._ledger.finished):
            message = self._ledger.message(time.monotonic())
            if message is not None:
                yield message
                continue
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._ledger.due_s(time.monotonic())):
                    await self._news.wait()

    async def _feed(self) -> None:
        try:
            if isinstance(self._call.given, AsyncIterable):
                async for given in self._call.given:
                    await self._take(given)
            else:
                for given in self._call.given:
                    await self._take(given)
        except Exception as error:
            self._failure = error
        finally:
            self._ledger.ended = True
            self._news.set()

    async def _take(self, given: G) -> None:
        while not self._ledger.has_room:
            self._room.clear()
            await self._room.wait()
        self._ledger.take(given)
        self._news.set()

    async def close(self) -> None:
        """Cancel what is still on its way."""
        self._left = True
        self._news.set()
        if self._rpc is not None:
            self._rpc.cancel()
