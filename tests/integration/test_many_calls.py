"""Many calls at once: gRPC itself ends none of them, neither in a flood nor when the server stops."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import fakes
import grpc
from integration.harness import Served, settings
from patience import PATIENCE_S

from lockstep_proto import open_inference_pb2 as pb
from lockstep_proto import open_inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_UNREAD_CALLS = 4000
"""More than gRPC queues by default."""

_CALLERS = 200


def test_calls_that_arrive_faster_than_they_are_read_are_all_answered(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    server = serving()
    busy, go_on = threading.Event(), threading.Event()

    async def block_the_event_loop() -> None:
        busy.set()
        go_on.wait(PATIENCE_S)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(server.run, block_the_event_loop())
        assert busy.wait(PATIENCE_S)
        calls = [
            server.inference.ServerLive.future(pb.ServerLiveRequest(), timeout=PATIENCE_S)
            for _ in range(_UNREAD_CALLS)
        ]
        go_on.set()
    assert Counter(call.code() for call in calls) == {grpc.StatusCode.OK: _UNREAD_CALLS}


def test_callers_that_never_pause_get_unavailable_when_the_server_stops(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "m", fakes.identity())
    server = Served(settings(tmp_path))
    server.wait_serving()
    ends: Counter[str] = Counter()
    answered = threading.Event()

    async def call_until_closed(stub: open_inference_pb2_grpc.GRPCInferenceServiceStub) -> None:
        while ends["closed"] == 0:
            try:
                await stub.ModelInfer(fakes.floats("m", [[1]]), timeout=PATIENCE_S)
                answered.set()
            except grpc.RpcError as error:
                ends[error.code().name] += 1
                ends["closed"] += "stopping" not in (error.details() or "")

    async def call() -> None:
        async with grpc.aio.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as channel:
            stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            await asyncio.gather(*(call_until_closed(stub) for _ in range(_CALLERS)))

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(asyncio.run, call())
        assert answered.wait(PATIENCE_S)
        server.close()
        done.result(PATIENCE_S)
    del ends["closed"]
    assert set(ends) == {"UNAVAILABLE"}
