"""`Client` and `AsyncClient`: the calls of calls.py, made blocking or with asyncio.

The methods of both are made from the same functions; what differs is how a stub is called, and no more.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

import grpc
import grpc.aio

from lockstep_client import address as addresses
from lockstep_client import calls, errors
from lockstep_client.channel import KEEPALIVE_S, MAX_MESSAGE_BYTES, Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from types import TracebackType

    from google.protobuf.message import Message

P = ParamSpec("P")
R = TypeVar("R")


def _blocking(build: Callable[P, calls.Call[R]]) -> Callable[Concatenate[Client, P], R]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._answer(build(*args, **kwargs))

    _describe(method, build)
    return method


def _awaitable(
    build: Callable[P, calls.Call[R]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._answer(build(*args, **kwargs))

    _describe(method, build)
    return method


def _describe(method: Callable[..., Any], build: Callable[..., calls.Call[Any]]) -> None:
    """Name, signature and docstring of the definition, so that help() and editors show them."""
    defined = inspect.signature(build)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    result = str(defined.return_annotation).removeprefix("Call[").removesuffix("]")
    method.__name__ = method.__qualname__ = build.__name__
    method.__doc__ = build.__doc__
    method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [itself, *defined.parameters.values()], return_annotation=result
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
        tls: bool | grpc.ChannelCredentials = False,
        token: str = "",
        metadata: Sequence[tuple[str, str]] = (),
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        """Connects when the first call is made. ValueError where an argument is wrong.

        `timeout_s` is the deadline of each call, all its retries included, unless the call has its own.
        `retries` is how often UNAVAILABLE and RESOURCE_EXHAUSTED are tried again, 0 to 4. `tls` is True for
        the system's certificates, or grpc.ssl_channel_credentials(...) for others. `token` is sent as a
        bearer token with each call, so use it with `tls`; `metadata` is sent with each call too. Keep
        `keepalive_s` above the server's limit (5 minutes in most), or it closes the connection.
        """
        self._connection = Connection(
            address=address,
            timeout_s=timeout_s,
            retries=retries,
            tls=tls,
            token=token,
            metadata=tuple(metadata),
            max_message_bytes=max_message_bytes,
            keepalive_s=keepalive_s,
        )
        self._channel = self._open()
        self._stubs: dict[str, Any] = {
            m.path: self._channel.unary_unary(m.path, _to_bytes, m.reply.FromString) for m in calls.METHODS
        }

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._connection.address

    def _open(self) -> Any:
        settings = self._connection
        if settings.credentials:
            return self._grpc.secure_channel(settings.address, settings.credentials, settings.options)
        return self._grpc.insecure_channel(settings.address, settings.options)

    def _prepared(self, call: calls.Call[Any]) -> tuple[Any, dict[str, Any]]:
        """The stub and its arguments: the same for both kinds of channel."""
        stub = self._stubs.get(call.method.path)
        if stub is None:
            raise errors.Cancelled("this client is closed: make another")
        return stub, {
            "request": self._connection.fitting(call.request),
            "timeout": self._timeout_s(call),
            "metadata": self._connection.call_metadata,
        }

    def _timeout_s(self, call: calls.Call[Any]) -> float:
        return self._connection.timeout_s if call.timeout_s is None else call.timeout_s

    def _error(self, error: grpc.RpcError, call: calls.Call[Any]) -> errors.LockstepError:
        return errors.from_rpc(error, self.address, self._timeout_s(call))


class Client(_Connected):
    """A blocking client. Its methods may be called from many threads at once.

    Each raises one of `lockstep_client.errors`, by meaning. Close it, or use it in a `with`.
    """

    _grpc: ClassVar[Any] = grpc

    classify = _blocking(calls.classify)
    encode = _blocking(calls.encode)
    infer = _blocking(calls.infer)
    models = _blocking(calls.models)
    metadata = _blocking(calls.metadata)
    server = _blocking(calls.server)
    health = _blocking(calls.health)

    def _answer(self, call: calls.Call[R]) -> R:
        stub, arguments = self._prepared(call)
        try:
            return call.read(stub(**arguments))
        except grpc.RpcError as error:
            raise self._error(error, call) from error

    def close(self) -> None:
        """End the connection, for good. Calls in flight end as Cancelled."""
        self._stubs = {}
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Connected):
    """An asyncio client: made, used and closed on one event loop; RuntimeError where none runs.

    Each method is a coroutine, and raises one of `lockstep_client.errors`, by meaning. Cancelling one cancels
    the call on the server. Close it, or use it in an `async with`.
    """

    _grpc: ClassVar[Any] = grpc.aio

    classify = _awaitable(calls.classify)
    encode = _awaitable(calls.encode)
    infer = _awaitable(calls.infer)
    models = _awaitable(calls.models)
    metadata = _awaitable(calls.metadata)
    server = _awaitable(calls.server)
    health = _awaitable(calls.health)

    def _open(self) -> Any:
        asyncio.get_running_loop()  # RuntimeError here, rather than a call that hangs on another loop
        return super()._open()

    async def _answer(self, call: calls.Call[R]) -> R:
        stub, arguments = self._prepared(call)
        try:
            return call.read(await stub(**arguments))
        except grpc.RpcError as error:
            raise self._error(error, call) from error

    async def close(self) -> None:
        """End the connection, for good. Calls in flight end as Cancelled."""
        self._stubs = {}
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()
