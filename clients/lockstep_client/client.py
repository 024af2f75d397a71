"""`Client` and `AsyncClient`: the calls of calls.py, stream_calls.py and many_calls.py, blocking or asyncio.

The methods of both clients are built from the same definitions; only the way a stub is called differs.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

import grpc
import grpc.aio

from lockstep_client import address as addresses
from lockstep_client import calls, errors, many_calls, operations, protocol, sequences, stream_calls
from lockstep_client.channel import KEEPALIVE_S, MAX_MESSAGE_BYTES, Connection
from lockstep_client.closing import AsyncClosing, Closing
from lockstep_client.many import AsyncOutcomes, Outcomes
from lockstep_client.resumption import Resumption
from lockstep_client.streams import AsyncStream, Stream, task_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from google.protobuf.message import Message

    from lockstep_client.protocol import Call, ManyCall, Method, StreamCall
    from lockstep_client.tls import Tls

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


class _ConnectedClient:
    """Connection settings, channels and error conversion of both clients."""

    _grpc: ClassVar[Any]

    def __init__(
        self,
        address: str = addresses.DEFAULT,
        *,
        timeout_s: float = 30.0,
        retries: int = 3,
        resume_s: float = 30.0,
        tls: bool | Tls | grpc.ChannelCredentials = False,
        token: str | Callable[[], str] = "",
        plaintext_token: bool = False,
        metadata: Sequence[tuple[str, str]] = (),
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        keepalive_s: float = KEEPALIVE_S,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """Connects on the first call. Raises ValueError for an invalid argument.

        `address` is HOST:PORT, or a gRPC target such as `unix:/run/lockstep.sock`. `timeout_s` is the default
        deadline of each call, including its retries; infinity sets none. `retries` is the maximum number of
        retries of a call that failed with UNAVAILABLE or RESOURCE_EXHAUSTED, 0 to 4. For `resume_s` seconds,
        `generate` and `translate` try to go on with a text whose server was lost; 0: they raise Unavailable.

        `tls` is True for the system's certificates, `Tls(...)` for others, or the result of
        grpc.ssl_channel_credentials. `token` is sent as a bearer token with each call; a function is called
        before each call to get it. Without TLS the token is sent only to this machine, unless
        `plaintext_token` is set. `metadata` is sent with each call; its keys must be lower case.

        `max_message_bytes` limits the size of messages in both directions. While calls are active, a ping
        every `keepalive_s` seconds checks the connection; most servers allow one in 5 minutes, Lockstep one
        in 30 s; infinity disables pings. `options` are gRPC channel arguments, which override all of these:
        `[("grpc.lb_policy_name", "round_robin")]`.
        """
        self._connection = Connection(
            address=address,
            timeout_s=timeout_s,
            retries=retries,
            resume_s=resume_s,
            tls=tls,
            token=token,
            plaintext_token=plaintext_token,
            metadata=tuple(metadata),
            max_message_bytes=max_message_bytes,
            keepalive_s=keepalive_s,
            channel_options=tuple(options),
        )
        # First a channel with retries, then one without. With retries=0 there is only one.
        self._channels = [self._open(self._connection)]
        if retries:
            self._channels.append(self._open(self._connection.without_retries))
        self._stubs = [_stubs(channel) for channel in self._channels]

    @property
    def address(self) -> str:
        """The server's address, as given."""
        return self._connection.address

    def with_metadata(self, *pairs: tuple[str, str]) -> Self:
        """A client that sends additional metadata with its calls.

            client.with_metadata(("traceparent", header)).classify("sentiment-lstm", text)

        Both clients share the connection: closing one closes both. Raises ValueError for invalid metadata.
        """
        other = copy(self)
        other._connection = self._connection.with_metadata(pairs)
        return other

    def _open(self, settings: Connection) -> Any:
        if settings.credentials:
            return self._grpc.secure_channel(settings.address, settings.credentials, settings.options)
        return self._grpc.insecure_channel(settings.address, settings.options)

    def _bound_call(self, call: Call[Any]) -> Callable[[], Any]:
        """A function that sends the call."""
        start = self._start(call.method, call.timeout_s, repeatable=call.repeatable)
        return partial(start, self._connection.checked_size(call.request))

    def _stream_arguments(self, call: StreamCall[M, R]) -> tuple[StreamCall[M, R], Any, Any, Any, Any]:
        """The arguments of `Stream` and `AsyncStream`."""

        def restart(request: Message, timeout_s: float) -> Any:
            return self._start(call.method, timeout_s)(self._connection.checked_size(request))

        start = self._start(call.method, call.timeout_s)
        return (
            call,
            start,
            self._connection.checked_size,
            partial(self._error, call, awaited="end of the stream"),
            Resumption(call, restart, self._deadline_s(call.timeout_s), self._connection.resume_s),
        )

    def _outcomes_arguments(self, call: ManyCall[G, R]) -> tuple[ManyCall[G, R], Any, Any, Any]:
        """The arguments of `Outcomes` and `AsyncOutcomes`. They retry items themselves, so gRPC must not."""

        def open_stream(messages: Any, timeout_s: float) -> Any:
            return self._start(call.method, timeout_s, repeatable=False)(messages)

        self._start(call.method, None)
        return (
            call,
            open_stream,
            self._connection.check_size,
            partial(self._error, call, awaited="end of the stream"),
        )

    @property
    def _retries(self) -> bool:
        return self._connection.retries > 0

    def _start(self, method: Method[Any], timeout_s: float | None, *, repeatable: bool = True) -> Any:
        if not self._stubs:
            raise errors.Cancelled("the client is closed: create a new one")
        deadline_s = self._deadline_s(timeout_s)
        return partial(
            self._stubs[0 if repeatable else -1][method.path],
            timeout=None if deadline_s == math.inf else deadline_s,
            metadata=self._connection.call_metadata,
        )

    def _deadline_s(self, timeout_s: float | None) -> float:
        return self._connection.timeout_s if timeout_s is None else timeout_s

    def _error(
        self,
        call: Call[Any] | StreamCall[Any, Any] | ManyCall[Any, Any],
        error: grpc.RpcError,
        awaited: str = "answer",
    ) -> errors.LockstepError:
        return errors.from_rpc(error, self.address, self._deadline_s(call.timeout_s), awaited)


class Client(_ConnectedClient, Closing):
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
        send = self._bound_call(call)
        try:
            return call.read(send())
        except grpc.RpcError as error:
            raise self._error(call, error) from error

    def close(self) -> None:
        """Close the connection. Calls in flight raise Cancelled."""
        self._stubs.clear()
        for channel in self._channels:
            channel.close()


class AsyncClient(_ConnectedClient, AsyncClosing):
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

    def _start(self, method: Method[Any], timeout_s: float | None, *, repeatable: bool = True) -> Any:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "this AsyncClient belongs to the event loop that it was created on:"
                " create one for each asyncio.run"
            )
        return super()._start(method, timeout_s, repeatable=repeatable)

    async def _answer(self, call: Call[R]) -> R:
        send = self._bound_call(call)
        try:
            return call.read(await send())
        except grpc.RpcError as error:
            raise self._error(call, error) from error
        except asyncio.CancelledError:
            if task_cancelled():
                raise
            raise errors.Cancelled("the client was closed before the reply arrived") from None

    async def close(self) -> None:
        """Close the connection. Calls in flight raise Cancelled."""
        self._stubs.clear()
        for channel in self._channels:
            await channel.close()


def _stubs(channel: Any) -> dict[str, Any]:
    """One stub per method, by path."""
    return {
        m.path: getattr(channel, m.shape)(m.path, _to_bytes, m.reply.FromString) for m in protocol.METHODS
    }


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()
