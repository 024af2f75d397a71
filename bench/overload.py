"""More calls than a server can answer: an open loop at several times its capacity.

Once with deadlines of ten runs, once without.

`python -m bench overload` measures and draws docs/overload.svg. Capacity is what a closed loop of 8 calls is
answered. The texts are long, so that at ten times the capacity a load in Python on the same two cores still
leaves the server its share. The load runs in a process of its own, `python -m bench.overload`, which prints
JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from lockstep_client import figures, protocol

from . import lengths, processes
from .drive import closed_loop, requests
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "bench-encoder"
MULTIPLES = (1, 2, 4, 10)
DEADLINE_RUNS = 10
"""Deadlines are as many times the median latency of one call by itself, and at least `_LEAST_S`."""

_LEAST_S, _SECONDS, _CAPACITY_CALLS = 0.1, 8.0, 400
_TIMES_LONGER, _LONGEST = 10, 500
_MAX_QUEUE_MS = 500  # the default; the other scenarios never refuse
_MOST_IN_FLIGHT = 5000
_HEALTH_EVERY_S = 0.25
_PLOT = Path(__file__).parent.parent / "docs" / "overload.svg"
_GOODPUT, _REFUSAL_MS, _HEALTH_MS = 0.9, 20.0, 100.0


def overload(models: Path, rounds: int) -> Iterator[Result]:
    """Goodput at 1 to 10 times the capacity, the waits of what is answered, refusals, and health."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    manifest = models / MODEL / "model.toml"
    text = manifest.read_text()
    manifest.write_text(text.replace("max_queue_ms = 5000", f"max_queue_ms = {_MAX_QUEUE_MS}"))
    for _ in range(rounds):
        with processes.server(models, "--only", MODEL) as address:
            for key, one in _round(address):
                found.setdefault(key, []).append(one)
    manifest.write_text(text)
    medians = {
        key: {name: float(np.median([one[name] for one in several])) for name in several[0]}
        for key, several in found.items()
    }
    _draw(medians)
    for kind in ("no deadline", "deadline"):
        best = max(medians[kind, multiple]["goodput"] for multiple in MULTIPLES)
        for multiple in MULTIPLES:
            here = medians[kind, multiple]
            title = f"{kind}, {multiple} times the capacity"
            yield Result(f"{title}: goodput", here["goodput"], "/s", best, _GOODPUT)
            yield Result(f"{title}: p99", here["p99_ms"], "ms", medians[kind, 1]["p99_ms"], 2.0, at_most=True)
            if multiple > 1:
                yield Result(
                    f"{title}: refusal, median", here["refusal_ms"], "ms", _REFUSAL_MS, 1.0, at_most=True
                )
            yield Result(f"{title}: health, longest", here["health_ms"], "ms", _HEALTH_MS, 1.0, at_most=True)


def _round(address: str) -> Iterator[tuple[tuple[str, int], dict[str, float]]]:
    drawn = [min(_TIMES_LONGER * length, _LONGEST) for length in lengths.sst2(_CAPACITY_CALLS)]
    alone = processes.drive(address, MODEL, drawn[:100], inflight=1)["p50_ms"] / 1000
    capacity = processes.drive(address, MODEL, drawn, inflight=8)["rate"]
    for kind in ("no deadline", "deadline"):
        deadline = max(DEADLINE_RUNS * alone, _LEAST_S) if kind == "deadline" else 30.0
        for multiple in MULTIPLES:
            spec = {"address": address, "rate": capacity * multiple, "deadline": deadline, "lengths": drawn}
            yield (kind, multiple), processes.tool("overload", json.dumps(spec))


def _draw(medians: dict[tuple[str, int], dict[str, float]]) -> None:
    with figures.svg_settings("overload"):
        figure = figures.new_figure(8.5, 3.6)
        panels = (
            ("answered in time, per second", "goodput"),
            ("p99 of what is answered, ms", "p99_ms"),
        )
        for at, (label, name) in enumerate(panels, 1):
            axes = figures.new_axes(figure, 1, 2, at, x_label="offered load / capacity", y_label=label)
            for kind, (colour, marker) in zip(
                ("no deadline", "deadline"), figures.series_styles(), strict=False
            ):
                values = [medians[kind, multiple][name] for multiple in MULTIPLES]
                axes.plot(MULTIPLES, values, color=colour, marker=marker, label=kind)
            figures.log_x_at(axes, MULTIPLES)
            axes.set_ylim(bottom=0)
            figures.draw_grid(axes)
        figures.draw_legend_below(figure, 2)
        figure.savefig(_PLOT, format="svg", metadata={"Date": None})


# --- the load, in a process of its own --------------------------------------------------------------


async def _load(spec: dict[str, Any]) -> dict[str, float]:
    made = requests(MODEL, spec["lengths"])
    draw, answered, refused, others = random.Random(0), list[float](), list[float](), 0
    async with grpc.aio.insecure_channel(spec["address"]) as channel:
        call: Any = channel.unary_unary(protocol.INFER.path)
        await closed_loop(channel, made[:32], 4)
        health = asyncio.ensure_future(_health(spec["address"]))
        in_flight: set[asyncio.Future[None]] = set()

        async def once(body: bytes) -> None:
            nonlocal others
            begun = time.perf_counter()
            try:
                await call(body, timeout=spec["deadline"])
                answered.append(time.perf_counter() - begun)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    refused.append(time.perf_counter() - begun)
                else:
                    others += 1

        begun = due = time.perf_counter()
        sent = 0
        while due < begun + _SECONDS:
            due += draw.expovariate(spec["rate"])
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if len(in_flight) < _MOST_IN_FLIGHT:
                one = asyncio.ensure_future(once(made[sent % len(made)].body))
                in_flight.add(one)
                one.add_done_callback(in_flight.discard)
            sent += 1
        took = time.perf_counter() - begun
        in_time = len(answered)
        if in_flight:
            await asyncio.wait(in_flight)
        health.cancel()
        return {
            "goodput": in_time / took,
            "offered": sent / took,
            "p99_ms": float(np.percentile(answered, 99)) * 1000 if answered else 0.0,
            "refusal_ms": float(np.median(refused)) * 1000 if refused else 0.0,
            "refused": len(refused),
            "others": others,
            "health_ms": max(_delays, default=0.0) * 1000,
        }


_delays: list[float] = []


async def _health(address: str) -> None:
    """Ask for the server's health now and then, over a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        while True:
            begun = time.perf_counter()
            await check(b"")
            _delays.append(time.perf_counter() - begun)
            await asyncio.sleep(_HEALTH_EVERY_S)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_load(json.loads(sys.argv[1])))))
