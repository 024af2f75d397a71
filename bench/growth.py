"""How costs grow: with the length of a text, models, connections, and the size of a message.

`python -m bench growth` measures, draws docs/growth.svg and writes results/growth.json. Models are measured
once, since a hundred of them take minutes to load.

`python -m bench.growth '{"address": …, "server": pid, "connections": 2000, "inflight": 64, "seconds": 2}'` is
the load over many connections: each call goes over the next one.
"""

from __future__ import annotations

import datetime
import json
import select
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from lockstep_client import figures, protocol

from . import lengths, levels, processes
from .drive import requests
from .overload import replaced
from .peers.measure import machine
from .raw_calls import Connection, call
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lockstep_client.server_process import ServerProcess

    Measured = dict[str, dict[int, dict[str, float]]]
    """What was measured, by curve and by what grows."""

MODEL, ENCODER, ANY_SIZE = "sentiment-bilstm", "bench-encoder", "bench-any-size"
LENGTHS = (2, 8, 32, 128, 500, 1000, 2000, 4000)
MODELS = (1, 10, 100)
CONNECTIONS = (1, 8, 64, 500, 2000)
SIZES = tuple(1024 * kilobytes for kilobytes in (1, 8, 64, 512, 4096, 32768))
_ELEMENTS, _MOST_CALLS, _LEAST_CALLS = 40_000, 150, 5
_INFLIGHT, _SECONDS, _LEAD_S = 64, 2.0, 0.5
_START_TIMEOUT_S = 900.0
_FILE = Path(__file__).with_name("results") / "growth.json"
_PLOT = Path(__file__).parent.parent / "docs" / "growth.svg"


def growth(models: Path, rounds: int) -> Iterator[Result]:
    """Time and CPU of a call by length, connections and size; memory and start-up by models."""
    begun = datetime.datetime.now(datetime.UTC)
    several = [_by_length(models) | _by_connections(models) | _by_size(models) for _ in range(rounds)]
    measured: Measured = {
        curve: {at: {name: median(one[curve][at][name] for one in several) for name in found}
                for at, found in points.items()}
        for curve, points in several[0].items()
    }  # fmt: skip
    measured["models"] = _by_models(models)
    facts = {**machine(), "date": f"{begun:%Y-%m-%d %H:%M} UTC", "rounds": str(rounds)}
    _FILE.parent.mkdir(exist_ok=True)
    _FILE.write_text(json.dumps({"run": facts, "measured": measured}, indent=1) + "\n")
    draw(measured, _PLOT)
    yield from _results(measured)


def _by_length(models: Path) -> Measured:
    found: Measured = {}
    with (
        replaced(models, ENCODER, "max = 512", "max = 4096"),
        processes.server_process(models, "--only", f"{ENCODER},{MODEL}") as server,
    ):
        for model in (MODEL, ENCODER):
            for length in LENGTHS:
                count = min(max(_ELEMENTS // length, _LEAST_CALLS), _MOST_CALLS)
                found.setdefault(model, {})[length] = _one_by_one(server, model, length, count)
    return found


def _by_size(models: Path) -> Measured:
    found: Measured = {"size": {}}
    with processes.server_process(models, "--only", ANY_SIZE) as server:
        for size in SIZES:
            count = min(max((256 << 20) // size, _LEAST_CALLS), _MOST_CALLS)
            found["size"][size] = _one_by_one(server, ANY_SIZE, size // 8, count)
    return found


def _one_by_one(server: ServerProcess, model: str, length: int, count: int) -> dict[str, float]:
    """Median time and mean CPU time of a call, with one in flight."""
    before = _cpu_ms(server)
    p50_ms = processes.drive(server.address, model, [length] * count, inflight=1)["p50_ms"]
    calls = count + max(count // 10, 1)  # with those that the driver warms up with
    front, engine = (after - then for after, then in zip(_cpu_ms(server), before, strict=True))
    return {"ms": p50_ms, "front_ms": front / calls, "engine_ms": engine / calls}


def _cpu_ms(server: ServerProcess) -> tuple[float, float]:
    """CPU time of the front end and of the engine."""
    pids = server.process.pid, levels.engine_pid(server.process.pid)
    return 1000 * levels.cpu_seconds(pids[0]), 1000 * levels.cpu_seconds(pids[1])


def _by_connections(models: Path) -> Measured:
    found: Measured = {"connections": {}}
    with processes.server_process(models, "--only", MODEL) as server:
        for count in CONNECTIONS:
            spec = {"address": server.address, "server": server.process.pid, "connections": count,
                    "inflight": min(count, _INFLIGHT), "seconds": _SECONDS}  # fmt: skip
            found["connections"][count] = processes.tool("growth", spec)
    return found


def _by_models(models: Path) -> dict[int, dict[str, float]]:
    """Servers of more and more models, all of the same kind: no two files are equal, so none is known."""
    found = {}
    graph = onnx.load(models / MODEL / "1" / "model.onnx")
    repository = models.parent / "many" / "models"
    for count in MODELS:
        for number in range(count):
            graph.doc_string = str(number)
            folder = repository / f"model-{number:03}"
            if not folder.exists():
                (folder / "1").mkdir(parents=True)
                for file in ("model.toml", "tokenizer.json"):
                    (folder / file).write_bytes((models / MODEL / file).read_bytes())
                onnx.save(graph, folder / "1" / "model.onnx")
        shutil.rmtree(repository.parent / "cache", ignore_errors=True)
        new_s, _ = _started(repository)
        known_s, more = _started(repository)
        found[count] = {"new_s": new_s, "known_s": known_s, **more}
    return found


def _started(repository: Path) -> tuple[float, dict[str, float]]:
    """Seconds until all models serve; memory of the two processes, and a lone call's median, then."""
    with processes.server_process(repository, timeout_s=_START_TIMEOUT_S) as server:
        took = time.monotonic() - server.started
        pids = server.process.pid, levels.engine_pid(server.process.pid)
        front, engine = map(levels.pss_mb, pids)
        p50_ms = processes.drive(server.address, "model-000", lengths.sst2(200), inflight=1)["p50_ms"]
    return took, {"front_MB": front, "engine_MB": engine, "ms": p50_ms}


def _results(measured: Measured) -> Iterator[Result]:
    """What the last point costs in place of the first one."""
    shown = {
        MODEL: ("ms", "elements, BiLSTM"), ENCODER: ("ms", "elements, Transformer"),
        "connections": ("server_us", "connections"), "size": ("ms", "bytes"),
        "models": ("engine_MB", "models"),
    }  # fmt: skip
    for curve, (name, what) in shown.items():
        points = measured[curve]
        first, last = min(points), max(points)
        title = f"{last:,} {what}, against {first:,}"
        yield Result(title, points[last][name], name.split("_")[-1], points[first][name], None)


def draw(measured: Mapping[str, Any], path: Path) -> None:
    panels: tuple[tuple[str, str, tuple[tuple[str, str, str], ...]], ...] = (
        ("elements of a text", "ms of a lone call",
         ((MODEL, "ms", "BiLSTM"), (ENCODER, "ms", "4-layer Transformer"))),
        ("models", "MB, seconds",
         (("models", "engine_MB", "engine, MB"), ("models", "front_MB", "front end, MB"),
          ("models", "new_s", "start, s"), ("models", "known_s", "start again, s"))),
        ("connections", "CPU µs of a call, MB",
         (("connections", "server_us", "CPU, µs"), ("connections", "front_MB", "front end, MB"))),
        ("bytes of a message and of its answer", "ms of a lone call",
         (("size", "ms", "time"), ("size", "front_ms", "CPU, front end"),
          ("size", "engine_ms", "CPU, engine"))),
    )  # fmt: skip
    with figures.svg_settings("growth"):
        figure = figures.new_figure(11.5, 7.5)
        for at, (x_label, y_label, curves) in enumerate(panels, 1):
            axes = figures.new_axes(figure, 2, 2, at, x_label=x_label, y_label=y_label)
            for (curve, name, label), (colour, marker) in zip(curves, figures.series_styles(), strict=False):
                points = {int(x): y[name] for x, y in measured[curve].items()}
                axes.plot([*points], [*points.values()], color=colour, marker=marker, label=label)
            axes.set_xscale("log")
            axes.set_yscale("log")
            figures.log_ticks(axes.yaxis, (1,))
            figures.draw_grid(axes)
            figures.draw_legend(axes)
        figure.savefig(path, format="svg", metadata={"Date": None})


# --- the load over many connections -----------------------------------------------------------------------


def over_connections(spec: dict[str, Any]) -> dict[str, float]:
    """A closed loop whose calls go over each connection in turn."""
    host, port = spec["address"].rsplit(":", 1)
    made = [call(protocol.INFER.path, one.body) for one in requests(MODEL, lengths.sst2(600))]
    connections = [Connection(host, int(port)) for _ in range(spec["connections"])]
    by_file = {one.socket.fileno(): one for one in connections}
    poll, begun, sent, waits = select.epoll(), dict[tuple[Connection, int], float](), 0, list[float]()
    for file in by_file:
        poll.register(file, select.EPOLLIN)

    def begin(now: float) -> None:
        nonlocal sent
        connection = connections[sent % len(connections)]
        begun[connection, connection.begin(made[sent % len(made)])] = now
        connection.flush()
        sent += 1

    for connection in connections:
        connection.flush()
    for _ in range(spec["inflight"]):
        begin(time.perf_counter())
    since, before = time.perf_counter() + _LEAD_S, -1.0
    while (now := time.perf_counter()) < since + spec["seconds"]:
        if before < 0 and now >= since:
            since, before = now, _server_cpu_s(spec["server"])
            waits.clear()
        for file, _ in poll.poll(0.1):
            connection = by_file[file]
            for reply in connection.receive():
                if reply.status is not None:
                    if reply.status:
                        raise RuntimeError(f"a call over a connection failed with status {reply.status}")
                    waits.append(time.perf_counter() - begun.pop((connection, reply.call)))
                    begin(time.perf_counter())
            connection.flush()
    cpu_s, took = _server_cpu_s(spec["server"]) - before, time.perf_counter() - since
    front_mb = levels.pss_mb(spec["server"])
    poll.close()
    for connection in connections:
        connection.close()
    p50, p99 = (1000 * float(one) for one in np.percentile(waits, (50, 99)))
    return {"rate": len(waits) / took, "p50_ms": p50, "p99_ms": p99, "server_us": 1e6 * cpu_s / len(waits),
            "front_MB": front_mb}  # fmt: skip


def _server_cpu_s(server: int) -> float:
    return levels.cpu_seconds(server) + levels.cpu_seconds(levels.engine_pid(server))


if __name__ == "__main__":
    print(json.dumps(over_connections(json.loads(sys.argv[1]))))
