"""A load that sends calls when they are due, whatever has been answered, at little cost of its own.

`python -m bench.open_loop '{"address": …, "server": pid, "path": …, "rate": …, "seconds": …, "deadline": …}'`
reads the messages to send from standard input, one a line in hexadecimal, and prints JSON. With `inflight` in
place of `rate` it is a closed loop. Goodput is counted in `work`, the elements of each message: a server that
refuses long requests answers more of them. Health is checked over a connection of its own meanwhile.
"""

from __future__ import annotations

import json
import random
import select
import sys
import time
from typing import Any

import numpy as np

from . import levels
from .raw_calls import Connection, Reply, call

_HEALTH = "/grpc.health.v1.Health/Check"
_HEALTH_EVERY_S = 0.25
_MOST_OPEN = 5000
_LONGEST_END_S = 30.0
_OK, _RESOURCE_EXHAUSTED = 0, 8


class _Load:
    """The open calls of both connections by number, with the times at which they were due, and what came of
    those that ended."""

    def __init__(self, spec: dict[str, Any], bodies: list[bytes]) -> None:
        self._spec = spec
        self._made = [call(spec["path"], body, spec["deadline"]) for body in bodies]
        self._work: list[int] = spec["work"]
        self._work_of: dict[int, int] = {}  # by the number of the open call
        self._done = 0
        self._health_check = call(_HEALTH, b"")
        host, port = spec["address"].rsplit(":", 1)
        self._calls, self._health = Connection(host, int(port)), Connection(host, int(port))
        self._open: dict[Connection, dict[int, float]] = {self._calls: {}, self._health: {}}
        self._first: dict[int, float] = {}  # seconds until a call's first message
        self._sent = self._without_time = self._others = 0
        self._answered, self._first_of_answered = list[float](), list[float]()
        self._refused, self._checks = list[float](), list[float]()

    def run(self) -> dict[str, float]:
        spec, draw = self._spec, random.Random(0)
        if warm_up := spec.get("warm_up"):
            self._closed(time.perf_counter() + warm_up, 4)
            self._end()
            self._answered.clear()
            self._first_of_answered.clear()
            self._sent = self._done = 0
        before, begun = _cpu_seconds(spec["server"]), time.perf_counter()
        if "inflight" in spec:
            self._closed(begun + spec["seconds"], spec["inflight"])
        else:
            self._open_loop(begun + spec["seconds"], spec["rate"], draw)
        took, after = time.perf_counter() - begun, _cpu_seconds(spec["server"])
        in_time, done = len(self._answered), self._done
        self._end()
        cores = {f"{name}_cores": (after[name] - before[name]) / took for name in before}
        return {
            "goodput": done / took,
            "answered": in_time / took,
            "offered": self._sent / took,
            "p99_ms": _ms(self._answered, 99),
            "first_p99_ms": _ms(self._first_of_answered, 99),
            "refusal_ms": _ms(self._refused, 50),
            "refused": len(self._refused),
            "without_time": self._without_time,
            "others": self._others,
            "health_ms": _ms(self._checks, 100),
            **cores,
        }

    def _closed(self, end: float, inflight: int) -> None:
        while (now := time.perf_counter()) < end:
            while len(self._open[self._calls]) < inflight:
                self._begin(now)
            self._turn(end - now)

    def _open_loop(self, end: float, rate: float, draw: random.Random) -> None:
        due = check = time.perf_counter()
        while (now := time.perf_counter()) < end:
            while due <= now:
                self._begin(due)
                due += draw.expovariate(rate)
            if check <= now:
                self._open[self._health][self._health.begin(self._health_check)] = now
                check += _HEALTH_EVERY_S
            self._turn(min(due, check, end) - time.perf_counter())

    def _begin(self, due: float) -> None:
        """Send a call. What is sent late has waited since it was due."""
        at = self._sent % len(self._made)
        self._sent += 1
        if len(self._open[self._calls]) < _MOST_OPEN:
            number = self._calls.begin(self._made[at])
            self._open[self._calls][number], self._work_of[number] = due, self._work[at]

    def _end(self) -> None:
        """Wait for the open calls."""
        limit = time.perf_counter() + _LONGEST_END_S
        while any(self._open.values()) and time.perf_counter() < limit:
            self._turn(0.1)

    def _turn(self, wait_s: float) -> None:
        for connection in self._open:
            connection.flush()
        unsent = [one.socket for one in self._open if one.has_unsent]
        select.select([one.socket for one in self._open], unsent, [], max(wait_s, 0.0))
        now = time.perf_counter()
        for connection, calls in self._open.items():
            for reply in connection.receive():
                if reply.call not in calls:
                    continue
                if reply.status is None:
                    if connection is self._calls:
                        self._first.setdefault(reply.call, now - calls[reply.call])
                elif connection is self._health:
                    self._checks.append(now - calls.pop(reply.call))
                else:
                    self._ended(reply, now - calls.pop(reply.call))

    def _ended(self, reply: Reply, seconds: float) -> None:
        first, work = self._first.pop(reply.call, seconds), self._work_of.pop(reply.call)
        if reply.status == _OK and seconds <= self._spec["deadline"]:
            self._done += work
            self._answered.append(seconds)
            self._first_of_answered.append(first)
        elif reply.status == _RESOURCE_EXHAUSTED:
            self._refused.append(seconds)
            self._without_time += not reply.has_retry
        else:
            self._others += 1


def _ms(seconds: list[float], percentile: int) -> float:
    return float(np.percentile(seconds, percentile)) * 1000 if seconds else 0.0


def _cpu_seconds(server: int) -> dict[str, float]:
    return {
        "front": levels.cpu_seconds(server),
        "engine": levels.cpu_seconds(levels.engine_pid(server)),
        "load": time.process_time(),
    }


if __name__ == "__main__":
    print(json.dumps(_Load(json.loads(sys.argv[1]), [bytes.fromhex(line) for line in sys.stdin]).run()))
