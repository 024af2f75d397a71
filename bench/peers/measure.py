"""Interleaved rounds: every server is loaded in turn, for each model, number of calls in flight, and machine
state, before the next round begins."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.graphs import SHIPPED, add_encoder

from . import answers, environments, server
from .catalogue import LOCKSTEP, REFERENCE
from .perf_analyzer import PerfAnalyzer
from .table import OWN_LOAD, PERF_ANALYZER, Cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .catalogue import Peer
    from .server import Running
    from .table import Measured

_SHIPPED = ("sentiment-bilstm", "sentiment-transformer")
MODELS = ("bench-encoder", *_SHIPPED)
MIX = "all three"
_SECONDS = {1: 0.9, 4: 0.9, 16: 1.1, 64: 1.3, 256: 1.0}
_BUSY = {1: 0.9, 64: 1.3}
_PERF_ANALYZER = {64}
_PERF_ANALYZER_S = 1.5
_BUSY_SERVERS = (LOCKSTEP, REFERENCE)
_LEAD_S = 0.2
_WARM_UP_S = 1.0
"""How long each server is loaded with each model before the first round."""


@dataclass(frozen=True)
class Plan:
    """What is measured. `scale`: times the usual seconds of each measurement. `checks`: also by
    perf_analyzer, and beside a busy process."""

    rounds: int = 5
    scale: float = 1.0
    models: tuple[str, ...] = (*MODELS, MIX)
    inflight: tuple[int, ...] = tuple(_SECONDS)
    checks: bool = True

    def cells(self) -> list[Cell]:
        both = [(model, inflight) for model in self.models for inflight in self.inflight]
        own = [Cell(False, OWN_LOAD, *one) for one in both]
        if not self.checks:
            return own
        return [
            *own,
            *(Cell(False, PERF_ANALYZER, *one) for one in both if one[0] != MIX and one[1] in _PERF_ANALYZER),
            *(Cell(True, OWN_LOAD, *one) for one in both if one[1] in _BUSY),
        ]


QUICK = Plan(rounds=1, scale=0.3, models=("sentiment-bilstm", MIX), inflight=(1, 64))


class _Load:
    """The load's process, which is the same one for all measurements."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.peers.load"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> _Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def send(
        self, running: Running, models: Sequence[str], inflight: int, seconds: float
    ) -> dict[str, float]:
        """What `load.run` reports.

        Raises:
            RuntimeError: the server closed a connection, or answered what is no answer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        spec = {
            "address": running.address, "kind": running.peer.kind, "models": models, "inflight": inflight,
            "seconds": seconds, "lead_s": _LEAD_S, "pids": running.pids(),
        }  # fmt: skip
        running.go_on()
        try:
            print(json.dumps(spec), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        finally:
            running.stop_for_now()
        if not line:
            self._start()
            raise RuntimeError(f"the load of {running.peer.name} failed")
        found: dict[str, float] = json.loads(line)
        if not found["calls"]:
            raise RuntimeError(f"{running.peer.name} answered no call in {seconds:g} s")
        return found


def run(peers: Sequence[Peer], plan: Plan, cache: Path) -> dict[str, Any]:
    """Measure these servers. What cannot be installed or started is left out and named with its reason."""
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        repository = make_repository(Path(folder) / "models")
        up: list[Running] = []
        servers: dict[str, Any] = {}
        for peer in peers:
            try:
                python = environments.python_of(peer, cache)
                running = stack.enter_context(_started(peer, python, repository))
                shown = environments.versions(peer, python)
            except (environments.NotInstalledError, answers.WrongAnswerError, server.ProcessError) as error:
                missing[peer.name] = str(error).splitlines()[0]
                print(f"{peer.name} is left out: {error}", file=sys.stderr)
            else:
                up.append(running)
                servers[peer.name] = {"settings": peer.settings, "versions": shown}
        perf_analyzer = None
        try:
            perf_analyzer = PerfAnalyzer(cache) if plan.checks else None
        except environments.NotInstalledError as error:
            missing["perf_analyzer (load)"] = str(error)
        rounds = _Rounds(up, plan, stack.enter_context(_Load()), perf_analyzer)
        facts = rounds.run()
        for name, memory in rounds.memory_mb.items():
            servers[name]["memory_mb"] = median(memory)
    measured = [
        {**asdict(cell), "server": name, "rounds": found}
        for cell, of_servers in rounds.measured.items()
        for name, found in of_servers.items()
    ]
    return {"run": facts, "servers": servers, "measured": measured, "missing": missing}


@contextmanager
def _started(peer: Peer, python: Path, repository: Path) -> Iterator[Running]:
    """A server whose answers are right. Triton does not start every time, so there is a second try.

    Raises:
        ProcessError: it did not start.
        WrongAnswerError: it answers otherwise than the models do.
    """
    with ExitStack() as stack:
        try:
            running = stack.enter_context(server.running(peer, python, repository, MODELS))
        except server.ProcessError:
            running = stack.enter_context(server.running(peer, python, repository, MODELS))
        answers.check(running, repository, MODELS)
        running.stop_for_now()
        yield running


def make_repository(root: Path) -> Path:
    """The models of the comparison. Peers do not refuse what waits long, so Lockstep may not either."""
    for name in _SHIPPED:
        shutil.copytree(SHIPPED / name, root / name)
    add_encoder(root)
    for manifest in root.glob("*/model.toml"):
        text = manifest.read_text()
        if "max_queue_ms" not in text:
            manifest.write_text(text.rstrip() + "\nmax_queue_ms = 5000\n")
    return root


class _Rounds:
    """Servers, loads, and what has been measured so far."""

    def __init__(
        self, up: list[Running], plan: Plan, load: _Load, perf_analyzer: PerfAnalyzer | None
    ) -> None:
        self._up, self._plan, self._load, self._perf_analyzer = up, plan, load, perf_analyzer
        self.measured: Measured = {}
        self._failed: set[tuple[Cell, str]] = set()
        self.memory_mb: dict[str, list[float]] = {one.peer.name: [] for one in up}

    def run(self) -> dict[str, Any]:
        """Measure every round. Returns facts about the machine and the run."""
        begun, load_before, before = datetime.datetime.now(datetime.UTC), os.getloadavg()[0], _cpu_jiffies()
        for one in self._up:
            for model in MODELS:
                with suppress(RuntimeError):
                    self._load.send(one, [model], 16, _WARM_UP_S * self._plan.scale)
        with Console(stderr=True).status("measuring") as status:
            for number in range(self._plan.rounds):
                first = number % len(self._up)
                for cell in self._plan.cells():
                    with _busy_core(cell.busy):
                        for one in self._up[first:] + self._up[:first]:
                            status.update(f"round {number + 1}: {one.peer.name}, {cell}")
                            self._try(cell, one)
                for one in self._up:
                    self.memory_mb[one.peer.name].append(one.memory_mb())
        took = datetime.datetime.now(datetime.UTC) - begun
        return {
            **machine(),
            "date": f"{begun:%Y-%m-%d %H:%M} UTC, {took.total_seconds() / 60:.0f} minutes",
            "load average before": f"{load_before:.1f}",
            "CPU time stolen by other guests": f"{_stolen(before):.1%}",
            "rounds": self._plan.rounds,
            "seconds of a measurement": ", ".join(
                f"{seconds * self._plan.scale:.1f} with {inflight} in flight"
                for inflight, seconds in _SECONDS.items()
                if inflight in self._plan.inflight
            ),
        }

    def _try(self, cell: Cell, one: Running) -> None:
        """Measure a server once; a failure takes it out of this cell."""
        if (
            (cell, one.peer.name) in self._failed
            or (cell.busy and one.peer.name not in _BUSY_SERVERS)
            or (cell.load == PERF_ANALYZER and not (self._perf_analyzer and one.peer.described))
        ):
            return
        rounds = self.measured.setdefault(cell, {}).setdefault(one.peer.name, [])
        try:
            rounds.append(self._measure(cell, one))
        except (RuntimeError, LookupError, subprocess.SubprocessError) as error:
            print(f"{one.peer.name} is left out of {cell}: {error}", file=sys.stderr)
            self._failed.add((cell, one.peer.name))
            del self.measured[cell][one.peer.name]

    def _measure(self, cell: Cell, one: Running) -> dict[str, float]:
        if cell.load == PERF_ANALYZER:
            assert self._perf_analyzer is not None
            seconds = _PERF_ANALYZER_S * self._plan.scale
            one.go_on()
            found = self._perf_analyzer.send(one.address, cell.model, cell.inflight, seconds, one.pids())
            one.stop_for_now()
        else:
            seconds = (_BUSY if cell.busy else _SECONDS)[cell.inflight] * self._plan.scale
            models = MODELS if cell.model == MIX else (cell.model,)
            found = self._load.send(one, models, cell.inflight, seconds)
        return found


@contextmanager
def _busy_core(wanted: bool) -> Iterator[None]:
    """Keep the last core busy inside the context."""
    if not wanted:
        yield
        return
    last = max(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, {{{last}}})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def machine() -> dict[str, str]:
    """The machine in words."""
    cpus = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": f"{len(os.sched_getaffinity(0))} cores of {cpus[0] if cpus else platform.machine()}",
        "memory": f"{memory_gb:.0f} GiB",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
    }


def _cpu_jiffies() -> list[int]:
    return [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]


def _stolen(before: list[int]) -> float:
    passed = [now - then for now, then in zip(_cpu_jiffies(), before, strict=True)]
    return passed[7] / max(sum(passed[:8]), 1)
