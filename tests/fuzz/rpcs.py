"""Every RPC, and both ports, as targets: bytes in, the status of the call out."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import grpc.aio
import numpy as np
from chaos.asks import write_adder
from frames import spelled
from grpc_health.v1 import health_pb2

from lockstep_client import Client, arguments, calls, protocol, stream_calls
from lockstep_client.protocol import Method
from lockstep_proto import open_inference_pb2 as ipb
from lockstep_proto.v1 import operations_pb2 as opb
from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_server.engine.loading.repository import find_models

from . import corpus
from .outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

HANG_S = 30.0
"""A call that has not ended by then hangs."""

WRITE_FAILED = "Internal error from Core"
"""What grpc.aio says of a write that failed."""

_MOST_REPLIES = 64
_ENDLESS, _FOLLOW_S = "/Runs", 0.5
"""A method that goes on until it is cancelled, if bytes ask for that."""

_TEXTS = "sentiment-attention"

MEMORY_KEY = "lockstep-fuzz"
"""The key of `memory`."""

_MEMORY_BYTES = 4096


@contextmanager
def memory() -> Iterator[None]:
    """POSIX shared memory that the inputs of the fuzz may name."""
    file = Path("/dev/shm") / MEMORY_KEY
    file.write_bytes(bytes(_MEMORY_BYTES))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def methods() -> dict[str, Method[Any]]:
    """Every method of all services and the health check, by name; replies are not parsed."""
    found: dict[str, Method[Any]] = {"Check": protocol.HEALTH}
    for file in (ipb, pb, opb):
        for service in file.DESCRIPTOR.services_by_name.values():
            for one in service.methods:
                shape = _SHAPES[one.client_streaming, one.server_streaming]
                found[one.name] = Method(f"/{service.full_name}/{one.name}", ipb.ServerLiveResponse, shape)
    return found


_SHAPES: dict[tuple[bool, bool], protocol.Shape] = {
    (False, False): "unary_unary", (False, True): "unary_stream", (True, True): "stream_stream",
}  # fmt: skip


_LIVE = pb.SequenceId(number=99)


def start_sequence(address: str) -> None:
    """Start the sequence that the inputs of GetSequence name."""
    with Client(address) as client:
        client.infer("adder", {"x": np.ones((1, 2), np.float32)}, sequence_id=99, sequence_start=True)


def _state() -> bytes:
    """A state for the server's `adder`."""
    with tempfile.TemporaryDirectory() as folder:
        write_adder(Path(folder))
        [entry] = find_models(Path(folder))
        files = entry.with_tokenizers(entry.digest(), entry.manifest())
    sums = pb.NamedTensor(name="sum", datatype="FP32", shape=[1, 2], contents=bytes(8))
    state = pb.SequenceState(model="adder", version=1, files=bytes.fromhex(files), states=[sums], steps=3)
    return pb.SignedState(state=state.SerializeToString()).SerializeToString()


def seeds() -> dict[str, list[list[bytes]]]:
    """Valid messages of each method."""
    texts = ["a fine film", "dull"]
    classify = calls.classify(_TEXTS, texts, top_k=1, priority=2, queue_timeout_s=5).request
    encode = calls.encode(_TEXTS, texts, attention=True).request
    by_ids = calls.classify(_TEXTS, ids=[[5, 6, 7], [8]]).request
    tokens = calls.classify_tokens("tagger", ["Ada Lovelace lives"], aggregation="max", entities=True).request
    generate = stream_calls.generate("lm", "abc", max_tokens=5, seed=7, top_k=3, top_p=0.5, stop="z").request
    translate = stream_calls.translate("translator", "abc", max_tokens=5, attention=True).request
    follow = [
        pb.FollowRequest(start=pb.FollowStart(model="lm", top_k=2)), pb.FollowRequest(text="ab "),
        pb.FollowRequest(ids=pb.Ids(ids=[3, 4])), pb.FollowRequest(flush=True),
    ]  # fmt: skip
    adding = [
        pb.FollowRequest(start=pb.FollowStart(model="adder", outputs=["y"])),
        pb.FollowRequest(frames=arguments.frames("frames", np.ones((3, 2), np.float32))),
    ]
    transcribe = calls.transcribe("spelling", [spelled("ab-b"), spelled("a")], priority=1).request
    infer = fakes.floats("identity", [[1, 2], [3, 4]], request_id="a", priority=1, timeout=10**6)
    typed = fakes.request("identity", {"x": ("FP32", [[1.0]])}, typed=True)
    step = fakes.floats("adder", [[1, 2]], sequence_id=7, sequence_start=True, sequence_end=True)
    words = fakes.request(_TEXTS, {"tokens": ("INT64", [[5, 6]])}, outputs=["logits"])
    shared = ipb.ModelInferRequest(model_name="identity")
    for place, offset in (
        (shared.inputs.add(name="x", datatype="FP32", shape=[1, 2]), 0), (shared.outputs.add(name="y"), 64),
    ):  # fmt: skip
        place.parameters["shared_memory_region"].string_param = "m"
        place.parameters["shared_memory_byte_size"].int64_param = 8
        place.parameters["shared_memory_offset"].int64_param = offset
    region = ipb.SystemSharedMemoryRegisterRequest(name="m", key=MEMORY_KEY, byte_size=_MEMORY_BYTES)
    unary: dict[str, list[Any]] = {
        "Classify": [classify, by_ids], "Encode": [encode], "ClassifyTokens": [tokens],
        "ClassifyMany": [classify, by_ids], "EncodeMany": [encode], "ClassifyTokensMany": [tokens],
        "Generate": [generate], "Translate": [translate], "Transcribe": [transcribe],
        "ModelInfer": [infer, typed, step, words, shared],
        "ModelStreamInfer": [infer, typed, step, words, shared],
        "SystemSharedMemoryRegister": [region],
        "SystemSharedMemoryStatus": [
            ipb.SystemSharedMemoryStatusRequest(), ipb.SystemSharedMemoryStatusRequest(name="m"),
        ],
        "SystemSharedMemoryUnregister": [ipb.SystemSharedMemoryUnregisterRequest(name="m")],
        "ModelReady": [ipb.ModelReadyRequest(name="identity", version="1")],
        "ModelMetadata": [ipb.ModelMetadataRequest(name="lm", version="1")],
        "ModelConfig": [ipb.ModelConfigRequest(name="adder")],
        "ModelStatistics": [ipb.ModelStatisticsRequest(name="identity")],
        "RepositoryIndex": [ipb.RepositoryIndexRequest(ready=True)],
        "RepositoryModelLoad": [ipb.RepositoryModelLoadRequest(model_name="swapped")],
        "RepositoryModelUnload": [ipb.RepositoryModelUnloadRequest(model_name="swapped")],
        "Describe": [opb.DescribeRequest(), opb.DescribeRequest(model="lm", version="1")],
        "Runs": [opb.RunsRequest(model="lm", after=3)],
        "Requests": [opb.RequestsRequest(model="lm", id="a", since_seconds=9, limit=3)],
        "GetSequence": [
            pb.GetSequenceRequest(model="adder", id=_LIVE), pb.GetSequenceRequest(model="lm", stream_id="7f"),
        ],
        "PutSequence": [pb.PutSequenceRequest(state=_state())],
        "Check": [health_pb2.HealthCheckRequest(service="lm")],
    }  # fmt: skip
    found = {name: [[one.SerializeToString()] for one in made] for name, made in unary.items()}
    found["Follow"] = [[one.SerializeToString() for one in stream] for stream in (follow, adding)]
    return {name: found.get(name, [[b""], [b"\n\x01a"]]) for name in methods()}


class RpcTarget:
    """One method of a server."""

    def __init__(self, channel: grpc.aio.Channel, method: Method[Any]) -> None:
        self._channel, self._method = channel, method

    async def run(self, data: bytes) -> Outcome:
        """Send the messages of an input, and read all replies."""
        bodies, begun = corpus.unpack(data), time.monotonic()
        timeout_s = _FOLLOW_S if self._method.path.endswith(_ENDLESS) else HANG_S
        stub = getattr(self._channel, self._method.shape)(self._method.path)
        if self._method.shape == "stream_stream":
            call = stub(_each(bodies), timeout=HANG_S)
        else:
            call = stub(bodies[0] if bodies else b"", timeout=timeout_s)
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            if self._method.shape == "unary_unary":
                await call
            else:
                for _ in range(_MOST_REPLIES):
                    if await call.read() is grpc.aio.EOF:
                        break
                else:  # bytes may ask for a text without end
                    call.cancel()
                    return Outcome("OK", "long")
        code, details = await call.code(), await call.details() or ""
        if details == WRITE_FAILED:  # the server ended the stream with an error while this wrote
            return Outcome("INVALID_ARGUMENT", details)
        late = time.monotonic() - begun >= HANG_S
        return Outcome("hang" if late else code.name, details)


async def _each(bodies: Sequence[bytes]) -> AsyncIterator[bytes]:
    for body in bodies:
        yield body


class PortTarget:
    """A port that is sent bytes which need not be its protocol."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def run(self, data: bytes) -> Outcome:
        """OK if the server takes the connection and, at the latest when its client has ended it, ends it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            with suppress(ConnectionError):
                writer.write(data)
                await writer.drain()
                writer.write_eof()
                async with asyncio.timeout(HANG_S):
                    while await reader.read(1 << 16):
                        pass
        except TimeoutError:
            return Outcome("hang")
        finally:
            writer.transport.abort()
        return Outcome("OK")


PORT_SEEDS = {
    "http2": [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x01\x00\x00"
        b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x10\x01\x04\x00\x00\x00\x01"
        b"\x83\x86\x84\x41\x0a127.0.0.1\x00",
    ],
    "http": [
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
    ],
}
