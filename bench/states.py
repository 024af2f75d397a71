"""What it costs to carry states from step to step, in the step-wise engine without a front end.

`python -m bench.states caches MODELS ROWS CONTEXT [PLACE]`: streams of shakespeare-gpt with about CONTEXT
characters each; prints {"step_us", "session_us", "bare_us"}, of which the last is a bare loop that writes the
new elements into caches of the same size.
`python -m bench.states clients STREAMS [PLACE]`: client-driven streams of a graph with 98 states, one step of
each in a round; prints {"round_ms", "session_ms"}. PLACE is where states are kept, `host` or `device`. Both
print JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from lockstep_server import messages
from lockstep_server.engine.runtime.device import Device

from .bare import session as bare_session
from .engine_side import SessionTimer, open_engine

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.engine import StepEngine

MODEL = "shakespeare-gpt"
STEPS, ROUNDS = 60, 5
STATES, WIDTHS = 98, (64, 512)
MANIFEST = """
[stepwise]
max_sequences = 1024
"""
STATE = '[[stepwise.state]]\nname = "s{0}"\ninput = "s{0}_in"\noutput = "s{0}_out"\n'


def caches(models: str, rows: int, context: int, place: str) -> dict[str, float]:
    """Medians over the rounds, of steps from `context` characters less STEPS on."""
    updates: list[messages.Events] = []
    model = open_engine(models, MODEL, updates.append, Device(states=place))
    engine: StepEngine = model.engine
    engine.set_flush_interval(0.02)
    session = SessionTimer(engine._session)
    took, inside, bare = [], [], []
    draw = np.random.default_rng(1)
    for number in range(ROUNDS):
        keys = range(number * rows + 1, (number + 1) * rows + 1)
        for key in keys:
            prompt = tuple(draw.integers(3, 60, context - STEPS - 2).tolist())
            engine.submit(
                messages.Generate(
                    key=key, model=MODEL, version=1, prompt=prompt, accepted=time.monotonic(),
                    max_tokens=1000, temperature=0.8, seed=key,
                )
            )  # fmt: skip
        while sum(len(batch) for batch in engine._batches) < rows:
            _step(engine, updates)
        begun = session.begin()
        while session.runs < STEPS:
            _step(engine, updates)
        took.append((time.perf_counter() - begun) / session.runs)
        inside.append(session.seconds / session.runs)
        for key in keys:
            engine.cancel(key)
        _step(engine, updates)
        bare.append(_bare(f"{models}/{MODEL}/1/step.onnx", rows, context))
    medians = {"step_us": took, "session_us": inside, "bare_us": bare}
    return {name: statistics.median(seconds) * 1e6 for name, seconds in medians.items()}


def _step(engine: StepEngine, updates: list[messages.Events]) -> None:
    engine._step()
    for events in updates:
        for chunk in events.chunks:
            engine.credit(chunk.key, 1)
    updates.clear()


def _bare(file: str, rows: int, context: int) -> float:
    """Seconds of a step in a loop around the session, with caches that hold one bucket of elements."""
    model = bare_session(file)
    size = 1 << (context - 1).bit_length()
    shapes = {arg.name: arg.shape for arg in model.get_inputs() if arg.name.endswith("_in")}
    held = {name: np.zeros((rows, shape[1], size, shape[3]), np.float32) for name, shape in shapes.items()}
    token = np.ones(rows, np.int64)
    begun = 0.0
    for step in range(2 * STEPS):
        if step == STEPS:
            begun = time.perf_counter()
        at = context - STEPS + step % STEPS
        feeds = {"token": token, "lengths": np.full(rows, at), **held}
        logits, *new = model.run(None, feeds)  # caches in the order of the inputs
        for cache, element in zip(held.values(), new, strict=True):
            cache[:, :, at - 1 : at] = element[:, :, -1:]
        token = logits.argmax(axis=1)
    return (time.perf_counter() - begun) / STEPS


def clients(streams: int, place: str) -> dict[str, float]:
    """Medians over the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder) / "encoder")
        updates: list[messages.Events] = []
        model = open_engine(folder, "encoder", updates.append, Device(states=place))
    engine: StepEngine = model.engine
    session = SessionTimer(engine._session)
    took, inside = [], []
    x = {"x": np.ones((1, 1), np.float32)}
    for number in range(2 * ROUNDS + 1):
        for stream in range(streams):
            engine.submit(
                messages.Step(
                    key=number * streams + stream + 1, model="encoder", version=1, sequence=stream + 1,
                    inputs=x, accepted=time.monotonic(), start=number == 0, outputs=("y",),
                )
            )  # fmt: skip
        answered, begun = 0, session.begin()
        while answered < streams:
            engine._step()
            answered += sum(len(events.events) for events in updates)
            updates.clear()
        took.append(time.perf_counter() - begun)
        inside.append(session.seconds)
    first = 1  # starts the sequences
    return {
        "round_ms": statistics.median(took[first:]) * 1e3,
        "session_ms": statistics.median(inside[first:]) * 1e3,
    }


def _write(folder: Path) -> None:
    """x [n, 1] → y [n, 1], and 98 states to which it is added: a streaming encoder without its work."""
    inputs, outputs, nodes = [("x", 1)], [("y", 1)], [helper.make_node("Identity", ["x"], ["y"])]
    manifest = MANIFEST + "inputs.x.batch_axis = 0\noutputs.y.batch_axis = 0\n"
    for index in range(STATES):
        width = WIDTHS[index % len(WIDTHS)]
        inputs.append((f"s{index}_in", width))
        outputs.append((f"s{index}_out", width))
        nodes.append(helper.make_node("Add", [f"s{index}_in", "x"], [f"s{index}_out"]))
        manifest += STATE.format(index)
    taken, returned = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", width]) for name, width in tensors]
        for tensors in (inputs, outputs)
    )
    graph = helper.make_model(helper.make_graph(nodes, "encoder", taken, returned), ir_version=8)
    (folder / "1").mkdir(parents=True)
    onnx.save(graph, folder / "1" / "step.onnx")
    (folder / "model.toml").write_text(manifest)


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "caches":
        print(json.dumps(caches(rest[0], int(rest[1]), int(rest[2]), *(rest[3:] or ["host"]))))
    else:
        print(json.dumps(clients(int(rest[0]), *(rest[1:] or ["host"]))))
