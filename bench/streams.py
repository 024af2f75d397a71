"""A load of streams: a client process that reads and parses tokens as fast as they arrive.

`python -m bench.streams '{"address": …, "model": …, "streams": 64, "tokens": 400}'` prints
{"rate": tokens/s, "messages", "first_ms": […]} as JSON. With `"mode": "round-trips"` the streams are
client-driven sequences with one ModelInfer call per token; with `"mode": "probes"` short requests run beside
the streams. All are sent by the load generator's driver. `"interrupts": false` gives the client the policy
SCHED_BATCH: when it wakes up, it takes no core from a thread that runs there.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_client import protocol
from lockstep_load.in_process import Recording, new_driver, send_all
from lockstep_load.requests import PreparedRequest
from lockstep_load.senders import token_stream
from lockstep_load.worker_messages import RecordLog
from lockstep_proto import open_inference_pb2 as oip
from lockstep_proto.v1 import sequences_pb2 as pb

from . import connect

if TYPE_CHECKING:
    from lockstep_load.senders import ReplyTimes


class TokenLog(RecordLog):
    """Keeps when each message arrived, and its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[float, int]] = []

    def count_tokens(self, at_s: float, tokens: int) -> None:
        self.messages.append((at_s, tokens))


def prompts(spec: dict[str, Any], count: int, tokens: int) -> list[PreparedRequest]:
    """One Generate request per seed."""
    return [
        PreparedRequest(
            pb.GenerateRequest(
                model=spec["model"],
                text="ROMEO:\n",
                max_tokens=tokens,
                seed=seed,
                temperature=0.8,
                top_k=spec.get("top_k", 0),
                top_p=spec.get("top_p", 0),
            ).SerializeToString(),
            length=1,
        )
        for seed in range(count)
    ]


async def streams(channel: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Measure from the time all streams have started until the first one ends, at constant batch size."""
    count, log = spec["streams"], TokenLog()
    send = token_stream(channel, protocol.GENERATE, connect.call_options(spec))
    records = _answered(await send_all(prompts(spec, count, spec["tokens"]), send, count, log))
    begin, end = sorted(at for at, _ in log.messages)[: count + 1][-1], min(records["due"] + records["took"])
    counted = [n for at, n in log.messages if begin < at <= end]
    return {
        "rate": sum(counted) / max(end - begin, 1e-9),
        "messages": len(counted),
        "first_ms": (records["first"] * 1000.0).tolist(),
    }


async def round_trips(channel: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Each sequence sends the most probable token of the last reply."""
    call = channel.unary_unary(protocol.INFER.path, response_deserializer=oip.ModelInferResponse.FromString)
    sequences = iter(range(1, spec["streams"] + 1))

    async def send(prepared: PreparedRequest, _: ReplyTimes) -> None:
        token, sequence = 1, next(sequences)
        for step in range(prepared.length):
            request = oip.ModelInferRequest(model_name=spec["model"])
            request.parameters["sequence_id"].int64_param = sequence
            request.parameters["sequence_start"].bool_param = step == 0
            request.parameters["sequence_end"].bool_param = step == prepared.length - 1
            request.inputs.add(name="token", datatype="INT64", shape=[1])
            request.raw_input_contents.append(np.array([token], np.int64).tobytes())
            request.outputs.add(name="logits")
            reply = await call(request.SerializeToString())
            token = int(np.frombuffer(reply.raw_output_contents[0], np.float32).argmax())

    found = await send_all([PreparedRequest(b"", spec["tokens"])] * spec["streams"], send, spec["streams"])
    return {"rate": _answered(found)["length"].sum() / found.wall_s}


def _answered(found: Recording) -> Any:
    """The records of a load that may not fail."""
    if found.failed:
        raise RuntimeError(f"{found.failed} of {len(found.records)} streams failed: {found.first_error}")
    return found.records


async def probes(channel: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Short requests, one after another, beside long streams; times are those that the server reports."""
    log, timings = TokenLog(), list[Any]()
    long = prompts(spec, spec["streams"], spec["tokens"])
    call = channel.unary_stream(protocol.GENERATE.path, response_deserializer=pb.GenerateReply.FromString)

    async def send(request: PreparedRequest, _: ReplyTimes) -> None:
        timings.extend([reply.timings async for reply in call(request.body) if reply.reason])

    beside = new_driver(long, token_stream(channel, protocol.GENERATE, {}), spec["streams"], log)
    running = asyncio.create_task(beside.run())
    await asyncio.sleep(1.0)
    begun, before = time.perf_counter(), len(log.messages)
    _answered(await send_all(prompts(spec, 200, 3), send, 1))
    steps = sum(tokens for _, tokens in log.messages[before:]) / spec["streams"]
    step_ms = (time.perf_counter() - begun) / steps * 1000
    beside.stop()
    await running
    p50, p99 = np.percentile([one.first_token_seconds * 1000 for one in timings], (50, 99))
    prefill_ms = float(np.median([one.prefill_seconds for one in timings])) * 1000
    return {"p50_ms": p50, "p99_ms": p99, "prefill_ms": prefill_ms, "step_ms": step_ms}


async def main(spec: dict[str, Any]) -> None:
    if not spec.get("interrupts", True) and os.sched_getscheduler(0) == os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # for the threads to come, too
    drive = {"round-trips": round_trips, "probes": probes}.get(spec.get("mode", ""), streams)
    async with connect.channel(spec) as channel:
        if drive is not probes:
            await drive(channel, spec | {"tokens": min(spec["tokens"], 50)})  # warm-up
        print(json.dumps(await drive(channel, spec)))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
