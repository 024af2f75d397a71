"""Channel settings of both clients: address, credentials, limits, retries and keepalive."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import grpc

from lockstep_client.address import checked, is_loopback, is_name, is_target
from lockstep_client.errors import InvalidRequest, Violation
from lockstep_client.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.protobuf.message import Message

    from lockstep_client.attempts import OnLost

MAX_MESSAGE_BYTES = 64 << 20
# Most servers close a connection that sends more than one ping in 5 minutes; Lockstep allows one in 30 s.
KEEPALIVE_S = 330.0
LEAST_KEEPALIVE_S = 40.0
CONNECT_S = 5.0
"""How long a connection attempt to one of several servers may take; to a lone one gRPC's 20 s."""


@dataclass(frozen=True)
class Connection:
    """The settings of a channel. Raises ValueError for invalid ones, so mistakes surface before any call."""

    address: str
    timeout_s: float
    retries: int
    tls: bool | Tls | grpc.ChannelCredentials
    token: str | Callable[[], str] = field(repr=False)
    plaintext_token: bool
    metadata: tuple[tuple[str, str], ...]
    max_message_bytes: int
    keepalive_s: float
    channel_options: tuple[tuple[str, Any], ...]
    resume_s: float = 30.0
    on_lost: OnLost = "fail"
    authority: str = ""
    """The name that the server's certificate has, if not that of `address`."""
    connect_s: float = 0.0
    """How long a connection attempt may take; 0: gRPC's 20 s."""

    def __post_init__(self) -> None:
        checked(self.address)
        if not 0 <= self.retries <= 4:
            raise ValueError(f"retries is {self.retries}: gRPC supports 0 to 4")
        if not self.resume_s >= 0:
            raise ValueError(f"resume_s is {self.resume_s}: must be 0 seconds or more")
        if self.on_lost not in ("fail", "restart"):
            raise ValueError(f'on_lost is {self.on_lost!r}: must be "fail" or "restart"')
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s is {self.timeout_s}: must be above 0 seconds")
        if not 0 < self.max_message_bytes < 1 << 31:
            raise ValueError(f"max_message_bytes is {self.max_message_bytes}: must be 1 to 2147483647")
        if not self.keepalive_s >= LEAST_KEEPALIVE_S:
            raise ValueError(
                f"keepalive_s is {self.keepalive_s}: servers close connections that send pings so often;"
                f" use {LEAST_KEEPALIVE_S:g} or more, or infinity to disable keepalive"
            )
        self._check_token()
        for key, value in self.metadata:
            _check_metadata(key, value)

    def _check_token(self) -> None:
        if not self.token:
            return
        if not (self.tls or self.plaintext_token or is_loopback(self.address)):
            raise ValueError(
                f"token would be sent to {self.address} unencrypted: set tls, or, in Python,"
                " plaintext_token=True if the connection is protected in another way"
            )
        if isinstance(self.token, str):
            _check_metadata("token", self.token)

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """TLS credentials; None for a plaintext channel."""
        if isinstance(self.tls, bool):
            return grpc.ssl_channel_credentials() if self.tls else None
        return self.tls.credentials() if isinstance(self.tls, Tls) else self.tls

    @property
    def call_metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of the next call, with a fresh token if `token` is a function."""
        token = self.token() if callable(self.token) else self.token
        return (*self.metadata, *((("authorization", f"Bearer {token}"),) if token else ()))

    @property
    def options(self) -> list[tuple[str, Any]]:
        """gRPC channel arguments; `channel_options` override the others."""
        ours = {
            "grpc.service_config": service_config(self.retries),
            "grpc.enable_retries": int(self.retries > 0),
            "grpc.max_send_message_length": self.max_message_bytes,
            "grpc.max_receive_message_length": self.max_message_bytes,
            "grpc.keepalive_time_ms": round(min(self.keepalive_s * 1e3, (1 << 31) - 1)),
            "grpc.keepalive_timeout_ms": 20_000,
            # Reconnect to a restarted server within seconds; gRPC's default backoff reaches two minutes.
            "grpc.initial_reconnect_backoff_ms": 200,
            "grpc.max_reconnect_backoff_ms": 5_000,
            # An HTTP proxy cannot reach the loopback interface of this machine.
            "grpc.enable_http_proxy": int(not is_loopback(self.address)),
        }
        name = self.authority.rpartition(":")[0]
        override = {"grpc.default_authority": self.authority, "grpc.ssl_target_name_override": name}
        named = override if name else {}
        quick = {"grpc.min_reconnect_backoff_ms": round(self.connect_s * 1e3)} if self.connect_s else {}
        tls = self.tls.options if isinstance(self.tls, Tls) else {}
        return list({**ours, **named, **quick, **tls, **dict(self.channel_options)}.items())

    def with_metadata(self, more: Iterable[tuple[str, str]]) -> Connection:
        """A copy with additional metadata."""
        return replace(self, metadata=(*self.metadata, *more))

    def to_server(self, address: str) -> Connection:
        """A copy for one of several servers, or for one that another names.

        Raises ValueError if it has no valid address, or may not get the token.
        """
        if address == self.address:
            return self
        name = self.address if is_name(self.address) else ""
        return replace(self, address=address, authority=name, connect_s=CONNECT_S)

    def may_follow_to(self, address: str) -> bool:
        """Whether a sequence may be followed to a server that its own names."""
        try:
            return not is_target(address) and bool(self.to_server(address))
        except ValueError:
            return False

    @property
    def without_retries(self) -> Connection:
        """A copy for calls that must not be sent twice: gRPC configures retries per channel and method."""
        return replace(self, retries=0)

    def checked_size(self, request: Message) -> Message:
        """Return `request`. Raises InvalidRequest if it exceeds `max_message_bytes`."""
        self.check_size(request.ByteSize())
        return request

    def check_size(self, size: int) -> None:
        """Raises InvalidRequest if `size` exceeds `max_message_bytes`."""
        if size > self.max_message_bytes:
            description = f"{size} bytes, above the limit of {self.max_message_bytes}"
            raise InvalidRequest(
                f"the request has {description}: send less per call, or raise max_message_bytes"
                " and the server's limit",
                violations=(Violation("request", description),),
            )


def _check_metadata(key: str, value: str) -> None:
    if not (key.isascii() and key == key.lower() and value.isascii() and value.isprintable()):
        raise ValueError(f"metadata {key!r}: keys must be lower case, values printable ASCII")


def service_config(retries: int) -> str:
    """gRPC service config with the retry policy, as JSON.

    UNAVAILABLE is retried after 0.1 s, doubling up to 1 s; RESOURCE_EXHAUSTED after the server's pushback,
    or not at all if the server forbids it. Retries stay within the call's deadline. Retry throttling stops
    retries while more than half of the last hundred or so calls have failed, to prevent retry storms.
    """
    if retries == 0:
        return "{}"
    policy = {
        "maxAttempts": retries + 1,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }
    throttling = {"maxTokens": 100, "tokenRatio": 0.1}
    return json.dumps(
        {"methodConfig": [{"name": [{}], "retryPolicy": policy}], "retryThrottling": throttling}
    )
