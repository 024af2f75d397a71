"""How a step grows: with the streams, their context, the size of their states, and models side by side.

`python -m bench step-growth` measures, draws docs/step-growth.svg and writes results/step-growth.json.
`python -m bench.step_growth streams|context|states|models MODELS [MODEL]` measures one curve in the step-wise
engine without a front end, and prints it as JSON: {x: {"ms", "session_ms", "MB"}}. A step is one token of
every stream.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
import statistics
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lockstep_client import figures
from lockstep_server import messages
from lockstep_server.engine.loading import repository
from lockstep_server.engine.loading.loader import Loader
from lockstep_server.engine.runtime.device import CPU
from lockstep_server.engine.runtime.device_scheduler import DeviceScheduler
from lockstep_server.engine.stepwise.batches import StepOutcome

from . import processes
from .engine_side import SessionTimer, open_engine
from .peers.measure import machine
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lockstep_server.engine.stepwise.engine import StepEngine

    Curve = dict[int, dict[str, float]]

LSTM, GPT, CARRIER = "shakespeare-char-lstm", "shakespeare-gpt", "bench-carrier"
STREAMS, AT_CONTEXT = (1, 4, 16, 64, 250, 1000), 200
CONTEXT, AT_STREAMS = (10, 30, 100, 300, 1000, 4000), 16
FLOATS, CARRIED = (128, 1024, 8192, 65536, 524288), 64
SIDE_BY_SIDE, EACH = (1, 2, 4, 8), 16
_STEPS, _REPEATS, _FEW, _SECONDS = 16, 3, 100, 1.5
_FILE = Path(__file__).with_name("results") / "step-growth.json"
_PLOT = Path(__file__).parent.parent / "docs" / "step-growth.svg"
_MANIFEST = """
task = "generate"
[roles]
scores = "logits"
[stepwise]
graph = "step.onnx"
max_sequences = 256
[stepwise.inputs.token]
batch_axis = 0
range = [0, 64]
[stepwise.outputs.logits]
batch_axis = 0
[[stepwise.state]]
name = "s"
input = "s_in"
output = "s_out"
"""


def step_growth(models: Path, rounds: int) -> Iterator[Result]:
    """Time and memory of a step. Each round measures all curves in turn; the fastest round of a point counts,
    as other work on the machine only adds."""
    begun, folder = datetime.datetime.now(datetime.UTC), _copied(models)
    names = {
        **{f"{kind} {model}": (kind, model) for kind in ("streams", "context") for model in (LSTM, GPT)},
        "states": ("states", CARRIER),
        **{f"models {model}": ("models", model) for model in (LSTM, GPT)},
    }
    several: list[dict[str, Any]] = [
        {
            name: processes.tool("step_growth", kind, str(folder), model)
            for name, (kind, model) in names.items()
        }
        for _ in range(rounds)
    ]
    measured = {
        name: {at: {key: min(one[name][at][key] for one in several) for key in found}
               for at, found in curve.items()}
        for name, curve in several[0].items()
    }  # fmt: skip
    facts = {**machine(), "date": f"{begun:%Y-%m-%d %H:%M} UTC", "rounds": str(rounds)}
    _FILE.parent.mkdir(exist_ok=True)
    _FILE.write_text(json.dumps({"run": facts, "measured": measured}, indent=1) + "\n")
    draw(measured, _PLOT)
    for name, curve in measured.items():
        first, *_, last = curve
        title = f"{name}: a step at {int(last):,}, against {int(first):,}"
        yield Result(title, curve[last]["ms"], "ms", curve[first]["ms"], None)


def _copied(models: Path) -> Path:
    """The two models with room for more streams and a longer context, copies of them, and one that carries
    states and does nothing else."""
    folder = models.parent / "step-growth"
    for model in (LSTM, GPT):
        manifest = (models / model / "model.toml").read_text()
        manifest = re.sub(r"(?m)^\[stepwise\]$", "[stepwise]\nmax_sequences = 1024", manifest)
        manifest = manifest.replace("[lengths.past]\nmax = 2048", "[lengths.past]\nmax = 4096")
        for copy in range(max(SIDE_BY_SIDE)):
            name = f"{model}-{copy}" if copy else model
            shutil.copytree(models / model, folder / name)
            (folder / name / "model.toml").write_text(manifest)
    for floats in FLOATS:
        _write_carrier(folder / f"{CARRIER}-{floats}", floats)
    return folder


def _write_carrier(folder: Path, floats: int) -> None:
    """token [n] → logits [n, 64], all equal, and a state of so many floats to which 1 is added."""
    nodes = [
        helper.make_node("Add", ["s_in", "one"], ["s_out"]),
        helper.make_node("Gather", ["table", "token"], ["logits"]),
    ]
    sizes: dict[str, tuple[int, list[str | int]]] = {
        "token": (onnx.TensorProto.INT64, ["n"]),
        "s_in": (onnx.TensorProto.FLOAT, ["n", floats]),
        "logits": (onnx.TensorProto.FLOAT, ["n", 64]),
        "s_out": (onnx.TensorProto.FLOAT, ["n", floats]),
    }
    tensors = [helper.make_tensor_value_info(name, *size) for name, size in sizes.items()]
    weights = [
        numpy_helper.from_array(np.ones(1, np.float32), "one"),
        numpy_helper.from_array(np.zeros((64, 64), np.float32), "table"),
    ]
    graph = helper.make_graph(nodes, "carrier", tensors[:2], tensors[2:], weights)
    (folder / "1").mkdir(parents=True)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "1" / "step.onnx")
    (folder / "model.toml").write_text(_MANIFEST)


# --- one curve --------------------------------------------------------------------------------------


class Bench:
    """A model's engine, without a thread of its own."""

    def __init__(self, folder: str, model: str) -> None:
        self._updates: list[messages.Events] = []
        self._model = open_engine(folder, model, self._updates.append)
        self._engine: StepEngine = self._model.engine
        self._engine.set_flush_interval(0.02)  # as on a busy server
        self._session, self._keys = SessionTimer(self._engine._session), 1

    def measure(self, streams: int, context: int) -> dict[str, float]:
        """The median step of so many streams that have read and generated `context` elements."""
        repeats = _REPEATS if streams <= _FEW else 1
        return _median([self._measure(streams, context) for _ in range(repeats)])

    def _measure(self, streams: int, context: int) -> dict[str, float]:
        engine, session = self._engine, self._session
        keys = range(self._keys, self._keys + streams)
        self._keys += streams
        draw = np.random.default_rng(1)
        for key in keys:
            prompt = tuple(draw.integers(3, 60, max(context - _STEPS, 1)).tolist())
            engine.submit(_request(self._model.spec.name, key, prompt))
        with self._without_steps():
            while sum(len(batch) for batch in engine._batches) < streams:
                self._step()
        batches, begun = len(engine._batches), session.begin()
        while session.runs < batches * _STEPS:
            self._step()
        steps = session.runs / batches
        took, megabytes = (time.perf_counter() - begun) / steps, engine._batches.state_bytes / 1e6
        for key in keys:
            engine.cancel(key)
        self._step()
        return {"ms": 1e3 * took, "session_ms": 1e3 * session.seconds / steps, "MB": megabytes}

    @contextmanager
    def _without_steps(self) -> Iterator[None]:
        """Read prompts only: the first streams would read far more than the last ones otherwise."""
        engine: Any = self._engine
        engine._batches.step, engine._step_on = lambda _: StepOutcome(), lambda *_: None
        yield
        del engine._batches.step, engine._step_on

    def _step(self) -> None:
        self._engine._step()
        for events in self._updates:
            for chunk in events.chunks:
                self._engine.credit(chunk.key, 1)
        self._updates.clear()


def _request(model: str, key: int, prompt: tuple[int, ...]) -> messages.Generate:
    return messages.Generate(
        key=key, model=model, version=1, prompt=prompt, accepted=time.monotonic(),
        max_tokens=10**6, temperature=0.8, seed=key,
    )  # fmt: skip


def _median(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def streams(folder: str, model: str) -> Curve:
    bench = Bench(folder, model)
    return {count: bench.measure(count, AT_CONTEXT) for count in STREAMS}


def context(folder: str, model: str) -> Curve:
    bench = Bench(folder, model)
    return {length: bench.measure(AT_STREAMS, length) for length in CONTEXT}


def states(folder: str, model: str) -> Curve:
    return {floats: Bench(folder, f"{model}-{floats}").measure(CARRIED, AT_CONTEXT) for floats in FLOATS}


def side_by_side(folder: str, model: str) -> Curve:
    """Engines with threads that share the device, each with its streams: the mean step of one of them."""
    return {count: _side_by_side(folder, model, count) for count in SIDE_BY_SIDE}


def _side_by_side(folder: str, model: str, count: int) -> dict[str, float]:
    sys.setswitchinterval(0.0005)  # as in an engine process
    devices, loaded = DeviceScheduler(), list[Any]()
    config, taken = messages.EngineConfig(models=folder), threading.Lock()
    tokens = [0] * count

    def report_of(number: int) -> Any:
        def report(events: Any) -> None:
            if not isinstance(events, messages.Events):
                return
            with taken:
                tokens[number] += sum(len(chunk.ids) for chunk in events.chunks)
            for chunk in events.chunks:
                loaded[number].engine.credit(chunk.key, 1)

        return report

    for number in range(count):
        (found,) = repository.find_versions(Path(folder), f"{model}-{number}" if number else model)
        opened = Loader(config, CPU, devices).load(found, report_of(number))
        loaded.append(opened[-1])
    for number, one in enumerate(loaded):
        one.engine.set_flush_interval(0.02)
        for key in range(EACH):
            prompt = tuple(np.random.default_rng(key).integers(3, 60, AT_CONTEXT).tolist())
            one.engine.submit(_request(one.spec.name, 1 + key + EACH * number, prompt))
        one.engine.start()
    pause = threading.Event()
    while min(tokens) < EACH:
        pause.wait(0.01)
    pause.wait(0.2)
    with taken:
        before, begun = sum(tokens), time.perf_counter()
    pause.wait(_SECONDS)
    with taken:
        made, took = sum(tokens) - before, time.perf_counter() - begun
    megabytes = sum(one.engine.counts()[1] for one in loaded) / 1e6
    for one in loaded:
        one.engine.stop(0.0)
    return {"ms": 1e3 * took * EACH * count / made, "MB": megabytes}


def draw(measured: Mapping[str, Any], path: Path) -> None:
    both = ((LSTM, "LSTM"), (GPT, "GPT"))
    panels = (
        ("streams", "ms of a step", "ms", [(f"streams {model}", label) for model, label in both]),
        ("streams", "MB of states", "MB", [(f"streams {model}", label) for model, label in both]),
        ("floats of a stream's states", "ms of a step", "ms", [("states", "64 streams, states alone")]),
        (f"elements read, {AT_STREAMS} streams", "ms of a step", "ms",
         [(f"context {model}", label) for model, label in both]),
        (f"elements read, {AT_STREAMS} streams", "MB of states", "MB",
         [(f"context {model}", label) for model, label in both]),
        (f"models, {EACH} streams each", "ms of a step of each", "ms",
         [(f"models {model}", label) for model, label in both]),
    )  # fmt: skip
    with figures.svg_settings("step-growth"):
        figure = figures.new_figure(13.5, 7.0)
        for at, (x_label, y_label, name, curves) in enumerate(panels, 1):
            axes = figures.new_axes(figure, 2, 3, at, x_label=x_label, y_label=y_label)
            points: dict[int, float] = {}
            for (curve, label), (colour, marker) in zip(curves, figures.series_styles(), strict=False):
                points = {int(x): y[name] for x, y in measured[curve].items()}
                axes.plot([*points], [*points.values()], color=colour, marker=marker, label=label)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks([*points], [f"{x:,}" for x in points])
            axes.set_xticks([], minor=True)
            figures.log_ticks(axes.yaxis, (1,))
            figures.draw_grid(axes)
            figures.draw_legend(axes)
        figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    kind, folder, model = sys.argv[1:]
    curves = {"streams": streams, "context": context, "states": states, "models": side_by_side}
    print(json.dumps(curves[kind](folder, model)))
