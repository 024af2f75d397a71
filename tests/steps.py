"""Tiny step-wise models: a language model, a translator with attention, a sum, a growing cache.

Weights are random but fixed, so that output looks random and is reproducible.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from fakes import constant, model, tensor
from onnx import helper
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

ALPHABET = "\nabcdefghij klmno.é€"
TOKENS = ("[UNK]", *ALPHABET)
WIDTH = 16

LANGUAGE = """
task = "generate"
[text]
source = "tokenizer.json"
begin = 1
[lengths.prompt]
max = 64
[roles]
scores = "logits"
[stepwise]
max_tokens_limit = 10000000
max_sequences = 64
max_tokens = 40
[stepwise.inputs.token]
batch_axis = 0
range = [0, 21]
[stepwise.outputs.logits]
batch_axis = 0
[[stepwise.state]]
name = "h"
input = "h_in"
output = "h_out"
prefill = "h0"
batch_axis = 1
[[stepwise.state]]
name = "c"
input = "c_in"
output = "c_out"
prefill = "c0"
batch_axis = 1
"""
PREFILL = """
[prefill.inputs.tokens]
batch_axis = 0
lengths = {1 = "prompt"}
range = [0, 21]
[prefill.inputs.lengths]
batch_axis = 0
generated = "lengths"
of = "prompt"
[prefill.outputs.logits]
batch_axis = 0
[prefill.outputs.h0]
batch_axis = 1
[prefill.outputs.c0]
batch_axis = 1
"""


def write(
    root: Path,
    name: str,
    manifest: str,
    graphs: dict[str, ModelProto],
    tokenizer: Tokenizer | None = None,
    version: int = 1,
) -> Path:
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    for file, graph in graphs.items():
        onnx.save(graph, folder / file)
    (root / name / "model.toml").write_text(manifest)
    if tokenizer is not None:
        tokenizer.save(str(root / name / "tokenizer.json"))
    return folder


def characters() -> Tokenizer:
    """One token per character; the texts of the tokens concatenate to the text."""
    vocabulary = {token: index for index, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?m:.)"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _weights(seed: int = 7) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    size = len(TOKENS)
    return {
        "E": rng.standard_normal((size, WIDTH)).astype(np.float32),
        "R": (rng.standard_normal((1, 4 * WIDTH, WIDTH)) * 0.7).astype(np.float32),
        "I": rng.standard_normal((1, 4 * WIDTH, WIDTH)).astype(np.float32),
        "O": (rng.standard_normal((WIDTH, size)) * 1.5).astype(np.float32),
    }


def _constants(*names: str, **more: Any) -> list[Any]:
    weights = _weights()
    return [constant(name, weights[name], np.float32) for name in names] + [
        constant(name, value, dtype) for name, (value, dtype) in more.items()
    ]


def _states(*names: str) -> list[Any]:
    return [tensor(name, shape=(1, "n", WIDTH)) for name in names]


def language_step() -> ModelProto:
    """token [n], h_in, c_in [1, n, 16] -> logits [n, tokens], h_out, c_out: one step of an LSTM."""
    return model(
        [
            helper.make_node("Gather", ["E", "token"], ["e"]),
            helper.make_node("Unsqueeze", ["e", "first"], ["x"]),
            helper.make_node(
                "LSTM", ["x", "I", "R", "", "", "h_in", "c_in"], ["", "h_out", "c_out"], hidden_size=WIDTH
            ),
            helper.make_node("Squeeze", ["h_out", "first"], ["h"]),
            helper.make_node("MatMul", ["h", "O"], ["logits"]),
        ],
        [tensor("token", "INT64", ("n",)), *_states("h_in", "c_in")],
        [tensor("logits", shape=("n", len(TOKENS))), *_states("h_out", "c_out")],
        _constants("E", "I", "R", "O", first=([0], np.int64)),
    )


def language_prefill() -> ModelProto:
    """tokens [n, t], lengths [n] -> logits [n, tokens] after the last one, h0 and c0 [1, n, 16]."""
    return model(
        [
            helper.make_node("Transpose", ["tokens"], ["time_major"], perm=[1, 0]),
            helper.make_node("Gather", ["E", "time_major"], ["x"]),
            helper.make_node("Cast", ["lengths"], ["counts"], to=onnx.TensorProto.INT32),
            helper.make_node("LSTM", ["x", "I", "R", "", "counts"], ["", "h0", "c0"], hidden_size=WIDTH),
            helper.make_node("Squeeze", ["h0", "first"], ["h"]),
            helper.make_node("MatMul", ["h", "O"], ["logits"]),
        ],
        [tensor("tokens", "INT64", ("n", "t")), tensor("lengths", "INT64", ("n",))],
        [tensor("logits", shape=("n", len(TOKENS))), *_states("h0", "c0")],
        _constants("E", "I", "R", "O", first=([0], np.int64)),
    )


def language(root: Path, name: str = "lm", *, prefill: bool = True, more: str = "") -> Path:
    """A character language model; `more` is appended to its manifest and starts with a table."""
    graphs = {"step.onnx": language_step()}
    manifest = LANGUAGE if prefill else re.sub('prefill = ".0"\n', "", LANGUAGE)
    if prefill:
        graphs["prefill.onnx"] = language_prefill()
        manifest += PREFILL
    return write(root, name, manifest + more, graphs, characters())


def with_time_axes(root: Path, name: str = "timed", *, sequence: int | str = 1) -> Path:
    """The same model with a time axis, as stock exports have it: a step takes ids [n, `sequence`] and returns
    logits [n, `sequence`, tokens], and the prefill graph returns logits [n, t, tokens] of every position."""
    graphs = {"step.onnx": language_step(), "prefill.onnx": language_prefill()}
    step, prompts = (graph.graph for graph in graphs.values())
    step.input[0].CopyFrom(tensor("ids", "INT64", ("n", sequence)))
    step.node.insert(0, helper.make_node("Squeeze", ["ids", "time"], ["token"]))
    step.output[0].CopyFrom(tensor("scores", shape=("n", sequence, len(TOKENS))))
    step.node.append(helper.make_node("Unsqueeze", ["logits", "time"], ["scores"]))
    step.initializer.append(constant("time", [1], np.int64))
    next(node for node in prompts.node if node.op_type == "LSTM").output[0] = "states"
    prompts.node.extend(
        [
            helper.make_node("Squeeze", ["states", "time"], ["flat"]),
            helper.make_node("MatMul", ["flat", "O"], ["each"]),
            helper.make_node("Transpose", ["each"], ["scores"], perm=[1, 0, 2]),
        ]
    )
    prompts.initializer.append(constant("time", [1], np.int64))
    prompts.output[0].CopyFrom(tensor("scores", shape=("n", "t", len(TOKENS))))
    manifest = LANGUAGE.replace("stepwise.inputs.token", "stepwise.inputs.ids").replace("logits", "scores")
    prefill = PREFILL.replace(
        "[prefill.outputs.logits]", '[prefill.outputs.scores]\nlengths = {1 = "prompt"}'
    )
    return write(root, name, manifest + prefill, graphs, characters())


# --- a translator ---------------------------------------------------------------------------------

TRANSLATE = """
task = "translate"
[text]
source = "tokenizer.json"
begin = 1
end = 2
[lengths.source]
max = 40
[roles]
scores = "logits"
attention = "attention"
[prefill.inputs.source]
batch_axis = 0
lengths = {1 = "source"}
range = [0, 21]
[prefill.outputs.memory0]
batch_axis = 0
lengths = {1 = "source"}
[prefill.outputs.h0]
batch_axis = 0
[stepwise]
max_sequences = 64
max_tokens = 30
[stepwise.inputs.token]
batch_axis = 0
range = [0, 21]
[stepwise.inputs.mask]
batch_axis = 0
lengths = {1 = "source"}
generated = "mask"
of = "source"
[stepwise.outputs.logits]
batch_axis = 0
[stepwise.outputs.attention]
batch_axis = 0
lengths = {1 = "source"}
[[stepwise.state]]
name = "h"
input = "h_in"
output = "h_out"
prefill = "h0"
[[stepwise.state]]
name = "memory"
input = "memory"
prefill = "memory0"
lengths = {1 = "source"}
"""


def translator_prefill() -> ModelProto:
    """source [n, s] -> memory0 [n, s, 16], h0 [n, 16]: the source's vectors, and the first of them."""
    return model(
        [
            helper.make_node("Gather", ["E", "source"], ["memory0"]),
            helper.make_node("Gather", ["memory0", "zero"], ["h0"], axis=1),
        ],
        [tensor("source", "INT64", ("n", "s"))],
        [tensor("memory0", shape=("n", "s", WIDTH)), tensor("h0", shape=("n", WIDTH))],
        _constants("E", zero=(0, np.int64)),
    )


def translator_step() -> ModelProto:
    """token [n], h_in [n, 16], memory [n, s, 16], mask [n, s] -> logits, attention [n, s], h_out."""
    return model(
        [
            helper.make_node("Gather", ["E", "token"], ["e"]),
            helper.make_node("Unsqueeze", ["h_in", "last"], ["query"]),
            helper.make_node("MatMul", ["memory", "query"], ["energy3"]),
            helper.make_node("Squeeze", ["energy3", "last"], ["energy"]),
            helper.make_node("Where", ["mask", "energy", "least"], ["masked"]),
            helper.make_node("Softmax", ["masked"], ["attention"], axis=1),
            helper.make_node("Unsqueeze", ["attention", "second"], ["weights"]),
            helper.make_node("MatMul", ["weights", "memory"], ["context3"]),
            helper.make_node("Squeeze", ["context3", "second"], ["context"]),
            helper.make_node("Add", ["context", "e"], ["mixed"]),
            helper.make_node("MatMul", ["h_in", "R2"], ["kept"]),
            helper.make_node("Add", ["mixed", "kept"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["h_out"]),
            helper.make_node("MatMul", ["h_out", "O"], ["logits"]),
        ],
        [
            tensor("token", "INT64", ("n",)),
            tensor("h_in", shape=("n", WIDTH)),
            tensor("memory", shape=("n", "s", WIDTH)),
            tensor("mask", "BOOL", ("n", "s")),
        ],
        [
            tensor("logits", shape=("n", len(TOKENS))),
            tensor("attention", shape=("n", "s")),
            tensor("h_out", shape=("n", WIDTH)),
        ],
        _constants(
            "E",
            "O",
            R2=(_weights()["R"][0, :WIDTH], np.float32),
            last=([2], np.int64),
            second=([1], np.int64),
            least=(-1e9, np.float32),
        ),
    )


def translator(root: Path, name: str = "translator") -> Path:
    graphs = {"prefill.onnx": translator_prefill(), "step.onnx": translator_step()}
    return write(root, name, TRANSLATE, graphs, characters())


# --- client-driven models -------------------------------------------------------------------------

SUM = """
[stepwise]
max_sequences = {slots}
idle_timeout_s = {idle_s}
[[stepwise.state]]
name = "sum"
input = "sum_in"
output = "sum_out"
"""


def adder(root: Path, name: str = "adder", *, slots: int = 8, idle_s: float = 60) -> Path:
    """x [n, 2] -> y = the sum of all x so far. It has only a step graph and its states."""
    graph = model(
        [
            helper.make_node("Add", ["sum_in", "x"], ["sum_out"]),
            helper.make_node("Identity", ["sum_out"], ["y"]),
        ],
        [tensor("x", shape=("n", 2)), tensor("sum_in", shape=("n", 2))],
        [tensor("y", shape=("n", 2)), tensor("sum_out", shape=("n", 2))],
    )
    return write(root, name, SUM.format(slots=slots, idle_s=idle_s), {"step.onnx": graph})


def weighted_adder(root: Path, name: str = "weighted") -> Path:
    """x [n, 2], rate (a scalar, 3 by the manifest) -> y = the sum of all x * rate so far."""
    graph = model(
        [
            helper.make_node("Cast", ["rate"], ["factor"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "factor"], ["weighted"]),
            helper.make_node("Add", ["sum_in", "weighted"], ["sum_out"]),
            helper.make_node("Identity", ["sum_out"], ["y"]),
        ],
        [tensor("x", shape=("n", 2)), tensor("rate", "INT64", ()), tensor("sum_in", shape=("n", 2))],
        [tensor("y", shape=("n", 2)), tensor("sum_out", shape=("n", 2))],
    )
    inputs = "inputs.x.batch_axis = 0\ninputs.rate.value = 3\noutputs.y.batch_axis = 0\n"
    manifest = SUM.format(slots=8, idle_s=60).replace("[stepwise]\n", f"[stepwise]\n{inputs}")
    return write(root, name, manifest, {"step.onnx": graph})


def blurred_prefill() -> ModelProto:
    """As `translator_prefill`, but each vector of the memory is the mean of three neighbours."""
    graph = translator_prefill()
    for node in graph.graph.node:
        node.output[:] = ["sharp" if name == "memory0" else name for name in node.output]
        node.input[:] = ["sharp" if name == "memory0" else name for name in node.input]
    graph.graph.node.extend(
        [
            helper.make_node("Transpose", ["sharp"], ["columns"], perm=[0, 2, 1]),
            helper.make_node("AveragePool", ["columns"], ["means"], kernel_shape=[3], pads=[1, 1]),
            helper.make_node("Transpose", ["means"], ["memory0"], perm=[0, 2, 1]),
        ]
    )
    return graph


CACHE = """
task = "generate"
[text]
source = "tokenizer.json"
begin = 1
[lengths.past]
max = 40
[roles]
scores = "logits"
[stepwise]
max_tokens = 100
[stepwise.inputs.token]
batch_axis = 0
range = [0, 21]
[stepwise.inputs.mask]
batch_axis = 0
lengths = {1 = "past"}
generated = "mask"
of = "past"
[stepwise.outputs.logits]
batch_axis = 0
[[stepwise.state]]
name = "past"
input = "past"
output = "present"
batch_axis = 0
lengths = {1 = "past"}
grows = true
"""


UNMASKED = CACHE.replace(
    """[stepwise.inputs.mask]
batch_axis = 0
lengths = {1 = "past"}
generated = "mask"
of = "past"
""",
    "",
)


def unmasked_step() -> ModelProto:
    """token [n], past [n, p, 16] -> logits, present: the mean of all vectors so far, padding among them."""
    return model(
        [
            helper.make_node("Gather", ["E", "token"], ["e"]),
            helper.make_node("Unsqueeze", ["e", "second"], ["new"]),
            helper.make_node("Concat", ["past", "new"], ["present"], axis=1),
            helper.make_node("ReduceMean", ["present"], ["context"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["context", "O"], ["logits"]),
        ],
        [tensor("token", "INT64", ("n",)), tensor("past", shape=("n", "p", WIDTH))],
        [tensor("logits", shape=("n", len(TOKENS))), tensor("present", shape=("n", "q", WIDTH))],
        _constants("E", "O", second=([1], np.int64)),
    )


def unmasked(root: Path, name: str = "unmasked") -> Path:
    """A language model whose cache must not be padded."""
    return write(root, name, UNMASKED, {"step.onnx": unmasked_step()}, characters())


def cache(root: Path, name: str = "cached", *, alone: bool = False, fades: bool = False) -> Path:
    """A language model that attends to all earlier tokens; its cache grows by one vector per step.

    Args:
        alone: a step returns the new vector only.
        fades: a step halves the vectors before.
    """
    graph = model(
        [
            helper.make_node("Gather", ["E", "token"], ["e"]),
            helper.make_node("Unsqueeze", ["e", "second"], ["new"]),
            helper.make_node("Concat", ["past", "new"], ["present"], axis=1),
            helper.make_node("Unsqueeze", ["e", "last"], ["query"]),
            helper.make_node("MatMul", ["present", "query"], ["energy3"]),
            helper.make_node("Squeeze", ["energy3", "last"], ["energy"]),
            helper.make_node("Shape", ["token"], ["rows"]),
            helper.make_node("Concat", ["rows", "one"], ["column"], axis=0),
            helper.make_node("Expand", ["yes", "column"], ["own"]),
            helper.make_node("Concat", ["mask", "own"], ["real"], axis=1),
            helper.make_node("Where", ["real", "energy", "least"], ["masked"]),
            helper.make_node("Softmax", ["masked"], ["attention"], axis=1),
            helper.make_node("Unsqueeze", ["attention", "second"], ["weights"]),
            helper.make_node("MatMul", ["weights", "present"], ["context3"]),
            helper.make_node("Squeeze", ["context3", "second"], ["context"]),
            helper.make_node("MatMul", ["context", "O"], ["logits"]),
        ],
        [
            tensor("token", "INT64", ("n",)),
            tensor("past", shape=("n", "p", WIDTH)),
            tensor("mask", "BOOL", ("n", "p")),
        ],
        [tensor("logits", shape=("n", len(TOKENS))), tensor("present", shape=("n", "q", WIDTH))],
        _constants(
            "E",
            "O",
            last=([2], np.int64),
            second=([1], np.int64),
            one=([1], np.int64),
            yes=(True, np.bool_),
            least=(-1e9, np.float32),
        ),
    )
    if fades:
        graph.graph.node.insert(0, helper.make_node("Mul", ["past", "half"], ["faded"]))
        graph.graph.node[3].input[0] = "faded"
        graph.graph.initializer.append(constant("half", 0.5, np.float32))
    if alone:
        graph.graph.output[1].CopyFrom(tensor("new", shape=("n", 1, WIDTH)))
    manifest = CACHE.replace("present", "new") if alone else CACHE
    return write(root, name, manifest, {"step.onnx": graph}, characters())
