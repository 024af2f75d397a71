"""Requests as fast as a server answers them: serialised in advance, replies are counted but not parsed.

`python -m bench.drive '{"address": …, "model": …, "lengths": […], "inflight": 64, "mode": "unary"}'`
prints {"rate", "p50_ms", "p99_ms", "failed"} as JSON. Unary calls are sent by the load generator's driver,
in turn over as many "connections" as are given (1).
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from lockstep_client import protocol
from lockstep_load.in_process import send_all
from lockstep_load.requests import PreparedRequest
from lockstep_load.senders import unary
from lockstep_proto import open_inference_pb2 as pb

from . import connect

if TYPE_CHECKING:
    from lockstep_load.senders import ReplyTimes

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def requests(model: str, lengths: list[int]) -> list[PreparedRequest]:
    """One ModelInfer request per length; the no-op model takes a length of 32."""
    rng = np.random.default_rng(0)
    return [request(model, rng.integers(1, 8000, length)) for length in lengths]


def request(model: str, ids: Any) -> PreparedRequest:
    noop = model in ("bench-noop", "bench-any-size")
    request = pb.ModelInferRequest(model_name=model, id="1")
    request.inputs.add(name="x" if noop else "tokens", datatype="INT64", shape=[1, len(ids)])
    request.raw_input_contents.append(ids.astype(np.int64).tobytes())
    if not noop:
        request.outputs.add(name="vector" if model == "bench-encoder" else "logits")
    return PreparedRequest(request.SerializeToString(), len(ids))


async def closed_loop(
    channels: list[Any], made: list[PreparedRequest], inflight: int, options: dict[str, Any] | None = None
) -> dict[str, float]:
    """A closed loop with `inflight` calls in flight; each gets `options`."""
    turn = itertools.cycle([unary(channel, protocol.INFER.path, options or {}) for channel in channels])

    async def send(request: PreparedRequest, times: ReplyTimes) -> None:
        await next(turn)(request, times)

    found = await send_all(made, send, inflight)
    return _report(found.seconds, found.failed, found.wall_s)


async def stream(
    channels: list[Any], made: list[PreparedRequest], inflight: int, options: dict[str, Any] | None = None
) -> dict[str, float]:
    """One stream with `inflight` requests in flight; latencies count from the start.

    A loop of its own: requests on one stream are written without waiting for a reply to each, and replies
    are not matched to requests, whereas the load generator's driver awaits the end of each request.
    """
    call, seconds, failed = channels[0].stream_stream(STREAM)(**(options or {})), list[float](), 0
    room = asyncio.Semaphore(inflight)
    begun = time.perf_counter()

    async def send() -> None:
        for one in made:
            await room.acquire()
            await call.write(one.body)
        await call.done_writing()

    sender = asyncio.create_task(send())
    while (answer := await call.read()) is not grpc.aio.EOF:
        # error_message is field 1, so its tag comes first in a reply that has one.
        failed += answer[:1] == b"\x0a"
        seconds.append(time.perf_counter() - begun)
        room.release()
    await sender
    return _report(seconds, failed, time.perf_counter() - begun)


def _report(seconds: Any, failed: int, wall_s: float) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, (50, 99)) * 1000
    return {"rate": len(seconds) / wall_s, "p50_ms": p50, "p99_ms": p99, "failed": failed}


async def main(spec: dict[str, Any]) -> None:
    made, inflight = requests(spec["model"], spec["lengths"]), spec["inflight"]
    gc.collect()
    gc.freeze()  # keeps the requests out of collections, as the load generator's workers do
    drive = stream if spec.get("mode") == "stream" else closed_loop
    async with AsyncExitStack() as stack:
        count = spec.get("connections", 1)
        channels = [await stack.enter_async_context(connect.channel(spec)) for _ in range(count)]
        options = connect.call_options(spec)
        await drive(channels, made[: max(len(made) // 10, inflight)], inflight, options)
        print(json.dumps(await drive(channels, made, inflight, options)))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
