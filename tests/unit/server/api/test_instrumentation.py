"""A message is counted when it is passed to gRPC, however the call ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from lockstep_server.api.instrumentation import InstrumentedService
from lockstep_server.metrics.families import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

METHOD = "/t.Service/Talk"


class _CancellingContext:
    """A client that takes a message and cancels, so that the write never returns."""

    def __init__(self, remaining_s: float | None) -> None:
        self.taken = asyncio.Event()
        self.remaining_s = remaining_s

    async def read(self) -> bytes:
        return b"request"

    async def write(self, message: Any) -> None:
        self.taken.set()
        await asyncio.Event().wait()

    def time_remaining(self) -> float | None:
        return self.remaining_s

    def peer(self) -> str:
        return "ipv4:127.0.0.1:50000"


class _Details:
    method = METHOD
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


async def _writes(request: Any, context: Any) -> None:
    await context.write(b"reply")


async def _yields(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield b"reply"


@pytest.mark.parametrize(
    ("remaining_s", "code"), [(None, "CANCELLED"), (9, "CANCELLED"), (0, "DEADLINE_EXCEEDED")]
)
@pytest.mark.parametrize("behaviour", [_writes, _yields])
async def test_a_message_is_counted_if_the_client_cancels_during_the_write(
    behaviour: Any, remaining_s: float | None, code: str
) -> None:
    metrics = Metrics()
    service = grpc.method_handlers_generic_handler(
        "t.Service", {"Talk": grpc.unary_stream_rpc_method_handler(behaviour)}
    )
    handler = InstrumentedService(service, metrics, lambda method, metadata: None).service(_Details())
    context = _CancellingContext(remaining_s)
    call = asyncio.ensure_future(handler.stream_stream(None, context))
    await context.taken.wait()
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    labels = {"grpc_type": "server_stream", "grpc_service": "t.Service", "grpc_method": "Talk"}
    assert metrics.registry.get_sample_value("grpc_server_msg_sent_total", labels) == 1
    handled = metrics.registry.get_sample_value("grpc_server_handled_total", {**labels, "grpc_code": code})
    assert handled == 1
