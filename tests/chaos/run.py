"""A chaos run: a server, its solo answers, rounds of calls and faults, and what the validator finds in each.

server → answers alone → round: plan, calls, faults → all has ended → levels, counters → findings
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.levels import engine_pid, process_levels
from lockstep_client.metrics_text import Scrape, scrape
from lockstep_client.server_process import ServerProcess
from lockstep_load.in_process import new_driver
from lockstep_load.worker_messages import RecordLog

from .asks import Asks, write_models
from .callers import Callers
from .disturbances import NONE, WRITE_FAILED
from .faults import Faults
from .history import End, History, Level, Sent
from .plan import Action, draw_action, find_answers
from .validator import Finding, findings, grows, growth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lockstep_load.senders import ReplyTimes

_CALLERS = 48
_PATIENT = 0.8
"""Share of callers that wait for the engine, so that not most of a run's requests fall into its absence."""

_SETTLE_S = 60.0
_MEMORY_SLACK_MB = 64.0
"""By how much a process may have grown: caches fill and the allocator keeps pages."""

_THREAD_SLACK = 8
"""gRPC adds threads to its pool in a flood, and gives them back when they have been idle."""


@dataclass
class Outcome:
    """What a run did and found."""

    seed: int
    requests: int = 0
    seconds: float = 0.0
    rounds: int = 0
    by_rpc: Counter[str] = field(default_factory=Counter)
    by_status: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    slowest_recovery_s: dict[str, float] = field(default_factory=dict)
    levels: list[dict[str, float]] = field(default_factory=list)
    """Descriptors, threads and memory of both processes before the first round and after each."""
    write_failed: int = 0
    """Requests of calls that were left alone, whose caller saw its write fail instead of a status."""
    server_bytes_per_request: float = 0.0
    """Growth of the server process in the second half of the run."""
    found: list[Finding] = field(default_factory=list)
    last: History | None = None

    def add(self, history: History) -> None:
        left_alone = set()
        for event in history.events:
            if isinstance(event, Sent):
                self.requests += 1
                if event.how == NONE.name:
                    left_alone.add(event.key)
                self.by_rpc[event.rpc] += 1
            elif isinstance(event, End):
                self.by_status[event.status] += 1
                self.write_failed += event.status == WRITE_FAILED and event.key in left_alone
        for one in history.faults:
            name = one.name.split()[0]
            self.faults[name] += 1
            slowest = self.slowest_recovery_s.get(name, 0.0)
            self.slowest_recovery_s[name] = round(max(slowest, one.ended - one.begun), 2)
        self.rounds += 1
        self.found.extend(findings(history))
        self.last = history

    def figures(self) -> dict[str, Any]:
        """All but the history, to write as JSON."""
        return {
            "machine": f"{os.cpu_count()} shared cores",
            "seed": self.seed, "requests": self.requests, "seconds": round(self.seconds, 1),
            "rounds": self.rounds, "by_rpc": dict(self.by_rpc.most_common()),
            "by_status": dict(self.by_status.most_common()), "write_failed_left_alone": self.write_failed,
            "faults": dict(self.faults.most_common()),
            "slowest_recovery_s": self.slowest_recovery_s, "levels": self.levels,
            "server_bytes_per_request": self.server_bytes_per_request,
            "findings": [one._asdict() for one in self.found],
        }  # fmt: skip


@contextmanager
def chaos_server(folder: Path, slow_s: float, stall_s: float = 3.0) -> Iterator[ServerProcess]:
    """A server on the models of a chaos run.

    Args:
        slow_s: how long each file of its repository and cache may take to open.
        stall_s: `max_stall_s`. Some callers read nothing for up to 5 s; the others always must be quicker.
    """
    models, cache = folder / "models", folder / "cache"
    write_models(models)
    slow = {
        "PYTHONPATH": str(Path(__file__).with_name("slow_disk")),
        "LOCKSTEP_CHAOS_SLOW": f"{models}:{cache}",
        "LOCKSTEP_CHAOS_SLOW_S": str(slow_s),
    }
    flags = ("--models", str(models), "--cache", str(cache), "--model-control", "explicit")
    limits = ("--max-stall-s", str(stall_s), "--verify-share", "0.02")
    before = {name: os.environ.get(name) for name in slow}
    os.environ.update(slow)
    try:
        with ServerProcess(*flags, *limits, stop_timeout_s=60.0) as server:
            server.wait_ready()
            yield server
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


async def run(
    server: ServerProcess,
    *,
    seed: int,
    requests: int,
    seconds: float,
    per_round: int,
    each: int = 24,
    faults: Sequence[str] = (),
    report: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:
    """Rounds of `per_round` calls until `requests` have been sent, or the time is up.

    Args:
        each: distinct requests of each kind, whose answers are found first.
        faults: the faults of each round in their order; none: random ones for as long as there are calls.
    """
    rng, outcome = random.Random(seed), Outcome(seed)
    history, memory = History(), list[tuple[float, float]]()
    asks, callers = Asks(rng, each), Callers(server.address, history, random.Random(seed + 1))
    maker = Faults(server.process.pid, server.address, random.Random(seed + 2))
    begun = time.monotonic()
    try:
        await maker.ready()
        await find_answers(callers, asks, history)
        await _calls(callers, [draw_action(rng, asks) for _ in range(per_round // 4)], maker)
        before = await _settled(server, None)
        outcome.levels.append(before)
        while outcome.requests < requests and time.monotonic() - begun < seconds:
            history = callers.history = maker.history = History()
            counted = _scrape(server)
            over = asyncio.Event()
            made = asyncio.create_task(maker.run(over, faults))
            await _calls(callers, [draw_action(rng, asks) for _ in range(per_round)], maker)
            over.set()
            await made
            after = await _settled(server, before)
            outcome.levels.append(after)
            history.levels = [Level(name, before[name], after[name], _slack(name)) for name in before]
            history.counted = counted.samples, _scrape(server).samples
            server.check_running()
            outcome.add(history)
            outcome.seconds = time.monotonic() - begun
            memory.append((outcome.requests, after["server MB"]))
            report(outcome)
        outcome.server_bytes_per_request = round(growth(memory), 1)
        outcome.found.extend(grows(memory))
    finally:
        await callers.close()
        await maker.close()
    return outcome


async def _calls(callers: Callers, actions: list[Action], faults: Faults) -> None:
    """Do all of this with a number of callers. Most of those that find no engine wait until it is back."""
    patience = random.Random(len(actions))

    async def send(action: Action, _: ReplyTimes) -> None:
        if await action.run(callers) == "UNAVAILABLE":
            await (faults.engine_back.wait() if patience.random() < _PATIENT else asyncio.sleep(0.1))

    await new_driver(actions, send, _CALLERS, RecordLog()).run()


async def _settled(server: ServerProcess, before: dict[str, float] | None) -> dict[str, float]:
    """The levels once nothing is under way and all are back, or when waiting has not helped."""
    end, steady = time.monotonic() + _SETTLE_S, 0
    while True:
        now = _levels(server)
        base = before or {name: 0.0 if name in _GAUGES else now[name] for name in now}
        quiet = all(now[name] <= base[name] + _slack(name) for name in now)
        steady = steady + 1 if quiet else 0
        if steady >= (4 if before is None else 1) or time.monotonic() > end:
            return now
        await asyncio.sleep(0.25)


_GAUGES = {
    "queued requests": ("lockstep_queue_depth", {}),
    "running sequences": ("lockstep_sequences", {"state": "running"}),
    "waiting sequences": ("lockstep_sequences", {"state": "waiting"}),
}


def _levels(server: ServerProcess) -> dict[str, float]:
    """What must be back after each round, by name."""
    page = _scrape(server)
    found = {name: page.total(family, **labels) for name, (family, labels) in _GAUGES.items()}
    for process, pid in (("server", server.process.pid), ("engine", engine_pid(server.process.pid))):
        found |= {f"{process} {name}": value for name, value in process_levels(pid).items()}
    return found


def _slack(name: str) -> float:
    if name.endswith("MB"):
        return _MEMORY_SLACK_MB
    return _THREAD_SLACK if name.endswith("threads") else 0.0


def _scrape(server: ServerProcess) -> Scrape:
    return scrape(server.metrics_address, 30.0)
