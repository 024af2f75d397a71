"""`Stream` and `AsyncStream`: the answers of one RPC as they come, blocking or with asyncio.

pieces → `_Outbox` → the wire → parts, each kept until `result()` joins them. Who leaves the loop, by break or
by an exception, cancels the RPC on the server, as does the end of a `with`, `close()`, or letting go of the
stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc

from lockstep_client import arguments, errors
from lockstep_client.closing import AsyncClosing, Closing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from google.protobuf.message import Message

    from lockstep_client.protocol import RequestStream, StreamCall

M = TypeVar("M")
R = TypeVar("R")


class _Outbox:
    """What a stream sends: the first message, then one for each piece.

    A piece that fails ends the sending, and `failure` keeps why: raised to gRPC it would be lost in a log.
    It knows nothing of its stream, so that a stream that nobody holds is let go of while pieces still wait.
    """

    def __init__(self, first: Message, pieces: RequestStream, fitting: Callable[[Message], Message]) -> None:
        self._first, self._pieces, self._fitting = first, pieces, fitting
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[Message]:
        yield self._first
        try:
            if isinstance(self._pieces.given, AsyncIterable):
                raise arguments.wrong("pieces", "an asynchronous iterable: use an AsyncClient")
            for piece in self._pieces.given:
                yield self._message(piece)
        except Exception as error:
            self.failure = error

    async def __aiter__(self) -> AsyncIterator[Message]:
        if not isinstance(self._pieces.given, AsyncIterable):
            for message in self:
                yield message
            return
        yield self._first
        try:
            async for piece in self._pieces.given:
                yield self._message(piece)
        except Exception as error:
            self.failure = error

    def _message(self, piece: Any) -> Message:
        return self._fitting(self._pieces.write(piece))


class _Answers(Generic[M, R]):
    """What both kinds of stream share: what has come, and how it ended."""

    def __init__(
        self,
        call: StreamCall[M, R],
        start: Callable[[Any], Any],
        fitting: Callable[[Message], Message],
        explain: Callable[[grpc.RpcError], errors.LockstepError],
    ) -> None:
        self._call, self._explain = call, explain
        self._parts: list[M] = []
        self._whole = self._left = False
        self._failure: Exception | None = None
        self._outbox = _Outbox(fitting(call.request), call.pieces, fitting) if call.pieces else None
        self._rpc = start(self._sent() if self._outbox else fitting(call.request))

    def _sent(self) -> Any:
        raise NotImplementedError

    def _took(self, reply: Any) -> M:
        part = self._call.read(reply)
        self._parts.append(part)
        return part

    def _ended(self) -> None:
        if self._outbox and self._outbox.failure:
            self._failure = self._outbox.failure
            raise self._failure
        self._whole = True

    def _failed(self, error: grpc.RpcError) -> Exception:
        if not self._left:
            self._failure = (self._outbox and self._outbox.failure) or self._explain(error)
        return self._over()

    def _over(self) -> Exception:
        """Why no part comes any more."""
        return self._failure or errors.Cancelled("this stream was left before its end: ask again")

    def _leave(self) -> None:
        if not self._whole:
            self._left = True
            self._rpc.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_rpc"):
            with suppress(RuntimeError):  # its event loop has ended, and the call with it
                self._leave()


class Stream(_Answers[M, R], Closing):
    """Parts of an answer, to be iterated over once; the call is under way from the start.

        with client.generate("shakespeare-char-lstm", "ROMEO:") as stream:
            for part in stream:
                print(part.text, end="")
        print(stream.result().reason)

    Raises one of `lockstep_client.errors`, by meaning, at the part where it happened.
    """

    def _sent(self) -> Any:
        return iter(self._outbox or ())

    def __iter__(self) -> Iterator[M]:
        if self._left:
            raise self._over()
        try:
            for reply in self._rpc:
                yield self._took(reply)
            self._ended()
        except grpc.RpcError as error:
            raise self._failed(error) from error
        finally:
            self._leave()

    def result(self) -> R:
        """All parts together, once the rest of them has come. Cancelled where the stream was left."""
        if not self._whole:
            for _ in self:
                pass
        return self._call.join(self._parts)

    def close(self) -> None:
        """Cancel what is still under way. Who waits for a part meanwhile meets Cancelled."""
        self._leave()


class AsyncStream(_Answers[M, R], AsyncClosing):
    """Parts of an answer, to be iterated over once; the call is under way from the start.

        async with client.generate("shakespeare-char-lstm", "ROMEO:") as stream:
            async for part in stream:
                print(part.text, end="")
        print((await stream.result()).reason)

    Raises one of `lockstep_client.errors`, by meaning, at the part where it happened. Cancelling the task
    that waits for a part cancels the call.
    """

    def _sent(self) -> Any:
        return aiter(self._outbox) if self._outbox else ()

    async def __aiter__(self) -> AsyncIterator[M]:
        if self._left:
            raise self._over()
        try:
            async for reply in self._rpc:
                yield self._took(reply)
            self._ended()
        except grpc.RpcError as error:
            raise self._failed(error) from error
        except asyncio.CancelledError:
            if own_cancellation():
                raise
            raise self._over() from None  # by close(), of the stream or of its client
        finally:
            self._leave()

    async def result(self) -> R:
        """All parts together, once the rest of them has come. Cancelled where the stream was left."""
        if not self._whole:
            async for _ in self:
                pass
        return self._call.join(self._parts)

    async def close(self) -> None:
        """Cancel what is still under way. Who waits for a part meanwhile meets Cancelled."""
        self._leave()


def own_cancellation() -> bool:
    """Whether the task that runs is being cancelled itself; gRPC raises the same where its call was."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
