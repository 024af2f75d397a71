"""`Client` and `AsyncClient`: calls.py, stream_calls.py and many_calls.py, made blocking or with asyncio.

The methods of both are made from the same functions; what differs is how a stub is called, and no more.
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
from lockstep_client import calls, errors, many_calls, protocol, stream_calls
from lockstep_client.channel import KEEPALIVE_S, MAX_MESSAGE_BYTES, Connection
from lockstep_client.closing import AsyncClosing, Closing
from lockstep_client.many import AsyncOutcomes, Outcomes
from lockstep_client.streams import AsyncStream, Stream, own_cancellation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from google.protobuf.message import Message

    from lockstep_client.protocol import Call, ManyCall, Method, StreamCall
    from lockstep_client.tls import Tls

P = ParamSpec("P")
G = TypeVar("G")
M = TypeVar("M")
R = TypeVar("R")


def _blocking(build: Callable[P, Call[R]]) -> Callable[Concatenate[Client, P], R]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._answer(build(*args, **kwargs))

    _describe(method, build)
    return method


def _awaitable(build: Callable[P, Call[R]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._answer(build(*args, **kwargs))

    _describe(method, build)
    return method


def _streaming(build: Callable[P, StreamCall[M, R]]) -> Callable[Concatenate[Client, P], Stream[M, R]]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Stream[M, R]:
        return Stream(*self._streamed(build(*args, **kwargs)))

    _describe(method, build, "Stream")
    return method


def _async_streaming(
    build: Callable[P, StreamCall[M, R]],
) -> Callable[Concatenate[AsyncClient, P], AsyncStream[M, R]]:
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncStream[M, R]:
        return AsyncStream(*self._streamed(build(*args, **kwargs)))

    _describe(method, build, "AsyncStream")
    return method


def _pipelining(build: Callable[P, ManyCall[G, R]]) -> Callable[Concatenate[Client, P], Outcomes[G, R]]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Outcomes[G, R]:
        return Outcomes(*self._many(build(*args, **kwargs)), retries=self._retries)

    _describe(method, build, "Outcomes")
    return method


def _async_pipelining(
    build: Callable[P, ManyCall[G, R]],
) -> Callable[Concatenate[AsyncClient, P], AsyncOutcomes[G, R]]:
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncOutcomes[G, R]:
        return AsyncOutcomes(*self._many(build(*args, **kwargs)), retries=self._retries)

    _describe(method, build, "AsyncOutcomes")
    return method


def _describe(method: Callable[..., Any], build: Callable[..., Any], stream: str = "") -> None:
    """Name, signature and docstring of the definition, so that help() and editors show them."""
    defined = inspect.signature(build)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    result = str(defined.return_annotation).partition("[")[2].removesuffix("]")
    method.__name__ = method.__qualname__ = build.__name__
    method.__doc__ = build.__doc__
    method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [itself, *defined.parameters.values()],
        return_annotation=f"{stream}[{result}]" if stream else result,
    )


class _Connected:
    """What both clients share: the connection's settings, and one error for each failed call."""

    _grpc: ClassVar[Any]

    def __init__(
        self,
        address: str = addresses.DEFAULT,
        *,
        timeout_s: float = 30.0,
        retries: int = 3,
        tls: bool | Tls | grpc.ChannelCredentials = False,
        token: str | Callable[[], str] = "",
        plaintext_token: bool = False,
        metadata: Sequence[tuple[str, str]] = (),
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        keepalive_s: float = KEEPALIVE_S,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """Connects when the first call is made. ValueError where an argument is wrong.

        `address` is HOST:PORT, or a gRPC target such as `unix:/run/lockstep.sock`. `timeout_s` is the
        deadline of each call, all its retries included, unless the call has its own; infinity is none.
        `retries` is how often UNAVAILABLE and RESOURCE_EXHAUSTED are tried again, 0 to 4.

        `tls` is True for the system's certificates, `Tls(...)` for others, or what
        grpc.ssl_channel_credentials gives. `token` is sent as a bearer token with each call; a function is
        asked for it each time. It goes in plain text to this machine itself only, or with `plaintext_token`.
        `metadata` is sent with each call too: keys in lower case.

        `max_message_bytes` is the largest message that is sent or taken in. While calls are under way, a ping
        every `keepalive_s` seconds finds out whether the connection still stands; most servers allow one in 5
        minutes, Lockstep's one in 30 s; infinity is none. `options` are gRPC's channel arguments, before all
        that is said here: `[("grpc.lb_policy_name", "round_robin")]`.
        """
        self._connection = Connection(
            address=address,
            timeout_s=timeout_s,
            retries=retries,
            tls=tls,
            token=token,
            plaintext_token=plaintext_token,
            metadata=tuple(metadata),
            max_message_bytes=max_message_bytes,
            keepalive_s=keepalive_s,
            channel_options=tuple(options),
        )
        # With retries, and without: the same channel where there are none.
        self._channels = [self._open(self._connection)]
        if retries:
            self._channels.append(self._open(self._connection.without_retries))
        self._stubs = [_stubs(channel) for channel in self._channels]

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._connection.address

    def with_metadata(self, *pairs: tuple[str, str]) -> Self:
        """This client, with more metadata for the calls that are made on what is returned.

            client.with_metadata(("traceparent", header)).classify("sentiment-lstm", text)

        It shares the connection: closing one closes both. ValueError where gRPC could not send a pair.
        """
        other = copy(self)
        other._connection = self._connection.with_metadata(pairs)
        return other

    def _open(self, settings: Connection) -> Any:
        if settings.credentials:
            return self._grpc.secure_channel(settings.address, settings.credentials, settings.options)
        return self._grpc.insecure_channel(settings.address, settings.options)

    def _prepared(self, call: Call[Any]) -> Callable[[], Any]:
        """The call on the wire, to be started: the same for both kinds of channel."""
        start = self._start(call.method, call.timeout_s, repeatable=call.repeatable)
        return partial(start, self._connection.fitting(call.request))

    def _streamed(self, call: StreamCall[M, R]) -> tuple[StreamCall[M, R], Any, Any, Any]:
        """What a stream of either kind is made from."""
        start = self._start(call.method, call.timeout_s)
        return call, start, self._connection.fitting, partial(self._error, call, awaited="end of the stream")

    def _many(self, call: ManyCall[G, R]) -> tuple[ManyCall[G, R], Any, Any, Any]:
        """What the outcomes of either kind are made from. Retries are theirs: gRPC's would be on top."""

        def open_(messages: Any, timeout_s: float) -> Any:
            return self._start(call.method, timeout_s, repeatable=False)(messages)

        self._start(call.method, None)
        return (
            call,
            open_,
            self._connection.check_size,
            partial(self._error, call, awaited="end of the stream"),
        )

    @property
    def _retries(self) -> bool:
        return self._connection.retries > 0

    def _start(self, method: Method[Any], timeout_s: float | None, *, repeatable: bool = True) -> Any:
        if not self._stubs:
            raise errors.Cancelled("this client is closed: make another")
        within_s = self._within_s(timeout_s)
        return partial(
            self._stubs[0 if repeatable else -1][method.path],
            timeout=None if within_s == math.inf else within_s,
            metadata=self._connection.call_metadata,
        )

    def _within_s(self, timeout_s: float | None) -> float:
        return self._connection.timeout_s if timeout_s is None else timeout_s

    def _error(
        self,
        call: Call[Any] | StreamCall[Any, Any] | ManyCall[Any, Any],
        error: grpc.RpcError,
        awaited: str = "answer",
    ) -> errors.LockstepError:
        return errors.from_rpc(error, self.address, self._within_s(call.timeout_s), awaited)


class Client(_Connected, Closing):
    """A blocking client. Its methods may be called from many threads at once.

    Each raises one of `lockstep_client.errors`, by meaning; those that return a `Stream` do when it is read.
    Close it, or use it in a `with`.
    """

    _grpc: ClassVar[Any] = grpc

    classify = _blocking(calls.classify)
    classify_many = _pipelining(many_calls.classify_many)
    encode = _blocking(calls.encode)
    encode_many = _pipelining(many_calls.encode_many)
    generate = _streaming(stream_calls.generate)
    translate = _streaming(stream_calls.translate)
    follow = _streaming(stream_calls.follow)
    infer = _blocking(calls.infer)
    infer_many = _pipelining(many_calls.infer_many)
    models = _blocking(calls.models)
    load_model = _blocking(calls.load_model)
    unload_model = _blocking(calls.unload_model)
    metadata = _blocking(calls.metadata)
    model_statistics = _blocking(calls.model_statistics)
    server = _blocking(calls.server)
    health = _blocking(calls.health)

    def _answer(self, call: Call[R]) -> R:
        ask = self._prepared(call)
        try:
            return call.read(ask())
        except grpc.RpcError as error:
            raise self._error(call, error) from error

    def close(self) -> None:
        """End the connection, for good. Calls in flight end as Cancelled."""
        self._stubs.clear()
        for channel in self._channels:
            channel.close()


class AsyncClient(_Connected, AsyncClosing):
    """An asyncio client: made, used and closed on one event loop; RuntimeError where none runs.

    Each method is a coroutine, or returns an `AsyncStream`, and raises one of `lockstep_client.errors`, by
    meaning. Cancelling one cancels the call on the server. Close it, or use it in an `async with`.
    """

    _grpc: ClassVar[Any] = grpc.aio

    classify = _awaitable(calls.classify)
    classify_many = _async_pipelining(many_calls.classify_many)
    encode = _awaitable(calls.encode)
    encode_many = _async_pipelining(many_calls.encode_many)
    generate = _async_streaming(stream_calls.generate)
    translate = _async_streaming(stream_calls.translate)
    follow = _async_streaming(stream_calls.follow)
    infer = _awaitable(calls.infer)
    infer_many = _async_pipelining(many_calls.infer_many)
    models = _awaitable(calls.models)
    load_model = _awaitable(calls.load_model)
    unload_model = _awaitable(calls.unload_model)
    metadata = _awaitable(calls.metadata)
    model_statistics = _awaitable(calls.model_statistics)
    server = _awaitable(calls.server)
    health = _awaitable(calls.health)

    def _open(self, settings: Connection) -> Any:
        asyncio.get_running_loop()  # RuntimeError here, rather than a call that hangs on another loop
        return super()._open(settings)

    async def _answer(self, call: Call[R]) -> R:
        ask = self._prepared(call)
        try:
            return call.read(await ask())
        except grpc.RpcError as error:
            raise self._error(call, error) from error
        except asyncio.CancelledError:
            if own_cancellation():
                raise
            raise errors.Cancelled("the client was closed before the answer came") from None

    async def close(self) -> None:
        """End the connection, for good. Calls in flight end as Cancelled."""
        self._stubs.clear()
        for channel in self._channels:
            await channel.close()


def _stubs(channel: Any) -> dict[str, Any]:
    """A stub for each method, by its path."""
    return {
        m.path: getattr(channel, m.shape)(m.path, _to_bytes, m.reply.FromString) for m in protocol.METHODS
    }


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()
