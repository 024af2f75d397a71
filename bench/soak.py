"""`python -m bench.soak`: a server under mixed load at 70% of its capacity; memory, descriptors, drift.

capacity, by a closed loop → Poisson arrivals at a share of it → levels every few seconds, latencies by
window → figures as JSON, and a plot. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import numpy as np

from lockstep_client import figures
from lockstep_load import lengths
from lockstep_load.clock import SystemClock
from lockstep_load.driver import Driver
from lockstep_load.in_process import send_all
from lockstep_load.outcome import RequestOutcome
from lockstep_load.plan import LoadProfile, LoadShare, OpenLoop, Target, WorkerJob, Workload
from lockstep_load.requests import request_pool
from lockstep_load.senders import sender
from lockstep_load.worker_messages import RECORD, RecordLog

from .graphs import SHIPPED
from .levels import engine_pid, process_levels
from .processes import server_process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lockstep_client.server_process import ServerProcess
    from lockstep_load.requests import PreparedRequest
    from lockstep_load.senders import ReplyTimes

_SHARE, _WINDOWS = 0.7, 24
_POOL = 200
_CAPACITY_REQUESTS, _CALLERS = 4000, 24
_WARMUP_S, _SAMPLE_S = 20.0, 2.0


def _workloads() -> list[tuple[str, Workload]]:
    """The models and calls of the load, each with an equal share of the requests."""
    words, few = lengths.parse("lognormal:20,0.6,max=200"), lengths.parse("uniform:5,20")
    tokens = lengths.parse("uniform:10,60")
    assert words is not None
    assert few is not None
    return [
        ("sentiment-bilstm", Workload("classify", words)),
        ("sentiment-attention", Workload("encode", words)),
        ("sentiment-lstm", Workload("follow", few)),
        ("shakespeare-char-lstm", Workload("generate", few, tokens=tokens)),
    ]


@dataclass(frozen=True)
class Mixed:
    """A request and how it is sent."""

    request: PreparedRequest
    send: Callable[[PreparedRequest, ReplyTimes], Awaitable[None]]

    @property
    def length(self) -> int:
        return self.request.length


async def _send(mixed: Mixed, times: ReplyTimes) -> None:
    await mixed.send(mixed.request, times)


def _requests(channel: grpc.aio.Channel, address: str, seed: int) -> list[Mixed]:
    found: list[Mixed] = []
    for model, workload in _workloads():
        target = Target(address, model)
        job = WorkerJob(target, workload, LoadProfile(OpenLoop(1.0), 1.0, seed=seed))
        send = sender(channel, target, workload)
        found.extend(Mixed(one, send) for one in request_pool(job, _POOL))
    np.random.default_rng(seed).shuffle(found)
    return found


async def soak(server: ServerProcess, seconds: float, seed: int) -> dict[str, Any]:
    """Measure the capacity, load the server for so long, and return the figures."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        requests = _requests(channel, server.address, seed)
        many = [requests[at % len(requests)] for at in range(_CAPACITY_REQUESTS)]
        await send_all(many[: len(many) // 4], _send, _CALLERS)
        found = await send_all(many, _send, _CALLERS)
        capacity = (len(found.records) - found.failed) / found.wall_s
        rate, log, clock = _SHARE * capacity, RecordLog(), SystemClock()
        print(f"capacity {capacity:.0f} requests/s; {seconds / 60:g} min at {rate:.0f}/s", flush=True)
        load = LoadProfile(OpenLoop(rate), seconds, warmup_s=_WARMUP_S, seed=seed)
        driver = Driver(LoadShare(load), _send, requests, log, clock.now() + _WARMUP_S, clock)
        samples: list[dict[str, float]] = []
        sampling = asyncio.create_task(_sample(server, driver, samples))
        await driver.run()
        sampling.cancel()
    records = np.array(log.records, RECORD)
    return {
        "machine": f"{os.cpu_count()} shared cores", "seed": seed, "seconds": seconds,
        "capacity_per_s": round(capacity, 1), "rate_per_s": round(rate, 1),
        **summarise(records, samples, seconds),
    }  # fmt: skip


async def _sample(server: ServerProcess, driver: Driver[Mixed], samples: list[dict[str, float]]) -> None:
    """The levels of both processes, until cancelled."""
    while True:
        server.check_running()
        now: dict[str, float] = {"at_s": round(driver.now_s, 1)}
        for name, pid in (("server", server.process.pid), ("engine", engine_pid(server.process.pid))):
            now |= {f"{name} {key}": value for key, value in process_levels(pid).items()}
        samples.append(now)
        await asyncio.sleep(_SAMPLE_S)


def summarise(records: Any, samples: list[dict[str, float]], seconds: float) -> dict[str, Any]:
    """Figures of a soak from its requests (worker_messages.RECORD) and its samples of levels.

    `slope_mb_per_hour` is that of the second half, as the first fills caches. `drift` is the median latency
    of the last quarter of the windows by that of the first.
    """
    measured = records[(records["due"] >= 0) & (records["due"] < seconds)]
    answered = measured[measured["outcome"] == RequestOutcome.OK]
    windows = []
    edges = np.linspace(0, seconds, _WINDOWS + 1)
    for begin, end in itertools.pairwise(edges):
        took = answered["took"][(answered["due"] >= begin) & (answered["due"] < end)]
        if took.size:
            p50, p99 = np.percentile(took, (50, 99)) * 1e3
            windows.append({"at_s": round(float(begin), 1), "requests": int(took.size),
                            "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)})  # fmt: skip
    quarter = max(1, len(windows) // 4)
    medians = [one["p50_ms"] for one in windows]
    outcomes = {
        RequestOutcome(value).label: int(count)
        for value, count in zip(*np.unique(measured["outcome"], return_counts=True), strict=True)
    }
    return {
        "outcomes": outcomes, "windows": windows,
        "drift": round(float(np.median(medians[-quarter:]) / np.median(medians[:quarter])), 3),
        "slope_mb_per_hour": {name: _slope(samples, f"{name} MB") for name in ("server", "engine")},
        "levels": samples,
    }  # fmt: skip


def _slope(samples: list[dict[str, float]], name: str) -> float:
    """The growth of a level over the second half of the samples, per hour."""
    later = samples[len(samples) // 2 :]
    slope = np.polyfit([one["at_s"] for one in later], [one[name] for one in later], 1)[0]
    return round(float(slope) * 3600, 1)


def draw(found: dict[str, Any], file: Path) -> None:
    """Plot memory, descriptors and threads, and latency over time."""
    with figures.svg_settings("soak"):
        figure = figures.new_figure(7.0, 7.5)
        minutes = [one["at_s"] / 60 for one in found["levels"]]
        panels = (
            ("memory", "MB", ["server MB", "engine MB"]),
            ("descriptors and threads", "", [f"{process} {what}" for process in ("server", "engine")
                                             for what in ("descriptors", "threads")]),
        )  # fmt: skip
        for at, (title, label, names) in enumerate(panels, 1):
            axes = figures.new_axes(figure, 3, 1, at, title=title, y_label=label)
            for name, (colour, _) in zip(names, figures.series_styles(), strict=False):
                shown = name.removesuffix(" MB")
                axes.plot(minutes, [one[name] for one in found["levels"]], color=colour, label=shown)
            axes.set_ylim(bottom=0)
            figures.draw_grid(axes)
            figures.draw_legend(axes)
        axes = figures.new_axes(figure, 3, 1, 3, title="latency", x_label="minutes", y_label="ms")
        for name, (colour, marker) in zip(("p50_ms", "p99_ms"), figures.series_styles(), strict=False):
            x = [one["at_s"] / 60 for one in found["windows"]]
            values = [one[name] for one in found["windows"]]
            axes.plot(x, values, color=colour, marker=marker, markersize=3, label=name[:3])
        axes.set_yscale("log")
        figures.log_ticks(axes.yaxis)
        figures.draw_grid(axes)
        figures.draw_legend(axes)
        figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description="A server under steady load.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path("docs/resilience"), help="folder of soak.json and soak.svg"
    )
    options = parser.parse_args()
    names = ",".join(model for model, _ in _workloads())
    with tempfile.TemporaryDirectory(prefix="lockstep-soak-") as folder:
        models = Path(folder) / "models"
        models.symlink_to(SHIPPED)
        with server_process(models, "--only", names) as server:
            found = asyncio.run(soak(server, options.minutes * 60, options.seed))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "soak.json").write_text(json.dumps(found, indent=None) + "\n")
    draw(found, options.out / "soak.svg")
    shown = {key: value for key, value in found.items() if key not in ("levels", "windows")}
    print(json.dumps(shown), found["levels"][0], found["levels"][-1], sep="\n")


if __name__ == "__main__":
    main()
