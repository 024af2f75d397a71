"""`Stream` and `AsyncStream`: the replies of one streaming RPC, blocking or with asyncio.

pieces → `RequestMessages` → the wire → parts, each kept until `result()` joins them. Leaving the loop, by
break or by an exception, cancels the RPC on the server, as do the end of a `with` statement, `close()`, and
dropping the last reference to the stream.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc

from lockstep_client import errors
from lockstep_client.closing import AsyncClosing, Closing
from lockstep_client.pieces import RequestMessages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

    from google.protobuf.message import Message

    from lockstep_client.protocol import StreamCall
    from lockstep_client.resumption import Resumption

_STATUS_TURNS, _STATUS_TURN_S = 100, 0.01
"""How often and how long to wait for the status of a stream that broke during a write."""

M = TypeVar("M")
R = TypeVar("R")


class _ReplyStream(Generic[M, R]):
    """The state of both kinds of stream: the parts received so far, and how the stream ended."""

    def __init__(
        self,
        call: StreamCall[M, R],
        resumption: Resumption[M],
        checked_size: Callable[[Message], Message],
        to_error: Callable[[grpc.RpcError], errors.LockstepError],
    ) -> None:
        self._call, self._to_error, self._resumption = call, to_error, resumption
        self._checked_size = checked_size
        self._resumed = False
        self._parts: list[M] = []
        self._repeated = 0
        """Replies to come that are those of parts which have arrived: of a stream that was begun again."""
        self._is_new, self._offset = True, 0
        self._finished = self._cancelled = False
        self._failure: Exception | None = None
        checked_size(call.request)
        self._requests = RequestMessages(call.pieces, checked_size, resumption.kept) if call.pieces else None
        self._rpc = self._start()

    @property
    def resumed(self) -> bool:
        """Whether its server was lost, or has moved it, and another call went on after the last part that had
        arrived. The parts are those that an uninterrupted stream would have had."""
        return self._resumed

    def _messages(self) -> Any:
        raise NotImplementedError

    def _start(self) -> Any:
        """Start the call, or the next one that goes on."""
        request = self._resumption.request
        return self._resumption.start(self._messages() if self._requests else self._checked_size(request))

    def _pause_s(self, error: grpc.RpcError) -> float | None:
        """How long to wait before the stream goes on; None: it has failed."""
        if self._cancelled or (self._requests and self._requests.failure):
            return None
        if self._requests:
            self._requests.answered = len(self._parts)
        return self._resumption.pause_s(error, self._parts, self._requests)

    def _resume(self) -> None:
        if self._cancelled:
            raise self._closing_error()
        self._rpc, self._resumed = self._start(), bool(self._parts)
        self._is_new = True
        self._repeated = len(self._parts) if self._resumption.begins_again else 0

    def _read_part(self, reply: Any) -> M | None:
        """The next part; None for one that has been read before."""
        if self._repeated:
            self._repeated -= 1
            return None
        part = self._call.read(reply)
        if self._is_new:
            self._offset = _offset(part, self._parts)
        if self._offset:
            one: Any = part
            part = replace(one, position=one.position + self._offset)
        self._parts.append(part)
        if self._is_new:
            self._is_new = False
            self._resumption.received(part)
        if self._requests:
            self._requests.answered = len(self._parts)
        return part

    def _finish(self) -> None:
        if self._requests and self._requests.failure:
            self._failure = self._requests.failure
            raise self._failure
        self._finished = True

    def _fail(self, error: grpc.RpcError) -> Exception:
        if not self._cancelled:
            self._failure = (self._requests and self._requests.failure) or self._to_error(error)
        return self._closing_error()

    def _closing_error(self) -> Exception:
        """The error for reading a stream that has failed or been cancelled."""
        return self._failure or errors.Cancelled("stream closed before its end: make a new call")

    def _cancel(self) -> None:
        if self._requests:
            self._requests.close()
        if not self._finished:
            self._cancelled = True
            self._rpc.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_rpc"):
            with suppress(RuntimeError):  # the event loop is closed, which has cancelled the call
                self._cancel()


class Stream(_ReplyStream[M, R], Closing):
    """The parts of a streamed reply. Iterate once; the call starts at once.

        with client.generate("shakespeare-char-lstm", "ROMEO:") as stream:
            for part in stream:
                print(part.text, end="")
        print(stream.result().reason)

    An error is raised as one of `lockstep_client.errors` after the parts received before it.
    """

    def __init__(self, *arguments: Any) -> None:
        self._closed = threading.Event()
        super().__init__(*arguments)

    def _messages(self) -> Any:
        return self._requests.messages(self._resumption.request) if self._requests else ()

    def __iter__(self) -> Iterator[M]:
        if self._cancelled:
            raise self._closing_error()
        try:
            while not self._finished:
                try:
                    for reply in self._rpc:
                        if (part := self._read_part(reply)) is not None:
                            yield part
                    self._finish()
                except grpc.RpcError as error:
                    if (pause_s := self._pause_s(error)) is None:
                        raise self._fail(error) from error
                    self._closed.wait(pause_s)
                    self._resume()
        finally:
            self._cancel()

    def result(self) -> R:
        """Read the remaining parts and join all of them. Raises Cancelled if the stream was closed early."""
        if not self._finished:
            for _ in self:
                pass
        return self._call.join(self._parts)

    def close(self) -> None:
        """Cancel the call. A reader that waits for a part gets Cancelled."""
        self._cancel()
        self._closed.set()


class AsyncStream(_ReplyStream[M, R], AsyncClosing):
    """The parts of a streamed reply. Iterate once; the call starts at once.

        async with client.generate("shakespeare-char-lstm", "ROMEO:") as stream:
            async for part in stream:
                print(part.text, end="")
        print((await stream.result()).reason)

    An error is raised as one of `lockstep_client.errors` after the parts received before it. Cancelling the
    task that waits for a part cancels the call.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._status = _ServerStatus(self._rpc)

    def _messages(self) -> Any:
        return self._requests.async_messages(self._resumption.request) if self._requests else ()

    async def __aiter__(self) -> AsyncIterator[M]:
        if self._cancelled:
            raise self._closing_error()
        try:
            while not self._finished:
                try:
                    async for reply in self._rpc:
                        if (part := self._read_part(reply)) is not None:
                            yield part
                    self._finish()
                except grpc.RpcError as error:
                    sent = await self._status.error(self._rpc, error)
                    if sent is None:
                        self._finish()
                    elif (pause_s := self._pause_s(sent)) is None:
                        raise self._fail(sent) from error
                    else:
                        await asyncio.sleep(pause_s)
                        self._resume()
                        self._status = _ServerStatus(self._rpc)
        except asyncio.CancelledError:
            if task_cancelled():
                raise
            raise self._closing_error() from None  # close() of the stream or of the client
        finally:
            self._cancel()

    async def result(self) -> R:
        """Read the remaining parts and join all of them. Raises Cancelled if the stream was closed early."""
        if not self._finished:
            async for _ in self:
                pass
        return self._call.join(self._parts)

    async def close(self) -> None:
        """Cancel the call. A reader that waits for a part gets Cancelled."""
        self._cancel()


class _ServerStatus:
    """The status of an asyncio call as the server sent it.

    If a write is under way when the call ends, grpc.aio sets a status of its own, INTERNAL, before or after
    the server's, and the later one stays.
    """

    def __init__(self, call: Any) -> None:
        self._error: grpc.aio.AioRpcError | None = None
        self._is_ok = False
        call.add_done_callback(self._keep)

    def _keep(self, call: Any) -> None:
        error = _status(call)
        self._is_ok = error.code() is grpc.StatusCode.OK
        if not self._is_ok and not errors.is_cut_short(error):
            self._error = error

    async def error(self, call: Any, reported: grpc.RpcError) -> grpc.RpcError | None:
        """The error that the server sent. None if it sent OK, `reported` if none came."""
        if self._is_ok or self._error or not errors.is_cut_short(reported):
            return None if self._is_ok else self._error or reported
        for _ in range(_STATUS_TURNS):
            await asyncio.sleep(_STATUS_TURN_S)
            if not errors.is_cut_short(late := _status(call)):
                return None if late.code() is grpc.StatusCode.OK else late
        return reported


def _offset(part: Any, parts: Sequence[Any]) -> int:
    """What to add to positions of a call that counts the elements of a moved sequence from 1 again."""
    last: int = getattr(parts[-1], "position", 0) if parts else 0
    return last if last and part.position <= last else 0


def _status(call: Any) -> grpc.aio.AioRpcError:
    """The status of an asyncio call that has ended."""
    parts = (call.code(), call.initial_metadata(), call.trailing_metadata(), call.details())
    return grpc.aio.AioRpcError(*map(_ready, parts))


def _ready(result: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that need not wait: a later turn of the loop may see another status."""
    try:
        result.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the call has ended")


def task_cancelled() -> bool:
    """Whether the current task is being cancelled. gRPC also raises CancelledError if only the call was."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
