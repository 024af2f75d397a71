"""What both clients share: servers, the channels to them, how calls are sent, and conversion of errors."""

from __future__ import annotations

import math
import threading
import time
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from lockstep_client import address as addresses
from lockstep_client import errors, protocol
from lockstep_client.attempts import Attempts
from lockstep_client.channel import KEEPALIVE_S, MAX_MESSAGE_BYTES, Connection
from lockstep_client.resumption import Resumption
from lockstep_client.routing import Router

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    import grpc
    from google.protobuf.message import Message

    from lockstep_client.attempts import OnLost, Send
    from lockstep_client.protocol import Call, ManyCall, Method, SequenceUse, StreamCall
    from lockstep_client.tls import Tls

G = TypeVar("G")
M = TypeVar("M")
R = TypeVar("R")

SEQUENCE_KEY = "lockstep-sequence-id"
"""Metadata key with the id of a call's sequence, by which balancers choose a server."""

_RESOLVE_S, _RESOLVE_SOON_S = 30.0, 1.0
"""How often a host name is resolved again while calls are made, and while a server fails."""


class _Resolver:
    """Keeps the servers of a router those that a host name stands for. The name is resolved on a thread, and
    only while calls are made."""

    def __init__(self, address: str, router: Router) -> None:
        self._address, self._router = address, router
        self._due = 0.0
        self._busy = threading.Lock()
        self.known = threading.Event()
        """Set once the name has been resolved, or could not be."""

    def refresh(self) -> None:
        now = time.monotonic()
        if now >= self._due and self._busy.acquire(blocking=False):
            self._due = now + (_RESOLVE_SOON_S if self._router.any_failed else _RESOLVE_S)
            threading.Thread(target=self._resolve, name="lockstep-resolve", daemon=True).start()

    def hurry(self) -> None:
        """A server has failed: resolve the name again with the next call."""
        self._due = min(self._due, time.monotonic() + _RESOLVE_SOON_S)

    def _resolve(self) -> None:
        try:
            found = addresses.resolved(self._address)
            # One server is left to gRPC, which resolves the name too.
            self._router.replace(found if len(found) > 1 else [self._address])
        except OSError:
            pass  # as it was
        finally:
            self.known.set()
            self._busy.release()


class ConnectedClient:
    """Connection settings, channels and error conversion of both clients."""

    _grpc: ClassVar[Any]

    def __init__(
        self,
        address: str = addresses.DEFAULT,
        *,
        timeout_s: float = 30.0,
        retries: int = 3,
        resume_s: float = 30.0,
        on_lost: OnLost = "fail",
        tls: bool | Tls | grpc.ChannelCredentials = False,
        token: str | Callable[[], str] = "",
        plaintext_token: bool = False,
        metadata: Sequence[tuple[str, str]] = (),
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        keepalive_s: float = KEEPALIVE_S,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """Connects on the first call. Raises ValueError for an invalid argument.

        `address` is HOST:PORT, several of them separated by commas, or a gRPC target such as
        `unix:/run/lockstep.sock`. With several servers, or a host name that stands for several, a call goes
        to one with the fewest calls of this client in flight, and a call of a sequence to the one that has
        it. `timeout_s` is the default
        deadline of each call, including its retries; infinity sets none. `retries` is the maximum number of
        retries of a call that failed with UNAVAILABLE or RESOURCE_EXHAUSTED, 0 to 4. For `resume_s` seconds,
        `generate` and `translate` try to go on with a text whose server was lost; 0: they raise Unavailable.
        With `on_lost="restart"`, sequences by `infer` and `follow` are begun again if their server is lost,
        by what was sent: the client keeps 64 MiB of all steps, and of each stream. "fail": they raise
        Unavailable or SequenceLost.

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
            on_lost=on_lost,
            tls=tls,
            token=token,
            plaintext_token=plaintext_token,
            metadata=tuple(metadata),
            max_message_bytes=max_message_bytes,
            keepalive_s=keepalive_s,
            channel_options=tuple(options),
        )
        self._router = Router(addresses.split(address))
        self._attempts = Attempts(
            self._router, retries, resume_s, on_lost, self._connection.may_follow_to, self._ended
        )
        self._resolver = _Resolver(address, self._router) if addresses.is_name(address) else None
        # By address: a channel without retries. Before it, for a lone server, one with retries by gRPC; with
        # several servers, the client retries itself.
        self._channels: dict[str, list[Any]] = {}
        self._stubs: dict[str, list[dict[str, Any]]] = {}
        self._unused: set[str] = set()
        self._opening = threading.Lock()
        for one in self._router.addresses:
            self._open_channels(one)

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

    def _open_channels(self, address: str) -> list[dict[str, Any]]:
        """The stubs of a server, after opening its channels if there are none."""
        with self._opening:
            if address not in self._stubs:
                settings = self._connection.to_server(address)
                alone = self._router.is_alone and address == self._connection.address
                kinds = [settings] if alone and settings.retries else []
                self._channels[address] = [self._open(one) for one in (*kinds, settings.without_retries)]
                self._stubs[address] = [_stubs(channel) for channel in self._channels[address]]
            return self._stubs[address]

    def _open(self, settings: Connection) -> Any:
        if settings.credentials:
            return self._grpc.secure_channel(settings.address, settings.credentials, settings.options)
        return self._grpc.insecure_channel(settings.address, settings.options)

    def _ended(self, address: str) -> None:
        """A call has ended. The channels of a server that left are closed before the next call."""
        if self._router.end(address) and address != self._connection.address:
            self._unused.add(address)

    def _close_unused(self) -> list[Any]:
        """Forget the channels that are of no more use, and return them."""
        with self._opening:
            unused, closed = self._router.unused(self._unused), list[Any]()
            self._unused.clear()
            for address in unused:
                self._stubs.pop(address, None)
                closed += self._channels.pop(address, [])
            return closed

    def _closable(self) -> list[Any]:
        """All channels, which are forgotten."""
        with self._opening:
            channels = [channel for kinds in self._channels.values() for channel in kinds]
            self._channels.clear()
            return channels

    def _steps(self, call: Call[Any]) -> Generator[Send | float, Any, Any]:
        """How a call is made that chooses its server."""
        self._connection.checked_size(call.request)
        timeout_s = self._deadline_s(call.timeout_s)
        tries = self._attempts.of_sequence if call.sequence else self._attempts.one_shot
        return tries(call, timeout_s)

    def _bound_send(self, call: Call[Any], send: Send) -> Callable[[], Any]:
        """A function that sends a request."""
        start = self._start(
            call.method, send.timeout_s, send.address, call.sequence, repeatable=call.repeatable
        )
        return partial(start, send.request)

    def _bound_call(self, call: Call[Any]) -> Callable[[], Any]:
        """A function that sends a call to the only server."""
        start = self._start(call.method, call.timeout_s, repeatable=call.repeatable)
        return partial(start, self._connection.checked_size(call.request))

    def _open_stream(
        self, call: StreamCall[Any, Any] | ManyCall[Any, Any], address: str, messages: Any, timeout_s: float
    ) -> Any:
        """Start a stream on a server."""
        use, repeatable = (None, False) if isinstance(call, protocol.ManyCall) else (call.sequence, True)
        start = self._start(call.method, timeout_s, address, use, repeatable=repeatable)
        self._router.begin(address)
        try:
            rpc = start(messages)
        except BaseException:
            self._ended(address)
            raise
        rpc.add_done_callback(lambda _: self._ended(address))
        return rpc

    def _stream_arguments(self, call: StreamCall[M, R]) -> tuple[StreamCall[M, R], Any, Any, Any]:
        """The arguments of `Stream` and `AsyncStream`."""
        resumption = Resumption(
            call, self._open_stream, self._router, self._attempts,
            self._deadline_s(call.timeout_s), self._connection.resume_s,
            self._connection.on_lost == "restart",
        )  # fmt: skip
        to_error = partial(self._error, call, awaited="end of the stream")
        return call, resumption, self._connection.checked_size, to_error

    def _outcomes_arguments(self, call: ManyCall[G, R]) -> tuple[ManyCall[G, R], Any, Any, Any]:
        """The arguments of `Outcomes` and `AsyncOutcomes`. They retry items themselves, so gRPC must not."""
        address = ""

        def open_stream(messages: Any, timeout_s: float) -> Any:
            nonlocal address
            address = self._router.choose()
            return self._open_stream(call, address, messages, timeout_s)

        def to_error(error: grpc.RpcError) -> errors.LockstepError:
            self._attempts.report(address, error)
            return self._error(call, error, awaited="end of the stream")

        self._start(call.method, None)
        return call, open_stream, self._connection.check_size, to_error

    @property
    def _retries(self) -> bool:
        return self._connection.retries > 0

    def _start(
        self,
        method: Method[Any],
        timeout_s: float | None,
        address: str = "",
        sequence: SequenceUse | None = None,
        *,
        repeatable: bool = True,
    ) -> Any:
        """A function that sends a request to a server; "": to any."""
        if not self._stubs:
            raise errors.Cancelled("the client is closed: create a new one")
        if self._resolver:
            self._resolver.refresh()
        address = address or self._router.addresses[0]
        stubs = self._stubs.get(address) or self._open_channels(address)
        deadline_s = self._deadline_s(timeout_s)
        metadata = self._connection.call_metadata
        if sequence and sequence.key and all(key != SEQUENCE_KEY for key, _ in metadata):
            metadata = (*metadata, (SEQUENCE_KEY, sequence.key))
        return partial(
            stubs[0 if repeatable and self._router.is_alone else -1][method.path],
            timeout=None if deadline_s == math.inf else deadline_s,
            metadata=metadata,
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


def _stubs(channel: Any) -> dict[str, Any]:
    """One stub per method, by path."""
    return {
        m.path: getattr(channel, m.shape)(m.path, _to_bytes, m.reply.FromString) for m in protocol.METHODS
    }


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()
