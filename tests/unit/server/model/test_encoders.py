"""Encoder-decoders of three graphs: what of their manifests fits the graphs, and what does not."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from lockstep_server.engine.loading.manifest_file import parse
from lockstep_server.errors import LoadError
from lockstep_server.model.spec import GraphSignature, GraphTensor, ModelSpec
from lockstep_server.model.step_spec import make_step_spec

FLOATS, IDS = "tensor(float)", "tensor(int64)"
SOURCE, PAST = ("n", "s"), ("n", "p", 4)

MANIFEST = """
task = "translate"
[text]
begin = [5, 6]
[generation]
forced_last = 7
[lengths.source]
max = 40
[lengths.past]
max = 50
[roles]
scores = "logits"
[encoder.inputs.ids]
batch_axis = 0
lengths = {1 = "source"}
[encoder.outputs.vectors]
batch_axis = 0
lengths = {1 = "source"}
[prefill.inputs.begin]
batch_axis = 0
lengths = {1 = "past"}
[prefill.inputs.memory]
batch_axis = 0
lengths = {1 = "source"}
encoder = "vectors"
[prefill.outputs.logits]
batch_axis = 0
lengths = {1 = "past"}
[stepwise.inputs.token]
batch_axis = 0
[stepwise.outputs.logits]
batch_axis = 0
[[stepwise.state]]
name = "past"
input = "past"
output = "present"
prefill = "present"
lengths = {1 = "past"}
grows = true
[[stepwise.state]]
name = "memory"
input = "memory"
prefill = "vectors"
lengths = {1 = "source"}
"""

GRAPHS: dict[str, dict[str, Any]] = {
    "encoder_in": {"ids": (IDS, SOURCE)},
    "encoder_out": {"vectors": (FLOATS, ("n", "s", 4))},
    "prefill_in": {"begin": (IDS, ("n", "b")), "memory": (FLOATS, ("n", "s", 4))},
    "prefill_out": {"logits": (FLOATS, ("n", "b", 9)), "present": (FLOATS, PAST)},
    "step_in": {"token": (IDS, ("n",)), "past": (FLOATS, PAST), "memory": (FLOATS, ("n", "s", 4))},
    "step_out": {"logits": (FLOATS, ("n", 9)), "present": (FLOATS, ("n", "q", 4))},
}


def spec_of(manifest: str = MANIFEST, **changed: dict[str, Any]) -> ModelSpec:
    graphs = {**GRAPHS, **changed}

    def graph(name: str) -> GraphSignature:
        sides = (
            tuple(
                GraphTensor(tensor, kind, shape) for tensor, (kind, shape) in graphs[f"{name}_{side}"].items()
            )
            for side in ("in", "out")
        )
        return GraphSignature(*sides)

    parsed = parse(tomllib.loads(manifest), "m/model.toml")
    return make_step_spec("m", 1, graph("step"), graph("prefill"), parsed, "m/model.toml", graph("encoder"))


def test_the_encoder_reads_the_source_and_may_start_states() -> None:
    spec = spec_of()
    assert spec.prefill is not None
    assert spec.reader.mode == "encoder"
    assert spec.reader.text_input == "ids"
    assert spec.prefill.text_input == "begin"
    assert [tensor.name for tensor in spec.prefill.outputs] == ["logits", "present", "vectors"]
    assert spec.manifest.begin == (5, 6)


def test_a_cache_that_nothing_counts_is_not_padded() -> None:
    counted = MANIFEST + '[stepwise.inputs.mask]\nbatch_axis = 0\ngenerated = "mask"\nof = "past"\n'
    step_in = {**GRAPHS["step_in"], "mask": (IDS, ("n", "p"))}
    assert spec_of().unpadded == ("past",)
    assert spec_of(counted, step_in=step_in).unpadded == ()


def test_outputs_that_only_prompts_have_are_not_computed_in_a_step() -> None:
    """One graph for both returns the memory, which a step carries unchanged."""
    merged = {"logits": (FLOATS, ("n", "b", 9)), "present": (FLOATS, PAST), "kept": (FLOATS, ("n", "s", 4))}
    same = MANIFEST.replace(
        "[prefill.inputs.begin]", '[prefill]\ngraph = "step.onnx"\n[prefill.inputs.begin]'
    )
    same = same.replace('prefill = "vectors"', 'prefill = "kept"')
    spec = spec_of(same, prefill_out=merged, step_out=merged)
    assert [tensor.name for tensor in spec.outputs] == ["logits"]
    assert spec.fetched == ("logits", "present")


MEMORY = '[prefill.inputs.memory]\nbatch_axis = 0\nlengths = {1 = "source"}\nencoder = "vectors"\n'

BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no begin id": (
        {"manifest": MANIFEST.replace("begin = [5, 6]\n", "end = 1\n")},
        "text.begin",
        "decoder_start",
    ),
    "a begin id that is none": (
        {"manifest": MANIFEST.replace("[5, 6]", "[5, 9]")},
        "text.begin",
        "from 0 to 8",
    ),
    "a forced id that is none": (
        {"manifest": MANIFEST.replace("forced_last = 7", "forced_last = 9")},
        "generation.forced_last",
        "9 is no id",
    ),
    "an encoder of another task": (
        {
            "manifest": MANIFEST.replace('"translate"', '"tensor"').replace(
                "[generation]\nforced_last = 7\n", ""
            )
        },
        "encoder",
        "task generate or translate",
    ),
    "rules of another task": (
        {"manifest": MANIFEST.replace('"translate"', '"tensor"')},
        "generation",
        "task generate or translate",
    ),
    "no input takes the encoder's outputs": (
        {
            "manifest": MANIFEST.replace(MEMORY, ""),
            "prefill_in": {"begin": (IDS, ("n", "b"))},
        },
        "prefill.inputs",
        "set encoder to one of vectors",
    ),
    "an output that the encoder has not": (
        {"manifest": MANIFEST.replace('encoder = "vectors"', 'encoder = "states"')},
        "prefill.inputs.memory.encoder",
        "available: vectors",
    ),
    "an output of another type": (
        {"encoder_out": {"vectors": ("tensor(float16)", ("n", "s", 4))}},
        "prefill.inputs.memory.encoder",
        "has datatype FP16, the input has FP32",
    ),
    "an output of other axes": (
        {"manifest": MANIFEST.replace('{1 = "source"}\nencoder', '{1 = "past"}\nencoder')},
        "prefill.inputs.memory",
        "write the same values in both",
    ),
    "an encoder's output in a step": (
        {
            "manifest": MANIFEST.replace(
                "[stepwise.inputs.token]\n", '[stepwise.inputs.token]\nencoder = "vectors"\n'
            )
        },
        "stepwise.inputs.token.encoder",
        "only an input of the prefill graph",
    ),
    "an encoder's output that is generated": (
        {"manifest": MANIFEST.replace('encoder = "vectors"', 'encoder = "vectors"\nvalue = 0')},
        "prefill.inputs.memory.encoder",
        "has value too",
    ),
    "ids of the beginning without their length": (
        {
            "manifest": MANIFEST.replace(
                '[prefill.inputs.begin]\nbatch_axis = 0\nlengths = {1 = "past"}\n',
                "[prefill.inputs.begin]\nbatch_axis = 0\n",
            )
        },
        "prefill.outputs.logits",
        "length 'past' is unknown before the first step",
    ),
    "two inputs for the source": (
        {"encoder_in": {"ids": (IDS, SOURCE), "mask": (IDS, SOURCE)}},
        "encoder.inputs",
        "one input must take the ids",
    ),
    "a state that prompts start from a file": (
        {
            "manifest": MANIFEST.replace('prefill = "vectors"', 'file = "memory.npy"'),
            "prefill_in": {**GRAPHS["prefill_in"], "memory": (FLOATS, ("n", "s", 4))},
        },
        "stepwise.state[memory].file",
        "starts it from a number",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_named_with_the_remedy(case: str) -> None:
    changed, key, words = BAD[case]
    with pytest.raises(LoadError) as caught:
        spec_of(**changed)
    assert str(caught.value).startswith(f"m/model.toml: {key}: ")
    assert words in str(caught.value)
