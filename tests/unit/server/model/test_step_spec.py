"""The spec of a step-wise model: every mismatch is an error with the file, the key and the fix."""

from __future__ import annotations

import tomllib
from typing import Any

import frames
import pytest

from lockstep_server.engine.loading.manifest_file import parse
from lockstep_server.engine.stepwise.batch import token_shape
from lockstep_server.errors import LoadError
from lockstep_server.model.prompts import elements_of, takes_prompt
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
NO_PREFILL = """
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

GROWING = """
[lengths.past]
max = 9
[[stepwise.state]]
name = "past"
input = "past"
output = "present"
lengths = {1 = "past"}
grows = true
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


def spec_of(
    manifest: str = FULL,
    step_in: Shapes = STEP_IN,
    step_out: Shapes = STEP_OUT,
    prefill_in: Shapes | None = PREFILL_IN,
    prefill_out: Shapes = PREFILL_OUT,
) -> ModelSpec:
    prefill = graph(prefill_in, prefill_out) if prefill_in is not None else None
    parsed = parse(tomllib.loads(manifest), "m/model.toml")
    return make_step_spec("m", 3, graph(step_in, step_out), prefill, parsed, "m/model.toml")


def bare(step_in: Shapes, step_out: Shapes, manifest: str = BARE) -> ModelSpec:
    return spec_of(manifest, step_in, step_out, None)


X: Shapes = {"x": (FLOATS, ("n", 2)), "h_in": (FLOATS, ("n", 4))}
Y: Shapes = {"y": (FLOATS, ("n", 2)), "h_out": (FLOATS, ("n", 4))}


# --- matching graphs --------------------------------------------------------------------------------


def test_states_are_neither_inputs_nor_outputs() -> None:
    spec = spec_of()
    assert [tensor.name for tensor in spec.inputs] == ["token"]
    assert [tensor.name for tensor in spec.outputs] == ["logits"]
    assert [state.spec.name for state in spec.states] == ["memory", "h"]
    assert (spec.name, spec.version, spec.is_stepwise, spec.text_input) == ("m", 3, True, "token")


def test_a_state_without_an_output_is_carried_unchanged() -> None:
    memory, h = spec_of().states
    assert (memory.spec.output, memory.dynamic_axis, memory.shape) == ("", (1, "source"), ("n", "s", 4))
    assert (h.spec.output, h.dynamic_axis, h.datatype) == ("h_out", None, "FP32")


def test_the_spec_holds_that_of_the_prefill_graph() -> None:
    prefill = spec_of().prefill
    assert prefill is not None
    assert (prefill.mode, prefill.text_input) == ("prefill", "source")
    assert [tensor.name for tensor in prefill.outputs] == ["memory0", "h0"]
    assert bare(X, Y).prefill is None


def test_a_prefill_graph_that_takes_states_starts_from_their_first_values() -> None:
    """As of one graph that serves both: no section for the caches in and out is needed."""
    manifest = """
task = "generate"
[prefill]
graph = "step.onnx"
[prefill.inputs.ids]
batch_axis = 0
lengths = {1 = "past"}
[prefill.outputs.logits]
batch_axis = 0
lengths = {1 = "past"}
[stepwise]
inputs.ids.batch_axis = 0
outputs.logits.batch_axis = 0
[roles]
scores = "logits"
""" + GROWING.replace("grows", 'prefill = "present"\ninitial = 2\ngrows')
    shapes_in: Shapes = {"ids": (IDS, ("n", "s")), "past": (FLOATS, ("n", "p", 4))}
    shapes_out: Shapes = {"logits": (FLOATS, ("n", "s", 9)), "present": (FLOATS, ("n", "p + s", 4))}
    spec = spec_of(manifest, shapes_in, shapes_out, shapes_in, shapes_out)
    assert spec.prefill is not None
    assert (spec.text_input, spec.prefill.text_input) == ("ids", "ids")
    past, present = spec.prefill.input("past"), spec.prefill.output("present")
    assert past is not None
    assert present is not None
    assert (past.shape, past.spec.value, past.spec.batch_axis) == (("n", 0, 4), 2, 0)
    assert (present.spec.batch_axis, present.spec.lengths) == (0, {1: "past"})


def test_without_tensor_sections_the_batch_axis_is_inferred() -> None:
    spec = bare(X, Y)
    assert [tensor.spec.batch_axis for tensor in (*spec.inputs, *spec.outputs)] == [0, 0]


@pytest.mark.parametrize(
    ("batch_axis", "shape", "taken"),
    [(0, ("n", 1), (-1, 1)), (0, ("n", "s"), (-1, 1)), (1, ("s", "n"), (1, -1))],
)
def test_a_step_takes_one_id_of_each_row(batch_axis: int, shape: Any, taken: Any) -> None:
    manifest = FULL.replace("inputs.token]\nbatch_axis = 0", f"inputs.token]\nbatch_axis = {batch_axis}")
    token = spec_of(manifest, {**STEP_IN, "token": (IDS, shape)}).input("token")
    assert token is not None
    assert tuple(token.wire_shape()) == taken == token_shape(token)


@pytest.mark.parametrize("front", [1, None, "k"])
def test_no_batch_axis_is_inferred_if_axis_0_has_several_symbols(front: Any) -> None:
    spec = bare(X, {**Y, "y": (FLOATS, (front, 2))})
    assert [tensor.spec.batch_axis for tensor in (*spec.inputs, *spec.outputs)] == [None, None]


def test_with_tensor_sections_no_batch_axis_is_inferred() -> None:
    spec = bare(X, Y, BARE + "[stepwise.inputs.x]\nbatch_axis = 0\n")
    assert [tensor.spec.batch_axis for tensor in (*spec.inputs, *spec.outputs)] == [0, None]


# --- mismatches -------------------------------------------------------------------------------------


def without(shapes: Shapes, name: str) -> Shapes:
    return {key: of for key, of in shapes.items() if key != name}


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a state with an unknown input": (
        {"step_in": without(STEP_IN, "h_in")},
        ("stepwise.state[h].input", "no input 'h_in'", "available: token, memory"),
    ),
    "a state with an unknown output": (
        {"step_out": without(STEP_OUT, "h_out")},
        ("stepwise.state[h].output", "no output 'h_out'", "available: logits"),
    ),
    "a state of strings": (
        {"step_in": {**STEP_IN, "h_in": ("tensor(string)", ("n", 4))}},
        ("stepwise.state[h].input", "tensor(string)", "use a numeric tensor"),
    ),
    "a state of an unsupported type": (
        {"step_in": {**STEP_IN, "h_in": ("seq(tensor(float))", ("n", 4))}},
        ("stepwise.state[h].input", "seq(tensor(float))", "use a numeric tensor"),
    ),
    "a batch axis that does not exist": (
        {"manifest": FULL.replace('input = "h_in"', 'input = "h_in"\nbatch_axis = 2')},
        ("stepwise.state[h]", "axis 2 does not exist", "'h_in' has 2 axes"),
    ),
    "a named axis that does not exist": (
        {
            "manifest": FULL.replace(
                'memory0"\nlengths = {1 = "source"}', 'memory0"\nlengths = {3 = "source"}'
            )
        },
        ("stepwise.state[memory]", "axis 3 does not exist"),
    ),
    "a batch axis of a fixed size": (
        {"step_in": {**STEP_IN, "h_in": (FLOATS, (1, 4))}},
        ("stepwise.state[h]", "axis 0 of 'h_in' is fixed to 1", "with a dynamic axis"),
    ),
    "a named axis of a fixed size": (
        {"step_in": {**STEP_IN, "memory": (FLOATS, ("n", 40, 4))}},
        ("stepwise.state[memory]", "axis 1 of 'memory' is fixed to 40", "with a dynamic axis"),
    ),
    "a dynamic axis without a length": (
        {"step_in": {**STEP_IN, "h_in": (FLOATS, ("n", "d"))}},
        ("stepwise.state[h]", "axis 1 of 'h_in' is dynamic", "fix its size", "name its length"),
    ),
    "a dynamic axis without a symbol and a length": (
        {"step_in": {**STEP_IN, "h_in": (FLOATS, ("n", None))}},
        ("stepwise.state[h]", "axis 1 of 'h_in' is dynamic"),
    ),
    "a state with another size after a step": (
        {"step_out": {**STEP_OUT, "h_out": (FLOATS, ("n", 5))}},
        ("stepwise.state[h].output", "axis 1", "is 5", "make them equal"),
    ),
    "a state with another number of axes after a step": (
        {"step_out": {**STEP_OUT, "h_out": (FLOATS, ("n", 4, 1))}},
        ("stepwise.state[h].output", "3 axes", "make them equal"),
    ),
    "a state with another type after a step": (
        {"step_out": {**STEP_OUT, "h_out": ("tensor(double)", ("n", 4))}},
        ("stepwise.state[h].output", "tensor(double)", "tensor(float)", "make them equal"),
    ),
    "a state with an unknown prefill output": (
        {
            "prefill_out": without(PREFILL_OUT, "h0"),
            "manifest": FULL.replace("[prefill.outputs.h0]\nbatch_axis = 0\n", ""),
        },
        ("stepwise.state[h].prefill", "no output 'h0'", "available: memory0"),
    ),
    "a prefill output of another type": (
        {"prefill_out": {**PREFILL_OUT, "h0": ("tensor(double)", ("n", 4))}},
        ("stepwise.state[h].prefill", "FP64", "FP32", "make them equal"),
    ),
    "a prefill output with another batch axis": (
        {
            "prefill_out": {**PREFILL_OUT, "h0": (FLOATS, ("l", "n", 4))},
            "manifest": FULL.replace(
                "[prefill.outputs.h0]\nbatch_axis = 0", "[prefill.outputs.h0]\nbatch_axis = 1"
            ),
        },
        ("stepwise.state[h]", "differ", "prefill.outputs.h0", "write the same values in both"),
    ),
    "a prefill output with other lengths": (
        {
            "manifest": FULL.replace(
                '[prefill.outputs.memory0]\nbatch_axis = 0\nlengths = {1 = "source"}',
                "[prefill.outputs.memory0]\nbatch_axis = 0",
            )
        },
        ("stepwise.state[memory]", "differ", "prefill.outputs.memory0", "write the same values in both"),
    ),
    "no states": (
        {"manifest": "[stepwise]\n", "prefill_in": None},
        ("stepwise.state", "missing", "[[stepwise.state]]"),
    ),
    "an unknown input of the step graph": (
        {"manifest": FULL.replace("stepwise.inputs.token", "stepwise.inputs.word")},
        ("stepwise.inputs.word", "no such tensor", "available: token"),
    ),
    "an unknown output of the step graph": (
        {"manifest": FULL.replace("stepwise.outputs.logits", "stepwise.outputs.scores")},
        ("stepwise.outputs.scores", "no such tensor", "available: logits"),
    ),
    "a state described as an input": (
        {"manifest": FULL + "[stepwise.inputs.h_in]\nbatch_axis = 0\n"},
        ("stepwise.inputs.h_in", "no such tensor"),
    ),
    "an unknown input of the prefill graph": (
        {"manifest": FULL.replace("prefill.inputs.source", "prefill.inputs.words")},
        ("prefill.inputs.words", "no such tensor", "available: source"),
    ),
    "an unknown output of the prefill graph": (
        {"manifest": FULL + "[prefill.outputs.c0]\nbatch_axis = 0\n"},
        ("prefill.outputs.c0", "no such tensor", "available: memory0, h0"),
    ),
    "a prefill graph with two inputs for the ids": (
        {"prefill_in": {**PREFILL_IN, "lengths": (IDS, ("n",))}},
        ("prefill.inputs", "exactly one input must take the token ids", "generated"),
    ),
    "scores that are no output of the step graph": (
        {"manifest": FULL.replace('scores = "logits"', 'scores = "scores"')},
        ("roles.scores", "name the step graph's output", "available: logits"),
    ),
    "two inputs for the token": (
        {"step_in": {**STEP_IN, "other": (IDS, ("n",))}},
        ("roles.input", "name the step graph's input that takes the token"),
    ),
    "a translator without prefill": (
        {"manifest": NO_PREFILL, "prefill_in": None, "step_in": without(STEP_IN, "memory")},
        ("prefill", "missing", "task translate needs a prefill graph"),
    ),
    "a mask from a length that no state has": (
        {
            "manifest": FULL.replace("[lengths.source]", "[lengths.other]\nmax = 3\n[lengths.source]")
            + '[stepwise.inputs.mask]\nbatch_axis = 0\ngenerated = "mask"\nof = "other"\n',
            "step_in": {**STEP_IN, "mask": ("tensor(bool)", ("n", "o"))},
        },
        ("stepwise.inputs.mask.of", "no state has the length 'other'", "available: source"),
    ),
    "attention that is no output of the step graph": (
        {"manifest": FULL.replace('scores = "logits"', 'scores = "logits"\nattention = "weights"')},
        ("roles.attention", "no output 'weights'"),
    ),
    "an input role that no graph has": (
        {"manifest": FULL.replace('scores = "logits"', 'scores = "logits"\ninput = "words"')},
        ("roles.input", "no graph has an input", "'words'"),
    ),
    "a generator without a begin id or prefill scores": (
        {"manifest": FULL.replace('task = "translate"', 'task = "generate"').replace("begin = 1\n", "")},
        ("text.begin", "missing", "name the id"),
    ),
    "a begin id outside the range": (
        {
            "manifest": FULL.replace("begin = 1", "begin = 9").replace(
                "[stepwise.inputs.token]\n", "[stepwise.inputs.token]\nrange = [0, 9]\n"
            )
        },
        ("text.begin", "9 is no id of input 'token'", "from 0 to 8"),
    ),
    "positions along a length that does not grow": (
        {
            "manifest": FULL
            + '[stepwise.inputs.places]\nbatch_axis = 0\ngenerated = "positions"\nof = "source"\n',
            "step_in": {**STEP_IN, "places": (IDS, ("n",))},
        },
        ("stepwise.inputs.places.of", "no state grows along 'source'"),
    ),
    "a mask with a new element over a memory": (
        {
            "manifest": FULL
            + '[stepwise.inputs.mask]\nbatch_axis = 0\ngenerated = "mask"\nof = "source"\nnew = true\n',
            "step_in": {**STEP_IN, "mask": (IDS, ("n", "s"))},
        },
        ("stepwise.inputs.mask.of", "no state grows along 'source'"),
    ),
    "positions that are the same for all rows of a step": (
        {
            "manifest": GROWING + '[stepwise.inputs.places]\ngenerated = "positions"\nof = "past"\n',
            "step_in": {"past": (FLOATS, ("n", "p", 4)), "places": (IDS, (1,))},
            "step_out": {"present": (FLOATS, ("n", "q", 4))},
            "prefill_in": None,
        },
        ("stepwise.inputs.places.batch_axis", "positions [1] differ between the rows"),
    ),
    "a constant along a length that no state has": (
        {
            "manifest": FULL.replace("[lengths.source]", "[lengths.other]\nmax = 3\n[lengths.source]")
            + '[stepwise.inputs.c]\nbatch_axis = 0\nlengths = {1 = "other"}\nvalue = 0\n',
            "step_in": {**STEP_IN, "c": (FLOATS, ("n", "o"))},
        },
        ("stepwise.inputs.c.lengths", "no state has the length 'other'", "available: source"),
    ),
    "a step that takes several ids": (
        {"step_in": {**STEP_IN, "token": (IDS, ("n", 2))}},
        ("stepwise.inputs.token", "shape [n, 2]", "make it [batch], [batch, 1] or [batch, sequence]"),
    ),
    "scores of four axes": (
        {"step_out": {**STEP_OUT, "logits": (FLOATS, ("n", 1, 1, 9))}},
        ("stepwise.outputs.logits", "shape [n, 1, 1, 9]", "[batch, sequence, vocabulary]"),
    ),
    "scores whose last axis has the rows": (
        {"manifest": FULL.replace("logits]\nbatch_axis = 0", "logits]\nbatch_axis = 1")}
        | {"step_out": {**STEP_OUT, "logits": (FLOATS, (9, "n"))}},
        ("stepwise.outputs.logits", "shape [9, n]", "make it [batch, vocabulary]"),
    ),
    "prefill scores at every position without their length": (
        {
            "manifest": FULL + "[prefill.outputs.logits]\nbatch_axis = 0\n",
            "prefill_out": {**PREFILL_OUT, "logits": (FLOATS, ("n", "s", 9))},
        },
        ("prefill.outputs.logits.lengths", "axis 1 of [n, s, 9]", '{1 = "source"}'),
    ),
    "an input of a step that nothing feeds": (
        {
            "manifest": FULL.replace('scores = "logits"', 'scores = "logits"\ninput = "token"'),
            "step_in": {**STEP_IN, "speaker": (IDS, ("n",))},
        },
        ("stepwise.inputs.speaker", "feeds the ids 'token' only", "set generated or value"),
    ),
    "a position of scores that have none": (
        {"manifest": FULL.replace("outputs.logits]\n", "outputs.logits]\nposition = 0\n")},
        ("stepwise.outputs.logits.position", "has no axis of positions"),
    ),
    "a position that scores do not have": (
        {
            "manifest": FULL.replace("outputs.logits]\n", "outputs.logits]\nposition = 2\n"),
            "step_out": {**STEP_OUT, "logits": (FLOATS, ("n", 2, 9))},
        },
        ("stepwise.outputs.logits.position", "has no position 2", "use -2 to 1"),
    ),
    "a translator without a begin id": (
        {"manifest": FULL.replace("begin = 1\n", "")},
        ("text.begin", "missing", "name the id"),
    ),
}


PROMPT, STEP_X = frames.PROMPTED, "[stepwise.inputs.x]\nbatch_axis = 0\n"
FRAME_IN: Shapes = {"x": (FLOATS, ("n", 3)), "h_in": (FLOATS, (1, "n", 4))}
FRAME_OUT: Shapes = {"y": (FLOATS, ("n", 4)), "h_out": (FLOATS, (1, "n", 4))}
PROMPT_IN: Shapes = {"frames": (FLOATS, ("n", "t", 3)), "lengths": (IDS, ("n",))}
PROMPT_OUT: Shapes = {"y": (FLOATS, ("n", 4)), "h0": (FLOATS, (1, "n", 4))}
BAD_PROMPTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an element of another type": (
        {"prefill_in": {**PROMPT_IN, "frames": ("tensor(double)", ("n", "t", 3))}},
        ("prefill.inputs.frames", "FP64, but the step's input 'x' is FP32", "make them equal"),
    ),
    "an element of another width": (
        {"prefill_in": {**PROMPT_IN, "frames": (FLOATS, ("n", "t", 5))}},
        ("prefill.inputs.frames", "its elements are [5], but a step takes [3] of 'x'", "make them equal"),
    ),
    "an input that is no sequence": (
        {
            "manifest": PROMPT.replace('lengths = {1 = "frames"}\n', "", 1),
            "prefill_in": {**PROMPT_IN, "frames": (FLOATS, ("n", 3))},
        },
        (
            "prefill.inputs.frames",
            "is no sequence of a step's elements",
            "name the axis of the elements in lengths",
        ),
    ),
    "an input that no step has": (
        {
            "manifest": PROMPT + '[prefill.inputs.z]\nbatch_axis = 0\nlengths = {1 = "frames"}\n',
            "prefill_in": {**PROMPT_IN, "z": (FLOATS, ("n", "t", 3))},
        },
        ("prefill.inputs.frames", "no input of a step has this name", "(x)"),
    ),
    "an input of a step that a prompt has not": (
        {
            "manifest": PROMPT.replace("inputs.frames", "inputs.x") + "[stepwise.inputs.z]\nbatch_axis = 0\n",
            "step_in": {**FRAME_IN, "z": (FLOATS, ("n", 2))},
            "prefill_in": {"x": PROMPT_IN["frames"], "lengths": PROMPT_IN["lengths"]},
        },
        ("prefill.inputs", "none takes the elements of the step's input 'z'", "remove [prefill]"),
    ),
    "no answer": (
        {
            "manifest": PROMPT.replace("[prefill.outputs.y]\nbatch_axis = 0\n", ""),
            "prefill_out": without(PROMPT_OUT, "y"),
        },
        ("prefill.outputs.y", "no such output", "return that of the last element"),
    ),
    "another answer": (
        {"prefill_out": {**PROMPT_OUT, "y": (FLOATS, ("n", "t", 4))}},
        ("prefill.outputs.y", "is not as that of a step, FP32 [n, 4]", "return that of the last element"),
    ),
    "steps that take chunks": (
        {
            "manifest": PROMPT.replace(STEP_X, STEP_X + 'lengths = {1 = "frames"}\n'),
            "step_in": {**FRAME_IN, "x": (FLOATS, ("n", "t", 3))},
        },
        ("prefill", "a step takes a chunk or a window", "remove [prefill]"),
    ),
}


def test_a_prompt_of_frames_is_read_by_the_prefill_graph() -> None:
    spec = spec_of(PROMPT, FRAME_IN, FRAME_OUT, PROMPT_IN, PROMPT_OUT)
    assert takes_prompt(spec)
    ((prompt, step, axis),) = elements_of(spec)
    assert (prompt.name, step.name, axis) == ("frames", "x", 1)
    assert not takes_prompt(spec_of())


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_a_prefill_graph_that_does_not_read_elements_of_steps_is_an_error(case: str) -> None:
    changed, messages = BAD_PROMPTS[case]
    tensors = {"step_in": FRAME_IN, "step_out": FRAME_OUT, "prefill_in": PROMPT_IN, "prefill_out": PROMPT_OUT}
    with pytest.raises(LoadError) as caught:
        spec_of(**{"manifest": PROMPT, **tensors, **changed})
    assert str(caught.value).startswith("m/model.toml: ")
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.parametrize("case", BAD)
def test_a_mismatch_is_an_error_with_the_file_the_key_and_the_fix(case: str) -> None:
    changed, messages = BAD[case]
    with pytest.raises(LoadError) as caught:
        spec_of(**changed)
    error = str(caught.value)
    assert error.startswith("m/model.toml: ")
    for message in messages:
        assert message in error
