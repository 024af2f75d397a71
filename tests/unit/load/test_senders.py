"""Which messages are sent, and when."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest

from lockstep_load.lengths import parse
from lockstep_load.plan import ClosedLoop, LoadProfile, Target, WorkerJob, Workload
from lockstep_load.requests import request_pool
from lockstep_load.senders import ReplyTimes, sender, spread
from lockstep_proto.v1 import sequences_pb2 as pb


class Stream:
    """A Follow stream that answers each element and logs the operations on it in order."""

    def __init__(self, ends_after: int | None = None) -> None:
        self.done: list[str] = []
        self._left, self._ends_after = 0, ends_after

    async def write(self, body: bytes) -> None:
        sent = pb.FollowRequest.FromString(body)
        if self.done.count("read") == self._ends_after:
            raise asyncio.InvalidStateError("RPC already finished.")
        self._left += len(sent.ids.ids)
        self.done.append(f"{len(sent.ids.ids)} ids" if sent.HasField("ids") else "start")

    async def read(self) -> Any:
        if self.done.count("read") == self._ends_after:
            raise EOFError("its status")
        if not self._left:
            return grpc.aio.EOF
        self._left -= 1
        self.done.append("read")
        return b""

    async def done_writing(self) -> None:
        self.done.append("done")


class Channel:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def stream_stream(self, path: str) -> Any:
        return lambda **_: self._stream


def sender_and_request(stream: Stream) -> tuple[Any, Any]:
    lengths = parse("3")
    assert lengths is not None
    workload = Workload("follow", lengths, (1, 9), one_by_one=True)
    job = WorkerJob(Target("localhost:1", "m"), workload, LoadProfile(ClosedLoop(1), 1.0))
    send = sender(Channel(stream), job.target, workload)  # type: ignore[arg-type]
    return send, request_pool(job, 1)[0]


async def test_one_by_one_sends_each_element_after_the_previous_answer() -> None:
    send, request = sender_and_request(stream := Stream())
    times = ReplyTimes(lambda at, tokens: None)
    await send(request, times)
    assert stream.done == ["start", *["1 ids", "read"] * 3, "done"]
    assert (times.tokens, len(times.gaps)) == (3, 2)


async def test_a_stream_that_ends_early_raises_its_status() -> None:
    send, request = sender_and_request(Stream(ends_after=1))
    with pytest.raises(EOFError, match="its status"):
        await send(request, ReplyTimes(lambda at, tokens: None))


def test_without_one_by_one_a_text_is_a_single_message() -> None:
    lengths = parse("3")
    assert lengths is not None
    workload = Workload("follow", lengths, (1, 9))
    job = WorkerJob(Target("localhost:1", "m"), workload, LoadProfile(ClosedLoop(1), 1.0))
    assert [len(one.later_bodies) for one in request_pool(job, 2)] == [1, 1]
    assert [
        len(one.later_bodies)
        for one in request_pool(replace(job, workload=replace(workload, one_by_one=True)), 2)
    ] == [
        3,
        3,
    ]


async def test_requests_go_to_the_server_with_the_fewest_in_flight() -> None:
    begun: list[int] = []
    ends = [asyncio.Event(), asyncio.Event()]

    def sender_of(server: int) -> Any:
        async def send(_request: Any, _times: Any) -> None:
            begun.append(server)
            await ends[server].wait()

        return send

    send: Any = spread([sender_of(0), sender_of(1)])
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(send(None, None))
            await asyncio.sleep(0)
        assert sorted(begun) == [0, 0, 1, 1]
        ends[1].set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        group.create_task(send(None, None))
        await asyncio.sleep(0)
        assert begun[-1] == 1
        ends[0].set()
