"""What counting costs: two servers side by side, one of them with `--no-metrics`, driven in turn.

The one that counts is scraped meanwhile, as OpenMetrics. Where other work on the machine moves a ratio of
rates more than counting does, what counting a call takes says it: in units of the CPU of a call.
"""

from __future__ import annotations

import statistics
import threading
import timeit
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import psutil

from lockstep_server.metrics.families import Metrics, ModelMeters, length_bucket

from . import pairs, processes
from .result import Result
from .step_scenarios import MODEL, stream_load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_PAIRS_A_ROUND = 6
_REQUESTS = 1500
_TOKENS = 160_000
_WARM_TOKENS = 50
"""What `streams.py` has each stream make before the clock begins."""

_TARGET, _MOST = 0.97, 0.03
_SCRAPE_EVERY_S = 5.0
_COUNTED = 20_000


def metrics(models: Path, rounds: int) -> Iterator[Result]:
    """Requests that do nothing, where counting weighs most; and 64 streams. Beside the rate what CPU
    each takes in the server's two processes: other work on the machine moves that less."""
    for name, model, drive in (
        ("no-op model, unary, 64 in flight", "bench-noop", _requests),
        (f"{MODEL}, 64 streams", MODEL, _tokens),
    ):
        counting, silent = _measured(models, model, drive, rounds * _PAIRS_A_ROUND)
        found, interval = pairs.ratio([one.rate for one in counting], [one.rate for one in silent])
        base = statistics.median(one.rate for one in silent)
        yield Result(f"metrics: {name}", found * base, "a second", base, _TARGET, interval=interval)
        found, interval = pairs.ratio([one.cpu_us for one in counting], [one.cpu_us for one in silent])
        base = statistics.median(one.cpu_us for one in silent)
        title = f"metrics: {name}, CPU"
        yield Result(title, found * base, "us each", base, None, interval=interval)
        if model == "bench-noop":
            title = "metrics: counting a call and its run"
            yield Result(title, _counting_us(), "us", base, _MOST, at_most=True)


class LoadBurst(NamedTuple):
    """One load of one server."""

    rate: float
    cpu_us: float  # of the server's processes, for each request or token


def _measured(
    models: Path, model: str, drive: Callable[[str], tuple[float, int]], count: int
) -> tuple[list[LoadBurst], list[LoadBurst]]:
    """With and without metrics, in pairs; who goes first alternates."""
    counted: list[LoadBurst] = []
    silent: list[LoadBurst] = []
    page = processes.free_port()
    with (
        processes.server(models, "--only", model, "--metrics-port", str(page)) as counting,
        processes.server(models, "--only", model, "--no-metrics") as not_counting,
        _scraped(f"http://127.0.0.1:{page}/metrics"),
    ):
        ways = [(counting, counted), (not_counting, silent)]
        for address, _ in ways:
            drive(address)
        for _ in range(count):
            for address, bursts in ways:
                before = _cpu_s(address)
                rate, each = drive(address)
                bursts.append(LoadBurst(rate, (_cpu_s(address) - before) / each * 1e6))
            ways.reverse()
    return counted, silent


def _counting_us() -> float:
    """Microseconds of all counting that one ModelInfer alone in its run makes, the least of a few tries."""
    metrics = Metrics()
    meters = ModelMeters(metrics, "m", 1, "cpu")
    labels = ("unary", "inference.GRPCInferenceService", "ModelInfer")
    rpc = [family.labels(*labels) for family in (metrics.grpc_started, metrics.grpc_received)]
    rpc += [metrics.grpc_sent.labels(*labels), metrics.grpc_handled.labels(*labels, "OK")]
    handling = metrics.grpc_seconds.labels(*labels)

    def count() -> None:
        for one in rpc:
            one.inc()
        handling.observe(0.01)
        meters.record_accepted("ModelInfer")
        meters.record_ended("ModelInfer", "ok", 0.01, "")
        meters.queue.observe(0.001)
        meters.compute[length_bucket(32)].observe(0.001)
        meters.record_run("oneshot", 1, 0.001)
        meters.elements.inc(32)
        meters.padded.inc(32)
        meters.device_wait.observe(0.0)
        metrics.loop_lag.observe(0.001)

    return min(timeit.repeat(count, number=_COUNTED, repeat=7)) / _COUNTED * 1e6


def _cpu_s(address: str) -> float:
    """Of the server that listens there, its engine process included."""
    port = address.rpartition(":")[2]
    (server,) = (one for one in psutil.Process().children() if port in one.cmdline())
    times = [one.cpu_times() for one in (server, *server.children())]
    return sum(one.user + one.system for one in times)


def _requests(address: str) -> tuple[float, int]:
    """The rate, and how many there were, with those before the clock began."""
    found = processes.drive(address, "bench-noop", [32] * _REQUESTS)
    return found["rate"], _REQUESTS + _REQUESTS // 10


def _tokens(address: str) -> tuple[float, int]:
    rate: float = stream_load(address, 64, tokens=_TOKENS // 64)["rate"]
    return rate, _TOKENS + 64 * _WARM_TOKENS


@contextmanager
def _scraped(url: str) -> Iterator[None]:
    """Meanwhile the page is read."""
    ended = threading.Event()

    def scrape() -> None:
        request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text"})
        while not ended.wait(_SCRAPE_EVERY_S):
            with urllib.request.urlopen(request, timeout=10) as page:
                page.read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
