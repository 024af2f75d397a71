"""How both clients connect: address, credentials, limits, retries and keepalive, as gRPC takes them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import grpc

from lockstep_client.address import checked, is_loopback
from lockstep_client.errors import InvalidRequest, Violation
from lockstep_client.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.protobuf.message import Message

MAX_MESSAGE_BYTES = 64 << 20
# Most servers close a connection that is pinged more than once in 5 minutes; Lockstep's allow one in 30 s.
KEEPALIVE_S = 330.0
LEAST_KEEPALIVE_S = 40.0


@dataclass(frozen=True)
class Connection:
    """What a channel is made from; checked at once, so that no call fails for a typing error."""

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

    def __post_init__(self) -> None:
        checked(self.address)
        if not 0 <= self.retries <= 4:
            raise ValueError(f"retries is {self.retries}: gRPC makes 0 to 4")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s is {self.timeout_s}: give a deadline above 0 seconds")
        if not 0 < self.max_message_bytes < 1 << 31:
            raise ValueError(f"max_message_bytes is {self.max_message_bytes}: give 1 to 2147483647")
        if not self.keepalive_s >= LEAST_KEEPALIVE_S:
            raise ValueError(
                f"keepalive_s is {self.keepalive_s}: servers close connections that are pinged so often;"
                f" give {LEAST_KEEPALIVE_S:g} or more, infinity for none"
            )
        self._check_token()
        for key, value in self.metadata:
            _check_metadata(key, value)

    def _check_token(self) -> None:
        if not self.token:
            return
        if not (self.tls or self.plaintext_token or is_loopback(self.address)):
            raise ValueError(
                f"token would go to {self.address} unencrypted: give tls, or with a client"
                " plaintext_token=True where something else keeps it from being read"
            )
        if isinstance(self.token, str):
            _check_metadata("token", self.token)

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """None: plain text."""
        if isinstance(self.tls, bool):
            return grpc.ssl_channel_credentials() if self.tls else None
        return self.tls.credentials() if isinstance(self.tls, Tls) else self.tls

    @property
    def call_metadata(self) -> tuple[tuple[str, str], ...]:
        """Sent with every call."""
        token = self.token() if callable(self.token) else self.token
        return (*self.metadata, *((("authorization", f"Bearer {token}"),) if token else ()))

    @property
    def options(self) -> list[tuple[str, Any]]:
        """Channel arguments; those that were given go before ours."""
        ours = {
            "grpc.service_config": service_config(self.retries),
            "grpc.enable_retries": int(self.retries > 0),
            "grpc.max_send_message_length": self.max_message_bytes,
            "grpc.max_receive_message_length": self.max_message_bytes,
            "grpc.keepalive_time_ms": round(min(self.keepalive_s * 1e3, (1 << 31) - 1)),
            "grpc.keepalive_timeout_ms": 20_000,
            # A server that was restarted is found again soon, not after gRPC's two minutes.
            "grpc.initial_reconnect_backoff_ms": 200,
            "grpc.max_reconnect_backoff_ms": 5_000,
            # A proxy that is set for the outside world cannot reach this machine's own ports.
            "grpc.enable_http_proxy": int(not is_loopback(self.address)),
        }
        tls = self.tls.options if isinstance(self.tls, Tls) else {}
        return list({**ours, **tls, **dict(self.channel_options)}.items())

    def with_metadata(self, more: Iterable[tuple[str, str]]) -> Connection:
        """The same, with more to send."""
        return replace(self, metadata=(*self.metadata, *more))

    @property
    def without_retries(self) -> Connection:
        """The same, for what may not be sent twice. gRPC knows retries by channel and method only."""
        return replace(self, retries=0)

    def fitting(self, request: Message) -> Message:
        """The request, or InvalidRequest where it is larger than may be sent."""
        self.check_size(request.ByteSize())
        return request

    def check_size(self, size: int) -> None:
        """InvalidRequest for more bytes than may be sent."""
        if size > self.max_message_bytes:
            told = f"{size} bytes, above the limit of {self.max_message_bytes}"
            raise InvalidRequest(
                f"the request has {told}: send less in a call, or raise max_message_bytes on both sides",
                violations=(Violation("request", told),),
            )


def _check_metadata(key: str, value: str) -> None:
    if not (key.isascii() and key == key.lower() and value.isascii() and value.isprintable()):
        raise ValueError(f"metadata {key!r}: keys are lower case, and values printable ASCII")


def service_config(retries: int) -> str:
    """gRPC's service config, as JSON: what is tried again, and when.

    UNAVAILABLE waits 0.1 s, doubling, to 1 s; RESOURCE_EXHAUSTED as long as the server's pushback says, and
    not at all where it says never. All within the call's deadline. When more than half of a hundred recent
    calls failed, nothing is retried until they succeed again, so that clients make no storm.
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
