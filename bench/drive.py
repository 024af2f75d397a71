"""A minimal load generator: requests are serialised in advance, replies are counted but not parsed.

`python -m bench.drive '{"address": …, "model": …, "lengths": […], "inflight": 64, "mode": "unary"}'`
prints {"rate", "p50_ms", "p99_ms", "failed"} as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc
import numpy as np

from lockstep_proto import open_inference_pb2 as pb

PATH = "/inference.GRPCInferenceService/"


def requests(model: str, lengths: list[int]) -> list[bytes]:
    """One serialised ModelInfer request per length; the no-op model takes a length of 32."""
    rng = np.random.default_rng(0)
    return [_request(model, rng.integers(1, 8000, length)).SerializeToString() for length in lengths]


def _request(model: str, ids: Any) -> Any:
    noop = model == "bench-noop"
    request = pb.ModelInferRequest(model_name=model, id="1")
    request.inputs.add(name="x" if noop else "tokens", datatype="INT64", shape=[1, len(ids)])
    request.raw_input_contents.append(ids.astype(np.int64).tobytes())
    if not noop:
        request.outputs.add(name="vector" if model == "bench-encoder" else "logits")
    return request


class RequestTimes:
    """Latencies of the answered requests, and the number of failures."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failed = 0

    def report(self, wall_s: float) -> dict[str, float]:
        p50, p99 = np.percentile(self.seconds, (50, 99)) * 1000
        return {"rate": len(self.seconds) / wall_s, "p50_ms": p50, "p99_ms": p99, "failed": self.failed}


async def unary(channel: Any, bodies: list[bytes], inflight: int) -> dict[str, float]:
    """A closed loop with `inflight` calls in flight."""
    call, times, left = channel.unary_unary(PATH + "ModelInfer"), RequestTimes(), iter(bodies)

    async def worker() -> None:
        for body in left:
            begun = time.perf_counter()
            try:
                await call(body)
            except grpc.aio.AioRpcError:
                times.failed += 1
            else:
                times.seconds.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(inflight)))
    return times.report(time.perf_counter() - begun)


async def stream(channel: Any, bodies: list[bytes], inflight: int) -> dict[str, float]:
    """One stream with `inflight` requests in flight."""
    call, times = channel.stream_stream(PATH + "ModelStreamInfer")(), RequestTimes()
    room = asyncio.Semaphore(inflight)
    begun = time.perf_counter()

    async def send() -> None:
        for body in bodies:
            await room.acquire()
            await call.write(body)
        await call.done_writing()

    sender = asyncio.create_task(send())
    while (answer := await call.read()) is not grpc.aio.EOF:
        # error_message is field 1, so its tag comes first in a reply that has one.
        if answer[:1] == b"\x0a":
            times.failed += 1
        times.seconds.append(time.perf_counter() - begun)
        room.release()
    await sender
    return times.report(time.perf_counter() - begun)


async def main(spec: dict[str, Any]) -> None:
    bodies = requests(spec["model"], spec["lengths"])
    drive = stream if spec.get("mode") == "stream" else unary
    async with grpc.aio.insecure_channel(spec["address"]) as channel:
        await drive(channel, bodies[: max(len(bodies) // 10, spec["inflight"])], spec["inflight"])
        print(json.dumps(await drive(channel, bodies, spec["inflight"])))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
