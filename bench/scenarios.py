"""The benchmark scenarios. Each compares two things in interleaved rounds and reports medians."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from . import client_scenarios, lengths, load_scenarios, processes, step_scenarios
from .feature_costs import frontends, metrics, recorder, verification
from .growth import growth
from .overload import overload
from .policies import policies
from .result import Result
from .security_costs import security
from .step_growth import step_growth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAX_RUN_MS = 20.0
"""The server's default limit for a run while another model waits."""


def throughput(model: str, count: int) -> Callable[[Path, int], Iterator[Result]]:
    """64 requests in flight with real lengths, against the best bare loop and against no batching."""

    def run(models: Path, rounds: int) -> Iterator[Result]:
        drawn = lengths.sst2(count)
        bare, batched, single = [], [], []
        for _ in range(rounds):
            bare.append(max(_bare(models, model, drawn).values()))
            with processes.server(models, "--only", model) as address:
                batched.append(processes.drive(address, model, drawn)["rate"])
            with processes.server(models, "--only", model, "--no-batching") as address:
                single.append(processes.drive(address, model, drawn)["rate"])
        rate = statistics.median(batched)
        yield Result(
            f"{model} against the best bare loop", rate, "sequences/s", statistics.median(bare), 0.85
        )
        yield Result(f"{model} against no batching", rate, "sequences/s", statistics.median(single), 1.0)

    return run


def one_in_flight(model: str) -> Callable[[Path, int], Iterator[Result]]:
    """The median latency of one request in flight, against a bare echo plus a bare run."""

    def run(models: Path, rounds: int) -> Iterator[Result]:
        drawn = lengths.sst2(400)
        bare, echoed, served = [], [], []
        for _ in range(rounds):
            bare.append(1000 / _bare(models, model, drawn)["1"])
            with processes.echo() as address:
                echoed.append(processes.drive(address, model, drawn, inflight=1)["p50_ms"])
            with processes.server(models, "--only", model) as address:
                served.append(processes.drive(address, model, drawn, inflight=1)["p50_ms"])
        alone = statistics.median(bare) + statistics.median(echoed)
        yield Result(f"{model}, one in flight", statistics.median(served), "ms", alone, 1.6, at_most=True)

    return run


def noop(mode: str, target: float, count: int) -> Callable[[Path, int], Iterator[Result]]:
    """The overhead of the server: a no-op model, against a bare echo of the same messages."""

    def run(models: Path, rounds: int) -> Iterator[Result]:
        drawn = [32] * count
        echoed, served = [], []
        for _ in range(rounds):
            with processes.echo() as address:
                echoed.append(processes.drive(address, "bench-noop", drawn, mode=mode)["rate"])
            with processes.server(models, "--only", "bench-noop") as address:
                served.append(processes.drive(address, "bench-noop", drawn, mode=mode)["rate"])
        value, baseline = statistics.median(served), statistics.median(echoed)
        yield Result(f"no-op model, {mode}, 64 in flight", value, "requests/s", baseline, target)

    return run


def two_models(models: Path, rounds: int) -> Iterator[Result]:
    """The p99 of a short recurrent model beside a permanently busy Transformer, in units of max_run_ms."""
    long, short, p99 = [120, 200] * 4000, lengths.sst2(300), []
    for _ in range(rounds):
        with processes.server(models, "--only", "bench-encoder,sentiment-lstm") as address:
            spec = {
                "address": address,
                "model": "bench-encoder",
                "lengths": long,
                "inflight": 32,
                "mode": "unary",
            }
            heavy = subprocess.Popen([sys.executable, "-m", "bench.drive", json.dumps(spec)])
            try:
                processes.drive(
                    address, "sentiment-lstm", short[:60], inflight=4
                )  # warm-up, until both models are loaded
                p99.append(processes.drive(address, "sentiment-lstm", short, inflight=4)["p99_ms"])
            finally:
                heavy.kill()
                heavy.wait()
    yield Result("p99 beside long runs", statistics.median(p99), "ms", MAX_RUN_MS, 3.0, at_most=True)


def _bare(models: Path, model: str, drawn: list[int]) -> dict[str, float]:
    found: dict[str, float] = processes.tool(
        "bare", str(models / model / "1" / "model.onnx"), json.dumps(drawn)
    )
    return found


SCENARIOS: dict[str, Callable[[Path, int], Iterator[Result]]] = {
    "encoder": throughput("bench-encoder", 1500),
    "transformer": throughput("sentiment-transformer", 3000),
    "bilstm": throughput("sentiment-bilstm", 4000),
    "single-transformer": one_in_flight("sentiment-transformer"),
    "single-bilstm": one_in_flight("sentiment-bilstm"),
    "noop-unary": noop("unary", 0.6, 4000),
    "noop-stream": noop("stream", 0.5, 8000),
    "two-models": two_models,
    "metrics": metrics,
    "verification": verification,
    "recorder": recorder,
    "frontends": frontends,
    "overload": overload,
    "policies": policies,
    "growth": growth,
    "step-growth": step_growth,
    "security": security,
    **step_scenarios.SCENARIOS,
    **client_scenarios.SCENARIOS,
    **load_scenarios.SCENARIOS,
}
