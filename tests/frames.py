"""Tiny models of frames: a strided convolution, sums of frames and of windows, a recurrent one of chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fakes
import numpy as np
import steps
from onnx import helper

if TYPE_CHECKING:
    from pathlib import Path

STRIDED = """
lengths.samples.max = 20000
inputs.x = {batch_axis = 0, lengths = {1 = "samples"}}
outputs.y = {batch_axis = 0, lengths = {1 = "LENGTH"}}
batching.max_padded_elements = 100000
"""


def strided(kernel: int, stride: int, *, counts: bool = False) -> Any:
    """x [n, samples] -> y [n, frames, 4]: a convolution. With `counts`, plus the number of frames."""
    weights = np.random.default_rng(0).standard_normal((4, 1, kernel))
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["u"]),
        helper.make_node("Conv", ["u", "W"], ["c"], kernel_shape=[kernel], strides=[stride]),
        helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Shape", ["t"], ["size"], start=1, end=2),
        helper.make_node("Cast", ["size"], ["count"], to=1),
        helper.make_node("Add", ["t", "count" if counts else "zero"], ["y"]),
    ]
    return fakes.model(
        nodes,
        [fakes.tensor("x", shape=("n", "samples"))],
        [fakes.tensor("y", shape=("n", "frames", 4))],
        [
            fakes.constant("one", [1], np.int64),
            fakes.constant("zero", 0, np.float32),
            fakes.constant("W", weights, np.float32),
        ],
    )


SUM_STATE = """
[[stepwise.state]]
name = "s"
input = "s_in"
output = "s_out"
"""


def summing(root: Path, name: str, size: int, *, rate: bool = False, **keys: Any) -> None:
    """x [n, size], s_in [n, size] -> y = s_out = s_in + x. With `rate`, times a scalar input `sr`."""
    nodes = [
        helper.make_node("Cast", ["sr"], ["factor"], to=1),
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled" if rate else "x", "s_in"], ["s_out"]),
        helper.make_node("Identity", ["s_out"], ["y"]),
    ]
    inputs = [fakes.tensor("x", shape=("n", size)), fakes.tensor("s_in", shape=("n", size))]
    graph = fakes.model(
        nodes if rate else nodes[2:],
        inputs + [fakes.tensor("sr", "INT64", ())] * rate,
        [fakes.tensor("y", shape=("n", size)), fakes.tensor("s_out", shape=("n", size))],
        [],
    )
    more = "".join(f"{key} = {value}\n" for key, value in keys.items())
    manifest = f"stepwise.outputs.y.batch_axis = 0\n[stepwise.inputs.x]\nbatch_axis = 0\n{more}{SUM_STATE}"
    steps.write(root, name, manifest, {"step.onnx": graph})


def labelled(root: Path, name: str) -> None:
    """As `summing` with 3 features, whose sums are the scores of three labels."""
    summing(root, name, 3)
    file = root / name / "model.toml"
    file.write_text('labels = ["a", "b", "c"]\nroles.scores = "y"\ntask = "classify"\n' + file.read_text())


CHUNKS = """
lengths.frames.max = 64
[stepwise.inputs.x]
batch_axis = 0
lengths = {1 = "frames"}
[stepwise.outputs.y]
batch_axis = 0
lengths = {1 = "OUTPUT"}
[[stepwise.state]]
name = "h"
input = "h_in"
output = "h_out"
batch_axis = 1
"""
CHUNK_LENGTHS = """
[stepwise.inputs.lengths]
batch_axis = 0
generated = "lengths"
of = "frames"
"""


def chunked(root: Path, name: str, *, padded: bool = True, pooled: bool = False) -> None:
    """x [n, frames, 3], h_in [1, n, 4] -> y [n, frames, 4], h_out: a GRU. Without `padded`, it does not know
    the lengths of the rows. With `pooled`, y has the largest of each two frames."""
    rng = np.random.default_rng(3)
    counts = ["counts"] if padded else [""]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["t", "W", "R", "", *counts, "h_in"], ["all", "h_out"], hidden_size=4),
        helper.make_node("Squeeze", ["all", "axis"], ["a"]),
        helper.make_node("Transpose", ["a"], ["y" if not pooled else "b"], perm=[1, 0, 2]),
    ]
    if padded:
        nodes.insert(0, helper.make_node("Cast", ["lengths"], ["counts"], to=6))
    if pooled:
        nodes += [
            helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 1]),
            helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2], strides=[2]),
            helper.make_node("Transpose", ["d"], ["y"], perm=[0, 2, 1]),
        ]
    graph = fakes.model(
        nodes,
        [
            fakes.tensor("x", shape=("n", "frames", 3)),
            fakes.tensor("h_in", shape=(1, "n", 4)),
            *([fakes.tensor("lengths", "INT64", ("n",))] if padded else []),
        ],
        [fakes.tensor("y", shape=("n", "made", 4)), fakes.tensor("h_out", shape=(1, "n", 4))],
        [
            fakes.constant("W", rng.standard_normal((1, 12, 3)), np.float32),
            fakes.constant("R", rng.standard_normal((1, 12, 4)) * 0.5, np.float32),
            fakes.constant("axis", [1], np.int64),
        ],
    )
    manifest = CHUNKS.replace("OUTPUT", "frames // 2" if pooled else "frames")
    steps.write(root, name, manifest + CHUNK_LENGTHS * padded, {"step.onnx": graph})


CTC = """
task = "ctc"
blank = 0
roles.scores = "y"
"""
CTC_LABELS = ("-", "a", "b", " ", "é")


def spelling(
    root: Path, name: str, *, tokenizer: bool = False, file: str = "model.onnx", finite: bool = False
) -> None:
    """x [n, frames, 5] -> y = x: the scores of each frame are the frame, or 1 and 0 if they must be finite.

    As a step graph with `file`, x and y are [n, frames, 5], and a state counts the frames.
    """
    if tokenizer:
        made = steps.Tokenizer(steps.models.WordLevel({p: i for i, p in enumerate(CTC_LABELS)}, "-"))
        made.decoder = steps.decoders.Fuse()
    shape = ("n", "frames", len(CTC_LABELS))
    manifest = CTC + (
        'text.target = "tokenizer.json"\n' if tokenizer else f"labels = {[*CTC_LABELS]}\n"
    ).replace("'", '"')
    manifest += "lengths.frames.max = 500\n"
    axes = '{batch_axis = 0, lengths = {1 = "frames"}}'
    nodes, inputs, outputs = [], [fakes.tensor("x", shape=shape)], [fakes.tensor("y", shape=shape)]
    prefix = ""
    if file == "step.onnx":
        prefix = "stepwise."
        nodes += [helper.make_node("Add", ["s_in", "one"], ["s_out"])]
        inputs.append(fakes.tensor("s_in", shape=("n", 1)))
        outputs.append(fakes.tensor("s_out", shape=("n", 1)))
    if finite:
        nodes.append(helper.make_node("Greater", ["x", "half"], ["larger"]))
    nodes.append(helper.make_node("Cast", ["larger" if finite else "x"], ["y"], to=1))
    manifest += f"{prefix}inputs.x = {axes}\n{prefix}outputs.y = {axes}\n" + SUM_STATE * bool(prefix)
    constants = [fakes.constant("one", 1, np.float32), fakes.constant("half", 0.5, np.float32)]
    graph = fakes.model(nodes, inputs, outputs, constants)
    steps.write(root, name, manifest, {file: graph}, made if tokenizer else None)


def spelled(text: str) -> Any:
    """Frames [frames, 5] of the scores of these labels."""
    return np.eye(len(CTC_LABELS), dtype=np.float32)[[CTC_LABELS.index(one) for one in text]]


PROMPTED = """
lengths.frames.max = 40
[prefill.inputs.frames]
batch_axis = 0
lengths = {1 = "frames"}
[prefill.inputs.lengths]
batch_axis = 0
generated = "lengths"
of = "frames"
[prefill.outputs.y]
batch_axis = 0
[stepwise.inputs.x]
batch_axis = 0
[stepwise.outputs.y]
batch_axis = 0
[[stepwise.state]]
name = "h"
input = "h_in"
output = "h_out"
prefill = "h0"
batch_axis = 1
"""


def prompted(root: Path, name: str, *, manifest: str = PROMPTED, wrong: bool = False) -> None:
    """The graphs of `prompted_graphs` as a model."""
    step, prefill = prompted_graphs(wrong=wrong)
    steps.write(root, name, manifest, {"step.onnx": step, "prefill.onnx": prefill})


def prompted_graphs(*, wrong: bool = False) -> tuple[Any, Any]:
    """A GRU of 4 units over frames of 3 numbers. Its step: x [n, 3], h_in [1, n, 4] -> y [n, 4], h_out. Its
    prefill graph reads a prompt in one run: frames [n, t, 3], lengths [n] -> y [n, 4] after the last frame,
    h0 [1, n, 4]. With `wrong`, it forgets what it has read."""
    rng = np.random.default_rng(4)
    constants = [
        fakes.constant("W", rng.standard_normal((1, 12, 3)), np.float32),
        fakes.constant("R", rng.standard_normal((1, 12, 4)) * 0.5, np.float32),
        fakes.constant("axis", [0], np.int64),
        fakes.constant("zero", 0, np.float32),
    ]
    step = fakes.model(
        [
            helper.make_node("Unsqueeze", ["x", "axis"], ["t"]),
            helper.make_node("GRU", ["t", "W", "R", "", "", "h_in"], ["", "h_out"], hidden_size=4),
            helper.make_node("Squeeze", ["h_out", "axis"], ["y"]),
        ],
        [fakes.tensor("x", shape=("n", 3)), fakes.tensor("h_in", shape=(1, "n", 4))],
        [fakes.tensor("y", shape=("n", 4)), fakes.tensor("h_out", shape=(1, "n", 4))],
        constants,
    )
    prefill = fakes.model(
        [
            helper.make_node("Transpose", ["frames"], ["t"], perm=[1, 0, 2]),
            helper.make_node("Cast", ["lengths"], ["counts"], to=6),
            helper.make_node("GRU", ["t", "W", "R", "", "counts"], ["", "h"], hidden_size=4),
            helper.make_node("Mul" if wrong else "Add", ["h", "zero"], ["h0"]),
            helper.make_node("Squeeze", ["h", "axis"], ["y"]),
        ],
        [fakes.tensor("frames", shape=("n", "t", 3)), fakes.tensor("lengths", "INT64", ("n",))],
        [fakes.tensor("y", shape=("n", 4)), fakes.tensor("h0", shape=(1, "n", 4))],
        constants,
    )
    return step, prefill
