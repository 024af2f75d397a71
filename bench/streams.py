"""A load of streams: a client process that reads and parses tokens as fast as they arrive.

`python -m bench.streams '{"address": …, "model": …, "streams": 64, "tokens": 400}'` prints
{"rate": tokens/s, "messages", "first_ms": […]} as JSON. With `"mode": "round-trips"` the streams are
client-driven sequences with one ModelInfer call per token; with `"mode": "probes"` short requests run beside
the streams.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc
import numpy as np

from lockstep_proto import open_inference_pb2 as oip
from lockstep_proto.v1 import sequences_pb2 as pb

_GENERATE = "/lockstep.v1.Sequences/Generate"
_INFER = "/inference.GRPCInferenceService/ModelInfer"


async def streams(channel: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Measure from the time all streams have started until the first one ends, at constant batch size."""
    call = channel.unary_stream(
        _GENERATE,
        request_serializer=pb.GenerateRequest.SerializeToString,
        response_deserializer=pb.GenerateReply.FromString,
    )
    made: list[tuple[float, int]] = []
    firsts: list[float] = []

    async def one(index: int) -> None:
        request = pb.GenerateRequest(
            model=spec["model"],
            text="ROMEO:\n",
            max_tokens=spec["tokens"],
            seed=index,
            temperature=0.8,
            top_k=spec.get("top_k", 0),
            top_p=spec.get("top_p", 0),
        )
        begun, first = time.perf_counter(), True
        async for reply in call(request):
            now = time.perf_counter()
            if first:
                firsts.append((now - begun) * 1000)
                first = False
            made.append((now, len(reply.tokens)))
        ends.append(time.perf_counter())

    ends: list[float] = []
    await asyncio.gather(*(one(index) for index in range(spec["streams"])))
    begin, end = sorted(at for at, _ in made)[: spec["streams"] + 1][-1], min(ends)
    counted = [n for at, n in made if begin < at <= end]
    return {"rate": sum(counted) / max(end - begin, 1e-9), "messages": len(counted), "first_ms": firsts}


async def round_trips(channel: Any, spec: dict[str, Any]) -> dict[str, Any]:
    call = channel.unary_unary(
        _INFER,
        request_serializer=oip.ModelInferRequest.SerializeToString,
        response_deserializer=oip.ModelInferResponse.FromString,
    )

    async def one(index: int) -> None:
        token = 1
        for step in range(spec["tokens"]):
            request = oip.ModelInferRequest(model_name=spec["model"])
            request.parameters["sequence_id"].int64_param = index + 1
            request.parameters["sequence_start"].bool_param = step == 0
            request.parameters["sequence_end"].bool_param = step == spec["tokens"] - 1
            request.inputs.add(name="token", datatype="INT64", shape=[1])
            request.raw_input_contents.append(np.array([token], np.int64).tobytes())
            request.outputs.add(name="logits")
            reply = await call(request)
            token = int(np.frombuffer(reply.raw_output_contents[0], np.float32).argmax())

    begun = time.perf_counter()
    await asyncio.gather(*(one(index) for index in range(spec["streams"])))
    return {"rate": spec["streams"] * spec["tokens"] / (time.perf_counter() - begun)}


async def probes(channel: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Short requests, one after another, beside long streams; times are those that the server reports."""
    call = channel.unary_stream(
        _GENERATE,
        request_serializer=pb.GenerateRequest.SerializeToString,
        response_deserializer=pb.GenerateReply.FromString,
    )

    def request(tokens: int, seed: int) -> Any:
        return pb.GenerateRequest(
            model=spec["model"], text="ROMEO:\n", max_tokens=tokens, seed=seed, temperature=0.8
        )

    running = [call(request(spec["tokens"], seed)) for seed in range(spec["streams"])]
    made = [0]

    async def drain(stream: Any) -> None:
        async for reply in stream:
            made[0] += len(reply.tokens)

    readers = [asyncio.create_task(drain(stream)) for stream in running]
    await asyncio.sleep(1.0)
    begun, before, timings = time.perf_counter(), made[0], []
    for seed in range(200):
        timings += [reply.timings async for reply in call(request(3, seed)) if reply.reason]
    steps = (made[0] - before) / spec["streams"]
    step_ms = (time.perf_counter() - begun) / steps * 1000
    for stream in running:
        stream.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    p50, p99 = np.percentile([one.first_token_seconds * 1000 for one in timings], (50, 99))
    prefill_ms = float(np.median([one.prefill_seconds for one in timings])) * 1000
    return {"p50_ms": p50, "p99_ms": p99, "prefill_ms": prefill_ms, "step_ms": step_ms}


async def main(spec: dict[str, Any]) -> None:
    drive = {"round-trips": round_trips, "probes": probes}.get(spec.get("mode", ""), streams)
    async with grpc.aio.insecure_channel(spec["address"]) as channel:
        if drive is not probes:
            await drive(channel, spec | {"tokens": min(spec["tokens"], 50)})  # warm-up
        print(json.dumps(await drive(channel, spec)))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
