"""The RPCs that pass through Ray Serve, and how their messages travel. Imports no Ray.

Each message of a stream would cost Ray a task or an object, about a millisecond of CPU. So the messages that
are ready travel together, as one frame: a length of 4 bytes before each.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from lockstep_proto import open_inference_pb2
from lockstep_proto.v1 import operations_pb2, sequences_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence

TIMEOUT = "lockstep-timeout-ms"
"""Metadata key, proxy to replica: what remains of the caller's deadline, in ms. Serve passes no deadline."""

SEQUENCE = "lockstep-sequence-id"
"""Metadata key in which callers may name their sequence, for any balancer; without it, the message counts."""

CODE, DETAILS = "lockstep-code", "lockstep-details"
"""Keys in a replica's trailing metadata: the status of the call, which the ingress gives the caller.
Serve itself would pass it on without google.rpc details, and after a message of a stream not at all."""

_WATCH = "/grpc.health.v1.Health/Watch"
"""Not served: a call without an end would hold up the end of its replica. Clients then ask with Check."""


_LENGTH = struct.Struct("<I")
_MOST, _MOST_BYTES = 256, 1 << 20
"""What is gathered before its reader waits, if messages are not taken."""


@dataclass(frozen=True)
class Method:
    """One RPC."""

    path: str
    streams_requests: bool
    streams_replies: bool
    request: Any  # class of its request messages

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Target:
    """What a message asks for; an empty string stands for nothing."""

    model: str = ""
    sequence: str = ""  # the caller's id of a sequence, with its model


def _methods() -> Iterator[Method]:
    files = (open_inference_pb2, sequences_pb2, operations_pb2, health_pb2)
    for service in (one for file in files for one in file.DESCRIPTOR.services_by_name.values()):
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            if path != _WATCH:
                streams = method.client_streaming, method.server_streaming
                yield Method(path, *streams, GetMessageClass(method.input_type))


METHODS = tuple(_methods())


def target_of(method: Method, data: bytes) -> Target:
    """What the first message of a call asks for. A message that cannot be read asks for nothing: the server
    refuses it."""
    fields = method.request.DESCRIPTOR.fields_by_name
    key = next((key for key in ("model_name", "model", "start", "name") if key in fields), "")
    if not key:
        return Target()
    try:
        message = method.request.FromString(data)
    except DecodeError:
        return Target()
    model = str(message.start.model if key == "start" else getattr(message, key)).removesuffix(".step")
    if "parameters" not in fields or "sequence_id" not in message.parameters:
        return Target(model)
    parameter = message.parameters["sequence_id"]
    kind = parameter.WhichOneof("parameter_choice")
    sequence = getattr(parameter, kind) if kind else ""
    return Target(model, f"{message.model_name}/{sequence}" if sequence else "")


def frame(messages: Sequence[bytes]) -> bytes:
    """Messages as one frame."""
    return b"".join(part for message in messages for part in (_LENGTH.pack(len(message)), message))


def messages_of(data: bytes) -> Iterator[bytes]:
    """The messages of a frame."""
    at = 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + length
        yield data[at - length : at]


async def gathered(
    source: AsyncIterator[bytes], pause: Callable[[], float] = lambda: 0.0
) -> AsyncGenerator[list[bytes], None]:
    """The messages of a stream, those together that arrive while the consumer is busy, or within `pause()`
    seconds after those before them. The first comes at once. Raises what `source` raises, after its messages.
    """
    ready: list[bytes] = []
    arrived, taken = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        size = 0
        async for message in source:
            size = size + len(message) if ready else len(message)
            ready.append(message)
            arrived.set()
            if len(ready) >= _MOST or size >= _MOST_BYTES:
                taken.clear()
                await taken.wait()

    def ended(task: asyncio.Future[None]) -> None:
        arrived.set()
        if not task.cancelled():
            task.exception()  # nobody may be left to raise it to

    reader = asyncio.ensure_future(read())
    reader.add_done_callback(ended)
    try:
        while True:
            await arrived.wait()
            arrived.clear()
            if ready:
                messages = ready.copy()
                ready.clear()
                taken.set()
                yield messages
                if pause_s := pause():
                    await asyncio.wait({reader}, timeout=pause_s)
            elif reader.done():
                break
            if reader.done():
                arrived.set()
        await reader
    finally:
        reader.cancel()
