"""The scenarios of step-wise serving; like `scenarios.py`, they report medians of interleaved rounds."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_client import Client

from . import processes
from .overload import replaced
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MODEL, TRANSLATOR = "shakespeare-char-lstm", "translate-en-fr"
TOKENS = 120_000
"""Total of all streams of a run."""

MOST_TOKENS = 65_536
"""The most that a stream may ask for by default."""

LOAD_SECONDS = 6.0
ENCODER, LOADED = "bench-encoder", "sentiment-transformer"
MAX_RUN_MS = 20.0
"""The server's default limit for a run while another model waits."""

_SETTLE_S, _ALONE_S, _BESIDE_S, _COLLECT_S = 1.0, 3.0, 10.0, 0.3


def streams(count: int, target: float) -> Callable[[Path, int], Iterator[Result]]:
    """Tokens per second at a client process, against a bare loop with the same number of rows; then at one
    whose wake-ups do not interrupt the server, as those of callers on other machines do not."""

    def run(models: Path, rounds: int) -> Iterator[Result]:
        bare = []
        beside: list[float] = []
        aside: list[float] = []
        for _ in range(rounds):
            bare.append(_bare(models, count))
            for rates, interrupts in ((beside, True), (aside, False)):
                with processes.server(models, "--only", MODEL) as address:
                    rates.append(stream_load(address, count, interrupts=interrupts)["rate"])
        baseline, name = statistics.median(bare), f"{MODEL}, {count} streams, against the bare loop"
        yield Result(name, statistics.median(beside), "tokens/s", baseline, target)
        quiet = f"{name}, client at batch priority"
        yield Result(quiet, statistics.median(aside), "tokens/s", baseline, target)

    return run


def round_trips(models: Path, rounds: int) -> Iterator[Result]:
    """64 streams against 64 client-driven sequences with one call per token."""
    served, stepped = [], []
    for _ in range(rounds):
        with processes.server(models, "--only", MODEL) as address:
            served.append(stream_load(address, 64)["rate"])
            stepped.append(stream_load(address, 64, mode="round-trips", tokens=60)["rate"])
    value, baseline = statistics.median(served), statistics.median(stepped)
    yield Result(f"{MODEL}, 64 streams, against round trips", value, "tokens/s", baseline, 15)


def outside(models: Path, rounds: int) -> Iterator[Result]:
    """Time of the engine thread outside the session for a step of 64 rows."""
    filters: dict[str, tuple[str, str, float | None]] = {
        "temperature 0.8": ("0", "1", 0.25),
        "with top-k 20": ("20", "1", None),
        "with top-p 0.9": ("0", "0.9", None),
        "with both": ("20", "0.9", None),
    }
    for name, (top_k, top_p, target) in filters.items():
        found = [
            processes.tool("engine_side", "step", str(models), "64", top_k, top_p) for _ in range(rounds)
        ]
        value = statistics.median(one["outside_us"] for one in found)
        baseline = statistics.median(one["session_us"] for one in found)
        yield Result(f"a step outside its session, {name}", value, "us", baseline, target, at_most=True)


def caches(models: Path, rounds: int) -> Iterator[Result]:
    """16 streams of the GPT at 1,000 characters: the engine without a front end, against a bare loop that
    writes the same caches in place."""
    found = [processes.tool("states", "caches", str(models), "16", "1000") for _ in range(rounds)]
    value, baseline = (
        16e6 / statistics.median(one[name] for one in found) for name in ("step_us", "bare_us")
    )
    yield Result("shakespeare-gpt, 16 streams at 1,000 characters", value, "tokens/s", baseline, 0.6)


def client_states(_: Path, rounds: int) -> Iterator[Result]:
    """A step of 500 client-driven streams with 98 states each, against the runs of the graph alone."""
    found = [processes.tool("states", "clients", "500") for _ in range(rounds)]
    value, baseline = (statistics.median(one[name] for one in found) for name in ("round_ms", "session_ms"))
    yield Result("steps of 500 client-driven streams with 98 states", value, "ms", baseline, None)


def iteration_level(models: Path, rounds: int) -> Iterator[Result]:
    """Iteration-level scheduling of a translator against request-level batching.

    Poisson arrivals with Multi30k's lengths. Sequences join between any two steps, or only once the whole
    batch has ended.
    """
    folder = _endless(models)
    rates: dict[str, list[float]] = {"iteration": [], "request": []}
    for _ in range(rounds):
        for policy, seen in rates.items():
            seen.append(_load(folder, 5000, 0.3, policy)["rate"])
    most = {policy: statistics.median(seen) for policy, seen in rates.items()}
    yield Result("throughput against request-level batching", most["iteration"], "/s", most["request"], 1.5)
    near = 0.95 * most["request"]
    waits: dict[str, list[float]] = {"iteration": [], "request": []}
    for _ in range(rounds):
        for policy, p90s in waits.items():
            p90s.append(_load(folder, near, LOAD_SECONDS, policy)["p90_ms"])
    value, baseline = (statistics.median(waits[policy]) for policy in ("iteration", "request"))
    name = f"p90 at {near:.0f}/s against request-level batching"
    yield Result(name, value, "ms", baseline, 0.5, at_most=True)


def first_token(models: Path, rounds: int) -> Iterator[Result]:
    """Server-side time to the first token beside 63 streams, against its prefill plus two steps."""
    medians, tails, bounds = [], [], []
    for _ in range(rounds):
        with processes.server(models, "--only", MODEL) as address:
            found = stream_load(address, 63, mode="probes", tokens=MOST_TOKENS)
        medians.append(found["p50_ms"])
        tails.append(found["p99_ms"])
        bounds.append(found["prefill_ms"] + 2 * found["step_ms"])
    bound = statistics.median(bounds)
    name = "first token beside 63 streams"
    yield Result(f"{name}, median", statistics.median(medians), "ms", bound, 1.0, at_most=True)
    yield Result(f"{name}, p99", statistics.median(tails), "ms", bound, None)


def beside(models: Path, rounds: int) -> Iterator[Result]:
    """The p99 of the time from one step of 16 streams to the next, while a Transformer is permanently busy
    and a model is loaded again and again, self-test and measurement of costs included."""
    found = [_beside(models) for _ in range(rounds)]
    value, baseline = (statistics.median(one[name] for one in found) for name in ("p99_ms", "alone_ms"))
    name = f"{MODEL}, a step beside runs and loads, p99"
    yield Result(f"{name}, against twice max_run_ms", value, "ms", 2 * MAX_RUN_MS, 1.0, at_most=True)
    yield Result(f"{name}, against alone", value, "ms", baseline, None)


def _beside(models: Path) -> dict[str, float]:
    """The p99 of a step in ms: alone, then beside runs and loads."""
    flags = ("--cache", "", "--model-control", "explicit", "--only", f"{MODEL},{ENCODER},{LOADED}")
    longer = 'graph = "step.onnx"\nmax_tokens_limit = 100000000'
    with ExitStack() as started:
        started.enter_context(replaced(models, MODEL, 'graph = "step.onnx"', longer))
        server = started.enter_context(processes.server_process(models, *flags))
        spec = {"address": server.address, "model": MODEL, "streams": 16, "tokens": 100_000_000}
        started.enter_context(_running("streams", spec))
        client = started.enter_context(Client(server.address))
        while not client.runs(MODEL).result():
            time.sleep(_COLLECT_S)
        time.sleep(_SETTLE_S)
        alone, _ = _steps(client, time.sleep, _ALONE_S)
        drawn = {"lengths": [120, 200] * 4000, "inflight": 32, "mode": "unary"}
        started.enter_context(_running("drive", {"address": server.address, "model": ENCODER, **drawn}))

        def load(seconds: float) -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                client.load_model(LOADED, timeout_s=60.0)

        gaps, loads = _steps(client, load, _BESIDE_S)
        return {"alone_ms": alone, "p99_ms": gaps, "seconds": loads}


@contextmanager
def _running(tool: str, spec: dict[str, Any]) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", f"bench.{tool}", json.dumps(spec)], stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _steps(client: Client, spend: Callable[[float], None], seconds: float) -> tuple[float, float]:
    """The p99 of the time between two steps, in ms, while `spend` is at work, and how long that took."""
    last = max(run.number for run in client.runs(MODEL).result())
    begun: list[float] = []
    stop = threading.Event()

    def collect() -> None:
        after = last
        while not stop.is_set():
            runs = client.runs(MODEL, after=after).result()
            begun.extend(run.begun for run in runs if run.kind == "STEP")
            after = max([after, *(run.number for run in runs)])
            stop.wait(_COLLECT_S)

    collector, since = threading.Thread(target=collect), time.monotonic()
    collector.start()
    spend(seconds)
    took = time.monotonic() - since
    stop.set()
    collector.join()
    return float(np.percentile(np.diff(np.sort(begun)), 99)) * 1e3, took


def _bare(models: Path, rows: int) -> float:
    rate: float = processes.tool("bare_steps", str(models / MODEL / "1" / "step.onnx"), str(rows))["rate"]
    return rate


def stream_load(address: str, count: int, **more: Any) -> dict[str, Any]:
    spec = {"address": address, "model": MODEL, "streams": count, "tokens": min(TOKENS // count, 6000)}
    found: dict[str, Any] = processes.tool("streams", json.dumps(spec | more))
    return found


def _load(models: Path, rate: float, seconds: float, policy: str) -> dict[str, float]:
    found: dict[str, float] = processes.tool(
        "engine_side", "load", str(models), str(rate), str(seconds), policy
    )
    return found


def _endless(models: Path) -> Path:
    """The translator without its end token, so that it generates max_tokens tokens."""
    folder = models.parent / "endless"
    shutil.copytree(models / TRANSLATOR, folder / TRANSLATOR)
    manifest = folder / TRANSLATOR / "model.toml"
    manifest.write_text(re.sub("(?m)^end = .*\n", "", manifest.read_text()))
    return folder


SCENARIOS: dict[str, Callable[[Path, int], Iterator[Result]]] = {
    "streams-64": streams(64, 0.75),
    "streams-8": streams(8, 0.35),
    "streams-1": streams(1, 0.22),
    "round-trips": round_trips,
    "outside": outside,
    "caches": caches,
    "client-states": client_states,
    "iteration-level": iteration_level,
    "first-token": first_token,
    "beside": beside,
}
