"""The cost of what a flag turns on or off: metrics, verification, the flight recorder, a second front end.

Two servers side by side, one without, are loaded in turn. The server with metrics is scraped meanwhile, as
OpenMetrics. Other work on the machine may change the ratio of the rates more than a feature does; therefore
the CPU time of the metrics of one call is measured directly too.
"""

from __future__ import annotations

import random
import statistics
import threading
import timeit
import urllib.request
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil

from lockstep_server import messages
from lockstep_server.engine.recorder import RunRecorder
from lockstep_server.frontend.recorder import EndedRequest, EndedRequests
from lockstep_server.metrics.families import Metrics, ModelMeters
from lockstep_server.model.manifest import Manifest
from lockstep_server.model.spec import ModelSpec

from . import lengths, processes
from .result import Result
from .step_scenarios import MODEL, stream_load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_PAIRS_A_ROUND = 6
_REQUESTS = 1500
_TOKENS = 160_000
_WARM_TOKENS = 50
"""Tokens that `streams.py` generates per stream before it starts measuring."""

_TARGET, _MAX_METRICS_SHARE, _SMALL_TARGET = 0.97, 0.03, 0.99
_FRONTENDS_TARGET, _CONNECTIONS = 0.97, 8
_RECORDER_SHARE = 0.01
_SCRAPE_EVERY_S = 5.0
_METRIC_CALLS = 20_000
_RESAMPLES = 10_000
_PERCENTILES = (2.5, 97.5)


def metrics(models: Path, rounds: int) -> Iterator[Result]:
    """No-op requests, where the relative cost of metrics is highest, and 64 streams.

    Besides the rate, the CPU time of the server's processes per request or token is compared, which other
    work on the machine affects less.
    """
    for name, model, drive in (
        ("no-op model, unary, 64 in flight", "bench-noop", _requests),
        (f"{MODEL}, 64 streams", MODEL, _tokens),
    ):
        flags = ("--no-metrics",)
        with_metrics, without_metrics = _measured(models, model, drive, rounds * _PAIRS_A_ROUND, (), flags)
        found, interval = paired_ratio(
            [one.rate for one in with_metrics], [one.rate for one in without_metrics]
        )
        base = statistics.median(one.rate for one in without_metrics)
        yield Result(f"metrics: {name}", found * base, "per second", base, _TARGET, interval=interval)
        found, interval = paired_ratio(
            [one.cpu_us for one in with_metrics], [one.cpu_us for one in without_metrics]
        )
        base = statistics.median(one.cpu_us for one in without_metrics)
        title = f"metrics: {name}, CPU"
        yield Result(title, found * base, "us each", base, None, interval=interval)
        if model == "bench-noop":
            title = "metrics: CPU of the metrics of one call"
            yield Result(title, _metrics_us(), "us", base, _MAX_METRICS_SHARE, at_most=True)


def verification(models: Path, rounds: int) -> Iterator[Result]:
    """Answers of shared runs that are computed again: 64 requests in flight, and 64 streams."""
    drives = (
        ("sentiment-bilstm, unary, 64 in flight", "sentiment-bilstm", _texts),
        (f"{MODEL}, 64 streams", MODEL, _tokens),
    )
    yield from _compared("verification", models, rounds, drives, ("--verify-share", "0"))


def recorder(models: Path, rounds: int) -> Iterator[Result]:
    """Runs and requests that are remembered: no-op requests, whose runs are the cheapest, and 64 streams."""
    drives = (
        ("no-op model, unary, 64 in flight", "bench-noop", _requests),
        (f"{MODEL}, 64 streams", MODEL, _tokens),
    )
    for result in _compared("recorder", models, rounds, drives, ("--recorded-runs", "0"), control=True):
        yield result
        if result.unit == "us each" and drives[0][0] in result.name:
            title = "recorder: CPU of one call's request and run"
            yield Result(title, _recorder_us(), "us", result.baseline, _RECORDER_SHARE, at_most=True)


def _compared(
    feature: str,
    models: Path,
    rounds: int,
    drives: Sequence[tuple[str, str, Callable[[str], tuple[float, int]]]],
    without: tuple[str, ...],
    *,
    control: bool = False,
) -> Iterator[Result]:
    """Rate and CPU time with a feature, as ratios to a server without; 1% of the rate is the target. The
    `control`, a second server without, shows what the machine does to a ratio."""
    for name, model, drive in drives:
        pairs = rounds * _PAIRS_A_ROUND
        flags = ((), without, without) if control else ((), without)
        measured, plain, *again = _measured(models, model, drive, pairs, *flags, scraped=False)
        for what, bursts, best in (
            (feature, measured, _SMALL_TARGET),
            *((f"{feature}, control", one, None) for one in again),
        ):
            for title, unit, values, bases, target in (
                ("", "per second", [x.rate for x in bursts], [x.rate for x in plain], best),
                (", CPU", "us each", [x.cpu_us for x in bursts], [x.cpu_us for x in plain], None),
            ):
                found, interval = paired_ratio(values, bases)
                base = statistics.median(bases)
                yield Result(f"{what}: {name}{title}", found * base, unit, base, target, interval=interval)


def frontends(models: Path, rounds: int) -> Iterator[Result]:
    """Two front ends against one: 64 calls in flight over 8 connections. On two cores they can only cost."""
    for model, drawn in (("bench-noop", [32] * _REQUESTS), ("sentiment-bilstm", lengths.sst2(_REQUESTS))):

        def drive(address: str, model: str = model, drawn: list[int] = drawn) -> tuple[float, int]:
            found = processes.drive(address, model, drawn, connections=_CONNECTIONS)
            return found["rate"], _REQUESTS + _REQUESTS // 10

        one, two = _measured(models, model, drive, rounds * _PAIRS_A_ROUND, (), ("--frontends", "2"))
        for title, unit, values, bases, target in (
            ("", "per second", [x.rate for x in two], [x.rate for x in one], _FRONTENDS_TARGET),
            (", CPU", "us each", [x.cpu_us for x in two], [x.cpu_us for x in one], None),
        ):
            found, interval = paired_ratio(values, bases)
            base = statistics.median(bases)
            name = f"two front ends: {model}, unary, 64 in flight{title}"
            yield Result(name, found * base, unit, base, target, interval=interval)


def paired_ratio(values: Sequence[float], baselines: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The geometric mean of value / baseline over the pairs, with its 95% confidence interval.

    The interval is a bootstrap over the pairs.
    """
    logs: np.ndarray[Any, Any] = np.log(np.divide(values, baselines))
    drawn = np.random.default_rng(0).integers(0, len(logs), (_RESAMPLES, len(logs)))
    low, high = np.exp(np.percentile(logs[drawn].mean(axis=1), _PERCENTILES))
    return float(np.exp(logs.mean())), (float(low), float(high))


class LoadBurst(NamedTuple):
    """The result of one load on one server."""

    rate: float
    cpu_us: float  # CPU time of the server's processes per request or token


def _measured(
    models: Path,
    model: str,
    drive: Callable[[str], tuple[float, int]],
    count: int,
    *flags: tuple[str, ...],
    scraped: bool = True,
) -> list[list[LoadBurst]]:
    """Measure servers, one with each of the `flags`, in turns; each begins as often. The first is scraped."""
    found: list[list[LoadBurst]] = [[] for _ in flags]
    with ExitStack() as stack:
        running = [
            stack.enter_context(processes.server_process(models, "--only", model, *one)) for one in flags
        ]
        if scraped:
            stack.enter_context(_scraped(f"http://{running[0].metrics_address}/metrics"))
        servers = list(zip(running, found, strict=True))
        for server, _ in servers:
            drive(server.address)
        for _ in range(count):
            for server, bursts in servers:
                before = cpu_s(server.process.pid)
                rate, units = drive(server.address)
                bursts.append(LoadBurst(rate, (cpu_s(server.process.pid) - before) / units * 1e6))
            servers.append(servers.pop(0))
    return found


def _metrics_us() -> float:
    """Time of all metric updates of one unbatched ModelInfer in microseconds; the minimum of 7 tries."""
    metrics = Metrics()
    meters = ModelMeters(metrics, "m", 1, "cpu")
    labels = ("unary", "inference.GRPCInferenceService", "ModelInfer")
    rpc = [family.labels(*labels) for family in (metrics.grpc_started, metrics.grpc_received)]
    rpc += [metrics.grpc_sent.labels(*labels), metrics.grpc_handled.labels(*labels, "OK")]
    handling = metrics.grpc_seconds.labels(*labels)

    def count() -> None:
        for one in rpc:
            one.value += 1
        handling.observe(0.01)
        meters.record_accepted("ModelInfer")
        meters.record_ended("ModelInfer", "ok", 0.01, "")
        meters.record_timings(0.001, 0.001, 32)
        meters.record_run("oneshot", 1, 0.001)
        meters.elements.inc(32)
        meters.padded.inc(32)
        meters.device_wait.observe(0.0)
        metrics.loop_lag.observe(0.001)

    return min(timeit.repeat(count, number=_METRIC_CALLS, repeat=7)) / _METRIC_CALLS * 1e6


def _recorder_us() -> float:
    """Time of recording one unbatched request and its run in microseconds; the minimum of 7 tries."""
    spec = ModelSpec("m", 1, Manifest(), (), (), model="m")
    requests, runs = EndedRequests(4096), RunRecorder(4096).of(spec)
    run = messages.Run(rows=1, length=32, elements=32, padded_elements=32, compute_s=0.001)
    timings = messages.RequestTimings(0.001, 0.001)

    def record() -> None:
        key = random.getrandbits(63)
        runs.add("one-shot", 1.0, 1, run, (key,), 0.001)
        requests.add(
            EndedRequest(key, "m", "m", 1, "ModelInfer", "ok", 1.0, 0.1, 0.0, 32, hash(""), 0, *timings)
        )

    return min(timeit.repeat(record, number=_METRIC_CALLS, repeat=7)) / _METRIC_CALLS * 1e6


def cpu_s(pid: int) -> float:
    """CPU time of the server process `pid`, including its engine process."""
    server = psutil.Process(pid)
    times = [one.cpu_times() for one in (server, *server.children())]
    return float(sum(one.user + one.system for one in times))


def _requests(address: str) -> tuple[float, int]:
    """The rate, and the number of requests including the warm-up."""
    found = processes.drive(address, "bench-noop", [32] * _REQUESTS)
    return found["rate"], _REQUESTS + _REQUESTS // 10


def _texts(address: str) -> tuple[float, int]:
    drawn = lengths.sst2(_REQUESTS)
    return processes.drive(address, "sentiment-bilstm", drawn)["rate"], _REQUESTS + _REQUESTS // 10


def _tokens(address: str) -> tuple[float, int]:
    rate: float = stream_load(address, 64, tokens=_TOKENS // 64)["rate"]
    return rate, _TOKENS + 64 * _WARM_TOKENS


@contextmanager
def _scraped(url: str) -> Iterator[None]:
    """Scrape `url` periodically inside the context."""
    ended = threading.Event()

    def scrape() -> None:
        request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text"})
        while not ended.wait(_SCRAPE_EVERY_S):
            with urllib.request.urlopen(request, timeout=10) as metrics_port:
                metrics_port.read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
