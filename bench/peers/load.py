"""The load of the comparison: a closed loop over raw gRPC or HTTP, the same for every server.

`python -m bench.peers.load` reads one JSON specification a line and answers each by a line of JSON:

{"address": "127.0.0.1:8001", "kind": "open-inference" | "msgpack" | "json", "models": [...], "inflight": 64,
 "seconds": 2.0, "lead_s": 0.3, "pids": [...]} -> {"rate", "p50_ms", "p99_ms", "failed", "calls",
 "server_us", "load_us"}

Messages are made in advance and answers are not decoded. Calls begun after the lead and before the end count,
and are awaited after the end, so that the slowest are not left out.
"""

from __future__ import annotations

import gc
import json
import random
import select
import sys
import time
from contextlib import closing, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from bench import lengths, levels
from bench.drive import requests
from bench.raw_calls import Call, Connection, call
from lockstep_client import protocol

from .http_calls import HttpConnection, post

if TYPE_CHECKING:
    from collections.abc import Iterator

DIFFERENT = 600
"""Different requests for each model."""

IDS = 8000
"""Ids are below it."""

_LONGEST_END_S = 60.0


class _Calls(Protocol):
    def begin(self, now: float) -> None:
        """Send the next call."""

    def ended(self, wait_s: float) -> Iterator[tuple[float, bool]]:
        """When the calls began that ended meanwhile, and whether they succeeded."""

    def close(self) -> None: ...


class _GrpcCalls:
    """Calls over one connection, as a channel has."""

    def __init__(self, host: str, port: int, made: list[Call]) -> None:
        self._connection, self._made, self._sent = Connection(host, port), made, 0
        self._open: dict[int, float] = {}

    def begin(self, now: float) -> None:
        self._open[self._connection.begin(self._made[self._sent % len(self._made)])] = now
        self._sent += 1

    def ended(self, wait_s: float) -> Iterator[tuple[float, bool]]:
        self._connection.flush()
        socket = self._connection.socket
        select.select([socket], [socket] if self._connection.has_unsent else [], [], wait_s)
        for reply in self._connection.receive():
            if reply.status is not None:
                yield self._open.pop(reply.call), reply.status == 0

    def close(self) -> None:
        self._connection.close()


class _HttpCalls:
    """Calls over as many connections as are in flight."""

    def __init__(self, host: str, port: int, made: list[bytes], inflight: int) -> None:
        self._made, self._sent = made, 0
        self._idle = [HttpConnection(host, port) for _ in range(inflight)]
        self._open: dict[int, tuple[HttpConnection, float]] = {}
        self._poll = select.epoll()
        for one in self._idle:
            self._poll.register(one.socket, select.EPOLLIN)

    def begin(self, now: float) -> None:
        connection = self._idle.pop()
        connection.send(self._made[self._sent % len(self._made)])
        self._sent += 1
        self._open[connection.socket.fileno()] = connection, now

    def ended(self, wait_s: float) -> Iterator[tuple[float, bool]]:
        for file, _ in self._poll.poll(wait_s):
            connection, begun = self._open[file]
            status = connection.receive()
            if status is not None:
                del self._open[file]
                self._idle.append(connection)
                yield begun, status == 200

    def close(self) -> None:
        self._poll.close()
        for one in (*self._idle, *(connection for connection, _ in self._open.values())):
            one.socket.close()


def run(spec: dict[str, Any]) -> dict[str, float]:
    """Load a server as the specification says."""
    with closing(_calls(spec)) as calls:
        return _closed_loop(calls, spec)


def _closed_loop(calls: _Calls, spec: dict[str, Any]) -> dict[str, float]:
    seconds: list[float] = []
    failed = in_window = 0
    for _ in range(spec["inflight"]):
        calls.begin(time.perf_counter())
    running = spec["inflight"]
    begins = time.perf_counter() + spec["lead_s"]
    ends = begins + spec["seconds"]
    before = after = None
    while running:
        now = time.perf_counter()
        if before is None and now >= begins:
            before = cpu_seconds(spec["pids"]), time.process_time()
            begins, ends = now, now + spec["seconds"]
        elif after is None and now >= ends:
            after, ends = (cpu_seconds(spec["pids"]), time.process_time()), now
        if now > ends + _LONGEST_END_S:
            failed += running
            break
        for begun, succeeded in calls.ended(0.1):
            now = time.perf_counter()
            running -= 1
            failed += not succeeded
            if begun >= begins and before is not None:
                seconds.append(now - begun)
            in_window += before is not None and after is None
            if after is None:
                calls.begin(now)
                running += 1
    assert before is not None
    assert after is not None
    p50, p99 = np.percentile(seconds, (50, 99)) * 1000 if seconds else (0.0, 0.0)
    each = 1e6 / max(in_window, 1)
    return {
        "rate": in_window / (ends - begins), "p50_ms": float(p50), "p99_ms": float(p99),
        "failed": failed, "calls": len(seconds),
        "server_us": (after[0] - before[0]) * each, "load_us": (after[1] - before[1]) * each,
    }  # fmt: skip


def cpu_seconds(pids: list[int]) -> float:
    """CPU time that these processes have used, those that have ended left out."""
    total = 0.0
    for pid in pids:
        with suppress(FileNotFoundError):
            total += levels.cpu_seconds(pid)
    return total


def _calls(spec: dict[str, Any]) -> _Calls:
    host, port = spec["address"].rsplit(":", 1)
    made = _made(spec["kind"], tuple(spec["models"]))
    if spec["kind"] == "open-inference":
        return _GrpcCalls(host, int(port), made)
    return _HttpCalls(host, int(port), made, spec["inflight"])


@lru_cache
def _made(kind: str, models: tuple[str, ...]) -> list[Any]:
    """Requests for these models in random order, the same ones for every server."""
    drawn = lengths.sst2(DIFFERENT)
    if kind == "open-inference":
        made: list[Any] = [
            call(protocol.INFER.path, one.body) for model in models for one in requests(model, drawn)
        ]
    else:
        made = [one for model in models for one in _http(kind, model, drawn)]
    random.Random(0).shuffle(made)
    gc.collect()
    gc.freeze()
    return made


def _http(kind: str, model: str, drawn: list[int]) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    encode = msgspec.msgpack.encode if kind == "msgpack" else msgspec.json.encode
    content_type = f"application/{kind}"
    for length in drawn:
        body = encode({"tokens": rng.integers(1, IDS, length).tolist()})
        yield post(f"/{model}", body, content_type)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
