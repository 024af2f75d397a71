"""More calls than a server can answer: an open loop at several times its capacity.

Unary calls without and with deadlines of ten runs, and streams beyond the slots.

`python -m bench overload` measures and draws docs/overload.svg. Capacity is what a closed loop of calls is
answered. Goodput is what is answered in time, in elements of texts or in streams: counted in calls it would
rise with overload, as short texts meet deadlines that long ones miss. The texts are long, so that at ten
times the capacity the load, on the same cores, leaves the server its share; what the front end, the engine
and the load took of the cores is reported beside the goodput.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_client import figures, protocol
from lockstep_proto.v1 import sequences_pb2 as pb

from . import lengths, processes
from .drive import requests
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lockstep_client.server_process import ServerProcess

    Measured = dict[tuple[str, int], dict[str, float]]

MODEL, GENERATOR = "bench-encoder", "shakespeare-char-lstm"
MULTIPLES = (1, 2, 4, 10)
DEADLINE_RUNS = 10
"""Deadlines are as many times the median latency of one call by itself, and at least `_LEAST_S`."""

_LEAST_S, _SECONDS, _WARM_UP_S = 0.1, 8.0, 1.0
_TIMES_LONGER, _LONGEST, _TEXTS = 25, 512, 400
_SLOTS, _TOKENS = 8, 1000
_MAX_QUEUE_MS = 500  # the default; the other scenarios never refuse
_PLOT = Path(__file__).parent.parent / "docs" / "overload.svg"
_GOODPUT, _REFUSAL_MS, _HEALTH_MS = 0.9, 20.0, 100.0
_GENERATE = "/lockstep.v1.Sequences/Generate"
KINDS = ("no deadline", "deadline", "streams")
_UNITS = {"no deadline": "elements", "deadline": "elements", "streams": "streams"}


def overload(models: Path, rounds: int) -> Iterator[Result]:
    """Goodput at 1 to 10 times the capacity, the waits of what is answered, refusals, and health."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with (
        replaced(models, MODEL, "max_queue_ms = 5000", f"max_queue_ms = {_MAX_QUEUE_MS}"),
        replaced(models, GENERATOR, "[stepwise]\n", f"[stepwise]\nmax_sequences = {_SLOTS}\n"),
    ):
        for _ in range(rounds):
            for key, one in measure(models):
                found.setdefault(key, []).append(one)
    medians = {
        key: {name: float(np.median([one[name] for one in several])) for name in several[0]}
        for key, several in found.items()
    }
    draw(medians, _PLOT)
    for kind in KINDS:
        yield from _results(kind, medians)


@contextmanager
def replaced(models: Path, model: str, old: str, new: str) -> Iterator[None]:
    """Change a manifest for a while."""
    manifest = models / model / "model.toml"
    text = manifest.read_text()
    assert text.count(old) == 1
    manifest.write_text(text.replace(old, new))
    try:
        yield
    finally:
        manifest.write_text(text)


def measure(models: Path) -> Iterator[tuple[tuple[str, int], dict[str, float]]]:
    """One round: what was measured, by kind and multiple of the capacity."""
    with processes.server_process(models, "--only", MODEL) as server:
        drawn = [min(_TIMES_LONGER * length, _LONGEST) for length in lengths.sst2(_TEXTS)]
        bodies = [one.body for one in requests(MODEL, drawn)]
        send = partial(_send, server, protocol.INFER.path, bodies, work=drawn)
        alone = send(inflight=1, warm_up=_WARM_UP_S, seconds=3.0)
        capacity = send(inflight=8, seconds=5.0)["answered"]
        for kind in KINDS[:2]:
            deadline = max(DEADLINE_RUNS / alone["answered"], _LEAST_S) if kind == "deadline" else 30.0
            for multiple in MULTIPLES:
                yield (kind, multiple), send(rate=capacity * multiple, deadline=deadline)
    with processes.server_process(models, "--only", GENERATOR) as server:
        bodies = [
            pb.GenerateRequest(
                model=GENERATOR, text="ROMEO:\n", max_tokens=_TOKENS, seed=seed, temperature=0.8
            ).SerializeToString()
            for seed in range(_TEXTS)
        ]
        capacity = _send(server, _GENERATE, bodies, inflight=_SLOTS, warm_up=_WARM_UP_S)["answered"]
        for multiple in MULTIPLES:
            yield ("streams", multiple), _send(server, _GENERATE, bodies, rate=capacity * multiple)


def _send(server: ServerProcess, path: str, bodies: list[bytes], **more: Any) -> dict[str, float]:
    usual = {"seconds": _SECONDS, "deadline": 30.0, "work": [1] * len(bodies)}
    spec = {"address": server.address, "server": server.process.pid, "path": path, **usual, **more}
    found: dict[str, float] = processes.tool("open_loop", spec, lines=[body.hex() for body in bodies])
    return found


def _results(kind: str, medians: Measured) -> Iterator[Result]:
    best = max(medians[kind, multiple]["goodput"] for multiple in MULTIPLES)
    least_cpu = max(_per_cpu_second(medians[kind, multiple]) for multiple in MULTIPLES)
    for multiple in MULTIPLES:
        here = medians[kind, multiple]
        title = f"{kind}, {multiple} times the capacity"
        yield Result(f"{title}: goodput", here["goodput"], f"{_UNITS[kind]}/s", best, _GOODPUT)
        yield Result(f"{title}: answered in time", here["answered"], "/s", here["offered"], None)
        yield Result(
            f"{title}: goodput per CPU second of the server", _per_cpu_second(here), "", least_cpu, None
        )
        for part in ("load", "front"):
            share = 100 * here[f"{part}_cores"] / _cores(here)
            yield Result(f"{title}: share of the CPU time, {part}", share, "%", 100.0, None)
        if kind == "streams":
            yield Result(
                f"{title}: first token, p99", here["first_p99_ms"], "ms", _MAX_QUEUE_MS, 1.2, at_most=True
            )
        else:
            alone = medians[kind, 1]["p99_ms"]
            yield Result(f"{title}: p99", here["p99_ms"], "ms", alone, 2.0, at_most=True)
        if here["refused"]:
            yield Result(
                f"{title}: refusal, median", here["refusal_ms"], "ms", _REFUSAL_MS, 1.0, at_most=True
            )
            yield Result(
                f"{title}: refusals with a retry time",
                here["refused"] - here["without_time"], "", here["refused"], 1.0,
            )  # fmt: skip
        yield Result(f"{title}: health, longest", here["health_ms"], "ms", _HEALTH_MS, 1.0, at_most=True)


def _per_cpu_second(one: Mapping[str, float]) -> float:
    return one["goodput"] / (one["front_cores"] + one["engine_cores"])


def _cores(one: Mapping[str, float]) -> float:
    return one["front_cores"] + one["engine_cores"] + one["load_cores"]


def draw(medians: Measured, path: Path) -> None:
    """Goodput, goodput per CPU second of the server, and waits; as shares of their best or in ms."""
    with figures.svg_settings("overload"):
        figure = figures.new_figure(11.5, 3.6)
        panels: tuple[tuple[str, Callable[[str, dict[str, float]], float]], ...] = (
            ("goodput, of its peak", partial(_of_peak, medians, _goodput)),
            ("the same per CPU second of the server", partial(_of_peak, medians, _per_cpu_second)),
            ("p99 of what is answered, ms (streams: first token)", _wait_ms),
        )
        for at, (label, value) in enumerate(panels, 1):
            axes = figures.new_axes(figure, 1, 3, at, x_label="offered load / capacity", y_label=label)
            for kind, (colour, marker) in zip(KINDS, figures.series_styles(), strict=False):
                values = [value(kind, medians[kind, multiple]) for multiple in MULTIPLES]
                axes.plot(MULTIPLES, values, color=colour, marker=marker, label=kind)
            figures.log_x_at(axes, MULTIPLES)
            axes.set_ylim(bottom=0)
            figures.draw_grid(axes)
        figures.draw_legend_below(figure, 3)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _goodput(one: Mapping[str, float]) -> float:
    return one["goodput"]


def _of_peak(
    medians: Measured, value: Callable[[dict[str, float]], float], kind: str, one: dict[str, float]
) -> float:
    return value(one) / max(value(medians[kind, multiple]) for multiple in MULTIPLES)


def _wait_ms(kind: str, one: dict[str, float]) -> float:
    return one["first_p99_ms" if kind == "streams" else "p99_ms"]
