"""A minimal Open Inference server that does not use this project's code: plain grpc servicers in a thread.

Its service time and concurrency are known and it can be stalled, so that the load generator's results can be
checked against the truth.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np

from lockstep_proto import open_inference_pb2 as pb
from lockstep_proto import open_inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODEL = "bert"


class Servicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves one model with the inputs ids, mask and weights."""

    def __init__(self, service_s: float, concurrency: int) -> None:
        self.service_s = service_s
        self.concurrency = asyncio.Semaphore(concurrency)
        self.stalled_until = 0.0
        """No request is answered before this time.monotonic()."""
        self.reject_every = 0
        """Every n-th request is rejected with RESOURCE_EXHAUSTED; 0 for none."""
        self.requests: list[Any] = []
        self.actions: dict[int, threading.Thread] = {}
        """Started when this many requests have arrived."""

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        if request.name != MODEL:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model {request.name}")
        reply = pb.ModelMetadataResponse(name=request.name, versions=["1"], platform="python")
        reply.inputs.add(name="input_ids", datatype="INT64", shape=[-1, -1])
        reply.inputs.add(name="attention_mask", datatype="INT64", shape=[-1, -1])
        reply.inputs.add(name="weights", datatype="FP32", shape=[-1, 4])
        return reply

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        if action := self.actions.get(len(self.requests)):
            action.start()
        if self.reject_every and len(self.requests) % self.reject_every == 0:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
        async with self.concurrency:
            await asyncio.sleep(max(self.service_s, self.stalled_until - time.monotonic()))
        reply = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        reply.outputs.add(name="y", datatype="FP32", shape=[1])
        reply.raw_output_contents.append(np.ones(1, np.float32).tobytes())
        return reply


class FakeServer:
    """A server that can be stopped and started again at the same address."""

    def __init__(self, service_s: float, concurrency: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: Any = None
        self.port = 0
        self.servicer: Servicer = self._run(self._made(service_s, concurrency))
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._run(self._start())

    def stop(self) -> None:
        """Stop at once, dropping requests in flight."""
        self._run(self._server.stop(0))

    def stall(self, seconds: float) -> None:
        self.servicer.stalled_until = time.monotonic() + seconds

    def on_request(self, number: int, act: Callable[[], object]) -> threading.Thread:
        """Call `act` in a thread when this request arrives. The request of the preflight is number 1."""
        self.servicer.actions[number] = threading.Thread(target=act)
        return self.servicer.actions[number]

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _made(self, service_s: float, concurrency: int) -> Servicer:
        return Servicer(service_s, concurrency)

    async def _start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self.servicer, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


@contextmanager
def fake_server(service_s: float = 0.0, concurrency: int = 10_000) -> Iterator[FakeServer]:
    """A running server."""
    server = FakeServer(service_s, concurrency)
    try:
        yield server
    finally:
        server.close()
