"""`Client` and `AsyncClient`: the calls of calls.py, stream_calls.py and many_calls.py, blocking or asyncio.

The methods of both clients are built from the same definitions; only the way a stub is called differs.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypeVar

import grpc
import grpc.aio

from lockstep_client import calls, errors, many_calls, operations, sequences, stream_calls
from lockstep_client.attempts import Send
from lockstep_client.closing import AsyncClosing, Closing
from lockstep_client.connected import ConnectedClient
from lockstep_client.many import AsyncOutcomes, Outcomes
from lockstep_client.streams import AsyncStream, Stream, task_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from lockstep_client.channel import Connection
    from lockstep_client.protocol import Call, ManyCall, StreamCall

P = ParamSpec("P")
G = TypeVar("G")
M = TypeVar("M")
R = TypeVar("R")


def _blocking(define: Callable[P, Call[R]]) -> Callable[Concatenate[Client, P], R]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._answer(define(*args, **kwargs))

    _describe(method, define)
    return method


def _awaitable(define: Callable[P, Call[R]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._answer(define(*args, **kwargs))

    _describe(method, define)
    return method


def _streaming(define: Callable[P, StreamCall[M, R]]) -> Callable[Concatenate[Client, P], Stream[M, R]]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Stream[M, R]:
        return Stream(*self._stream_arguments(define(*args, **kwargs)))

    _describe(method, define, "Stream")
    return method


def _async_streaming(
    define: Callable[P, StreamCall[M, R]],
) -> Callable[Concatenate[AsyncClient, P], AsyncStream[M, R]]:
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncStream[M, R]:
        return AsyncStream(*self._stream_arguments(define(*args, **kwargs)))

    _describe(method, define, "AsyncStream")
    return method


def _pipelining(define: Callable[P, ManyCall[G, R]]) -> Callable[Concatenate[Client, P], Outcomes[G, R]]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Outcomes[G, R]:
        return Outcomes(*self._outcomes_arguments(define(*args, **kwargs)), retries=self._retries)

    _describe(method, define, "Outcomes")
    return method


def _async_pipelining(
    define: Callable[P, ManyCall[G, R]],
) -> Callable[Concatenate[AsyncClient, P], AsyncOutcomes[G, R]]:
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncOutcomes[G, R]:
        return AsyncOutcomes(*self._outcomes_arguments(define(*args, **kwargs)), retries=self._retries)

    _describe(method, define, "AsyncOutcomes")
    return method


def _describe(method: Callable[..., Any], define: Callable[..., Any], stream: str = "") -> None:
    """Give `method` the name, signature and docstring of its definition, for help() and editors."""
    signature = inspect.signature(define)
    self_parameter = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    result = str(signature.return_annotation).partition("[")[2].removesuffix("]")
    method.__name__ = method.__qualname__ = define.__name__
    method.__doc__ = define.__doc__
    method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [self_parameter, *signature.parameters.values()],
        return_annotation=f"{stream}[{result}]" if stream else result,
    )


class Client(ConnectedClient, Closing):
    """A blocking client, safe to use from several threads.

    Methods raise one of `lockstep_client.errors`; those that return a `Stream` raise while it is read. Close
    the client, or use it in a `with` statement.
    """

    _grpc: ClassVar[Any] = grpc

    classify = _blocking(calls.classify)
    classify_many = _pipelining(many_calls.classify_many)
    classify_tokens = _blocking(calls.classify_tokens)
    classify_tokens_many = _pipelining(many_calls.classify_tokens_many)
    encode = _blocking(calls.encode)
    encode_many = _pipelining(many_calls.encode_many)
    generate = _streaming(stream_calls.generate)
    translate = _streaming(stream_calls.translate)
    follow = _streaming(stream_calls.follow)
    transcribe = _blocking(calls.transcribe)
    follow_frames = _streaming(stream_calls.follow_frames)
    infer = _blocking(calls.infer)
    infer_many = _pipelining(many_calls.infer_many)
    get_sequence = _blocking(sequences.get_sequence)
    put_sequence = _blocking(sequences.put_sequence)
    models = _blocking(calls.models)
    load_model = _blocking(calls.load_model)
    unload_model = _blocking(calls.unload_model)
    metadata = _blocking(calls.metadata)
    model_statistics = _blocking(calls.model_statistics)
    server = _blocking(calls.server)
    health = _blocking(calls.health)
    describe = _blocking(operations.describe)
    runs = _streaming(operations.runs)
    ended_requests = _blocking(operations.ended_requests)

    def _answer(self, call: Call[R]) -> R:
        if self._resolver and not self._resolver.known.is_set():
            self._resolver.refresh()
            self._resolver.known.wait(self._deadline_s(call.timeout_s))
        try:
            if self._router.is_alone and not call.sequence:
                return call.read(self._bound_call(call)())
            return call.read(self._tried(call))
        except grpc.RpcError as error:
            raise self._error(call, error) from error

    def _tried(self, call: Call[Any]) -> Any:
        """The reply to a call that chooses its server."""
        with closing(self._steps(call)) as steps:
            try:
                step = next(steps)
                while True:
                    step = steps.send(self._outcome(call, step))
            except StopIteration as end:
                return end.value

    def _outcome(self, call: Call[Any], step: Send | float) -> Any:
        try:
            return self._bound_send(call, step)() if isinstance(step, Send) else time.sleep(step)
        except grpc.RpcError as error:
            return error

    def close(self) -> None:
        """Close the connections. Calls in flight raise Cancelled."""
        self._stubs.clear()
        for channel in self._closable():
            channel.close()

    def _start(self, *args: Any, **kwargs: Any) -> Any:
        if self._unused:
            for channel in self._close_unused():
                channel.close()
        return super()._start(*args, **kwargs)


class AsyncClient(ConnectedClient, AsyncClosing):
    """An asyncio client. Create, use and close it on one running event loop; RuntimeError if none runs.

    Methods are coroutines or return an `AsyncStream`, and raise one of `lockstep_client.errors`. Cancelling a
    coroutine cancels the call on the server. Close the client, or use it in an `async with` statement.
    """

    _grpc: ClassVar[Any] = grpc.aio

    classify = _awaitable(calls.classify)
    classify_many = _async_pipelining(many_calls.classify_many)
    classify_tokens = _awaitable(calls.classify_tokens)
    classify_tokens_many = _async_pipelining(many_calls.classify_tokens_many)
    encode = _awaitable(calls.encode)
    encode_many = _async_pipelining(many_calls.encode_many)
    generate = _async_streaming(stream_calls.generate)
    translate = _async_streaming(stream_calls.translate)
    follow = _async_streaming(stream_calls.follow)
    transcribe = _awaitable(calls.transcribe)
    follow_frames = _async_streaming(stream_calls.follow_frames)
    infer = _awaitable(calls.infer)
    infer_many = _async_pipelining(many_calls.infer_many)
    get_sequence = _awaitable(sequences.get_sequence)
    put_sequence = _awaitable(sequences.put_sequence)
    models = _awaitable(calls.models)
    load_model = _awaitable(calls.load_model)
    unload_model = _awaitable(calls.unload_model)
    metadata = _awaitable(calls.metadata)
    model_statistics = _awaitable(calls.model_statistics)
    server = _awaitable(calls.server)
    health = _awaitable(calls.health)
    describe = _awaitable(operations.describe)
    runs = _async_streaming(operations.runs)
    ended_requests = _awaitable(operations.ended_requests)

    def _open(self, settings: Connection) -> Any:
        try:  # now: a call would hang on another loop
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "AsyncClient needs a running event loop: create it inside a coroutine,"
                " not when a module is imported"
            ) from None
        return super()._open(settings)

    def _start(self, *args: Any, **kwargs: Any) -> Any:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "this AsyncClient belongs to the event loop that it was created on:"
                " create one for each asyncio.run"
            )
        if self._unused:
            self._closing = [asyncio.ensure_future(channel.close()) for channel in self._close_unused()]
        return super()._start(*args, **kwargs)

    async def _answer(self, call: Call[R]) -> R:
        if self._resolver and not self._resolver.known.is_set():
            self._resolver.refresh()
            await asyncio.to_thread(self._resolver.known.wait, self._deadline_s(call.timeout_s))
        try:
            if self._router.is_alone and not call.sequence:
                return call.read(await self._bound_call(call)())
            return call.read(await self._tried(call))
        except grpc.RpcError as error:
            raise self._error(call, error) from error
        except asyncio.CancelledError:
            if task_cancelled():
                raise
            raise errors.Cancelled("the client was closed before the reply arrived") from None

    async def _tried(self, call: Call[Any]) -> Any:
        """The reply to a call that chooses its server."""
        with closing(self._steps(call)) as steps:
            try:
                step = next(steps)
                while True:
                    step = steps.send(await self._outcome(call, step))
            except StopIteration as end:
                return end.value

    async def _outcome(self, call: Call[Any], step: Send | float) -> Any:
        try:
            return await (self._bound_send(call, step)() if isinstance(step, Send) else asyncio.sleep(step))
        except grpc.RpcError as error:
            return error

    async def close(self) -> None:
        """Close the connections. Calls in flight raise Cancelled."""
        self._stubs.clear()
        for channel in self._closable():
            await channel.close()
