"""The card of a step-wise face: each thing that does not fit is told with file, key and remedy."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from lockstep_server.engine.loading.manifest_file import parse
from lockstep_server.errors import LoadError
from lockstep_server.model.spec import GraphSignature, GraphTensor, ModelSpec
from lockstep_server.model.step_spec import make_step_spec

FLOATS, IDS = "tensor(float)", "tensor(int64)"

BARE = """
[stepwise]
[[stepwise.state]]
name = "h"
input = "h_in"
output = "h_out"
"""
FULL = """
task = "translate"
[text]
source = "tokenizer.json"
begin = 1
[lengths.source]
max = 40
[roles]
scores = "logits"
[prefill.inputs.source]
batch_axis = 0
lengths = {1 = "source"}
[prefill.outputs.memory0]
batch_axis = 0
lengths = {1 = "source"}
[prefill.outputs.h0]
batch_axis = 0
[stepwise.inputs.token]
batch_axis = 0
[stepwise.outputs.logits]
batch_axis = 0
[[stepwise.state]]
name = "memory"
input = "memory"
prefill = "memory0"
lengths = {1 = "source"}
[[stepwise.state]]
name = "h"
input = "h_in"
output = "h_out"
prefill = "h0"
"""
STEPS_ALONE = """
task = "translate"
[text]
source = "tokenizer.json"
begin = 1
[roles]
scores = "logits"
[stepwise.inputs.token]
batch_axis = 0
[[stepwise.state]]
name = "h"
input = "h_in"
output = "h_out"
"""

Shapes = dict[str, tuple[str, tuple[Any, ...]]]

STEP_IN: Shapes = {"token": (IDS, ("n",)), "h_in": (FLOATS, ("n", 4)), "memory": (FLOATS, ("n", "s", 4))}
STEP_OUT: Shapes = {"h_out": (FLOATS, ("n", 4)), "logits": (FLOATS, ("n", 9))}
PREFILL_IN: Shapes = {"source": (IDS, ("n", "s"))}
PREFILL_OUT: Shapes = {"memory0": (FLOATS, ("n", "s", 4)), "h0": (FLOATS, ("n", 4))}


def graph(inputs: Shapes, outputs: Shapes) -> GraphSignature:
    return GraphSignature(
        *(tuple(GraphTensor(name, *of) for name, of in side.items()) for side in (inputs, outputs))
    )


def made(
    manifest: str = FULL,
    step_in: Shapes = STEP_IN,
    step_out: Shapes = STEP_OUT,
    prefill_in: Shapes | None = PREFILL_IN,
    prefill_out: Shapes = PREFILL_OUT,
) -> ModelSpec:
    first = graph(prefill_in, prefill_out) if prefill_in is not None else None
    parsed = parse(tomllib.loads(manifest), "m/model.toml")
    return make_step_spec("m", 3, graph(step_in, step_out), first, parsed, "m/model.toml")


def bare(step_in: Shapes, step_out: Shapes, manifest: str = BARE) -> ModelSpec:
    return made(manifest, step_in, step_out, None)


X: Shapes = {"x": (FLOATS, ("n", 2)), "h_in": (FLOATS, ("n", 4))}
Y: Shapes = {"y": (FLOATS, ("n", 2)), "h_out": (FLOATS, ("n", 4))}


# --- what fits --------------------------------------------------------------------------------------


def test_states_are_neither_inputs_nor_outputs() -> None:
    spec = made()
    assert [tensor.name for tensor in spec.inputs] == ["token"]
    assert [tensor.name for tensor in spec.outputs] == ["logits"]
    assert [state.spec.name for state in spec.states] == ["memory", "h"]
    assert (spec.name, spec.version, spec.is_stepwise, spec.text_input) == ("m", 3, True, "token")


def test_what_is_carried_unchanged_takes_no_output_away() -> None:
    memory, h = made().states
    assert (memory.spec.output, memory.dynamic_axis, memory.shape) == ("", (1, "source"), ("n", "s", 4))
    assert (h.spec.output, h.dynamic_axis, h.datatype) == ("h_out", None, "FP32")


def test_the_prefill_graph_has_a_card_within() -> None:
    first = made().prefill
    assert first is not None
    assert (first.mode, first.text_input) == ("prefill", "source")
    assert [tensor.name for tensor in first.outputs] == ["memory0", "h0"]
    assert bare(X, Y).prefill is None


def test_a_bare_manifest_has_the_batch_axis_guessed() -> None:
    spec = bare(X, Y)
    assert [tensor.spec.batch_axis for tensor in (*spec.inputs, *spec.outputs)] == [0, 0]


@pytest.mark.parametrize("front", [1, None, "k"])
def test_nothing_is_guessed_where_axis_0_is_not_one_symbol(front: Any) -> None:
    spec = bare(X, {**Y, "y": (FLOATS, (front, 2))})
    assert [tensor.spec.batch_axis for tensor in (*spec.inputs, *spec.outputs)] == [None, None]


def test_nothing_is_guessed_where_the_manifest_speaks() -> None:
    spec = bare(X, Y, BARE + "[stepwise.inputs.x]\nbatch_axis = 0\n")
    assert [tensor.spec.batch_axis for tensor in (*spec.inputs, *spec.outputs)] == [0, None]


# --- what does not ----------------------------------------------------------------------------------


def without(shapes: Shapes, name: str) -> Shapes:
    return {key: of for key, of in shapes.items() if key != name}


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a state whose input the graph has not": (
        {"step_in": without(STEP_IN, "h_in")},
        ("stepwise.state[h].input", "no input 'h_in'", "it has token, memory"),
    ),
    "a state whose output the graph has not": (
        {"step_out": without(STEP_OUT, "h_out")},
        ("stepwise.state[h].output", "no output 'h_out'", "it has logits"),
    ),
    "a state of strings": (
        {"step_in": {**STEP_IN, "h_in": ("tensor(string)", ("n", 4))}},
        ("stepwise.state[h].input", "tensor(string)", "make it a number"),
    ),
    "a state of a type that cannot travel": (
        {"step_in": {**STEP_IN, "h_in": ("seq(tensor(float))", ("n", 4))}},
        ("stepwise.state[h].input", "seq(tensor(float))", "make it a number"),
    ),
    "a batch axis that is not there": (
        {"manifest": FULL.replace('input = "h_in"', 'input = "h_in"\nbatch_axis = 2')},
        ("stepwise.state[h]", "axis 2 is not there", "'h_in' 2 axes"),
    ),
    "a named axis that is not there": (
        {
            "manifest": FULL.replace(
                'memory0"\nlengths = {1 = "source"}', 'memory0"\nlengths = {3 = "source"}'
            )
        },
        ("stepwise.state[memory]", "axis 3 is not there"),
    ),
    "a batch axis of a fixed size": (
        {"step_in": {**STEP_IN, "h_in": (FLOATS, (1, 4))}},
        ("stepwise.state[h]", "axis 0 of 'h_in' is fixed to 1", "export it with a dynamic axis"),
    ),
    "a named axis of a fixed size": (
        {"step_in": {**STEP_IN, "memory": (FLOATS, ("n", 40, 4))}},
        ("stepwise.state[memory]", "axis 1 of 'memory' is fixed to 40", "export it with a dynamic axis"),
    ),
    "an axis that is open": (
        {"step_in": {**STEP_IN, "h_in": (FLOATS, ("n", "d"))}},
        ("stepwise.state[h]", "axis 1 of 'h_in' is open", "fix its size", "name the length"),
    ),
    "an axis that is open and has no name": (
        {"step_in": {**STEP_IN, "h_in": (FLOATS, ("n", None))}},
        ("stepwise.state[h]", "axis 1 of 'h_in' is open"),
    ),
    "a state that comes out in another size": (
        {"step_out": {**STEP_OUT, "h_out": (FLOATS, ("n", 5))}},
        ("stepwise.state[h].output", "axis 1", "is 5", "make them equal"),
    ),
    "a state that comes out with another number of axes": (
        {"step_out": {**STEP_OUT, "h_out": (FLOATS, ("n", 4, 1))}},
        ("stepwise.state[h].output", "3 axes", "make them equal"),
    ),
    "a state that comes out as another type": (
        {"step_out": {**STEP_OUT, "h_out": ("tensor(double)", ("n", 4))}},
        ("stepwise.state[h].output", "tensor(double)", "tensor(float)", "make them equal"),
    ),
    "a start that the prefill graph does not give": (
        {
            "prefill_out": without(PREFILL_OUT, "h0"),
            "manifest": FULL.replace("[prefill.outputs.h0]\nbatch_axis = 0\n", ""),
        },
        ("stepwise.state[h].prefill", "no output 'h0'", "it has memory0"),
    ),
    "a start of another type": (
        {"prefill_out": {**PREFILL_OUT, "h0": ("tensor(double)", ("n", 4))}},
        ("stepwise.state[h].prefill", "FP64", "FP32", "make them equal"),
    ),
    "a start with another batch axis": (
        {
            "prefill_out": {**PREFILL_OUT, "h0": (FLOATS, ("l", "n", 4))},
            "manifest": FULL.replace(
                "[prefill.outputs.h0]\nbatch_axis = 0", "[prefill.outputs.h0]\nbatch_axis = 1"
            ),
        },
        ("stepwise.state[h]", "differ", "prefill.outputs.h0", "write the same in both"),
    ),
    "a start with other lengths": (
        {
            "manifest": FULL.replace(
                '[prefill.outputs.memory0]\nbatch_axis = 0\nlengths = {1 = "source"}',
                "[prefill.outputs.memory0]\nbatch_axis = 0",
            )
        },
        ("stepwise.state[memory]", "differ", "prefill.outputs.memory0", "write the same in both"),
    ),
    "no states": (
        {"manifest": "[stepwise]\n", "prefill_in": None},
        ("stepwise.state", "there is none", "[[stepwise.state]]"),
    ),
    "words of an input that the step graph has not": (
        {"manifest": FULL.replace("stepwise.inputs.token", "stepwise.inputs.word")},
        ("stepwise.inputs.word", "no such tensor", "it has token"),
    ),
    "words of an output that the step graph has not": (
        {"manifest": FULL.replace("stepwise.outputs.logits", "stepwise.outputs.scores")},
        ("stepwise.outputs.scores", "no such tensor", "it has logits"),
    ),
    "a state described as an input": (
        {"manifest": FULL + "[stepwise.inputs.h_in]\nbatch_axis = 0\n"},
        ("stepwise.inputs.h_in", "no such tensor"),
    ),
    "words of an input that the prefill graph has not": (
        {"manifest": FULL.replace("prefill.inputs.source", "prefill.inputs.words")},
        ("prefill.inputs.words", "no such tensor", "it has source"),
    ),
    "words of an output that the prefill graph has not": (
        {"manifest": FULL + "[prefill.outputs.c0]\nbatch_axis = 0\n"},
        ("prefill.outputs.c0", "no such tensor", "it has memory0, h0"),
    ),
    "a prefill graph with two inputs for ids": (
        {"prefill_in": {**PREFILL_IN, "lengths": (IDS, ("n",))}},
        ("prefill.inputs", "one must take the ids", "generated"),
    ),
    "scores that the step graph does not give": (
        {"manifest": FULL.replace('scores = "logits"', 'scores = "scores"')},
        ("roles.scores", "name the step graph's output", "it has logits"),
    ),
    "two inputs for the token": (
        {"step_in": {**STEP_IN, "other": (IDS, ("n",))}},
        ("roles.input", "name the step graph's input that takes the token"),
    ),
    "a translator without prefill": (
        {"manifest": STEPS_ALONE, "prefill_in": None, "step_in": without(STEP_IN, "memory")},
        ("prefill", "is missing", "translator"),
    ),
    "a mask of a length that no state has": (
        {
            "manifest": FULL.replace("[lengths.source]", "[lengths.other]\nmax = 3\n[lengths.source]")
            + '[stepwise.inputs.mask]\nbatch_axis = 0\ngenerated = "mask"\nof = "other"\n',
            "step_in": {**STEP_IN, "mask": ("tensor(bool)", ("n", "o"))},
        },
        ("stepwise.inputs.mask.of", "no state has the length 'other'", "name one of source"),
    ),
    "attention that the step graph does not give": (
        {"manifest": FULL.replace('scores = "logits"', 'scores = "logits"\nattention = "weights"')},
        ("roles.attention", "no output 'weights'"),
    ),
    "an input role that neither graph has": (
        {"manifest": FULL.replace('scores = "logits"', 'scores = "logits"\ninput = "words"')},
        ("roles.input", "neither graph", "'words'"),
    ),
    "a generator whose prompt is followed by nothing": (
        {"manifest": FULL.replace('task = "translate"', 'task = "generate"').replace("begin = 1\n", "")},
        ("text.begin", "is missing", "name the id"),
    ),
    "a translator that begins with nothing": (
        {"manifest": FULL.replace("begin = 1\n", "")},
        ("text.begin", "is missing", "name the id"),
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_fit_is_told_with_file_key_and_remedy(what: str) -> None:
    changed, words = BAD[what]
    with pytest.raises(LoadError) as refused:
        made(**changed)
    told = str(refused.value)
    assert told.startswith("m/model.toml: ")
    for word in words:
        assert word in told
