"""`model.toml`: a valid file parses to its content; an error names the file, the key and the fix."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest

from lockstep_server.durations import LONGEST_S
from lockstep_server.engine.loading import manifest_file
from lockstep_server.errors import LoadError
from lockstep_server.model.manifest import (
    BatchingSection,
    InstancesSection,
    LengthSection,
    Manifest,
    PrefillSection,
    RolesSection,
    StateSection,
    StepwiseSection,
    TensorSection,
    TextSection,
)

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = """
task = "translate"
labels = ["a", "b"]
default_version = 2
fixed_shape = true
tolerance = 0.5
[text]
source = "source.json"
target = "target.json"
begin = 1
end = [2, 3]
[lengths.source]
max = 100
[lengths.target]
max = 50
[inputs.tokens]
batch_axis = 1
lengths = {0 = "source"}
pad = 3
range = [0, 500]
[inputs.mask]
batch_axis = 0
lengths = {1 = "source"}
generated = "mask"
of = "source"
real = false
[inputs.sizes]
batch_axis = 0
generated = "lengths"
of = "target"
[outputs.attention]
batch_axis = 0
lengths = {2 = "source", 3 = "target"}
[roles]
input = "tokens"
scores = "logits"
activation = "none"
vector = "vector"
attention = "attention"
[batching]
max_rows = 32
max_padded_elements = 1000
max_queue_ms = 250
[instances]
count = 2
threads = 3
[prefill]
graph = "encoder.onnx"
[prefill.inputs.tokens]
batch_axis = 0
lengths = {1 = "source"}
[prefill.outputs.memory0]
batch_axis = 0
lengths = {1 = "source"}
[stepwise]
graph = "decoder.onnx"
max_sequences = 16
max_tokens = 70
max_tokens_limit = 700
idle_timeout_s = 5
[stepwise.inputs.token]
batch_axis = 0
[stepwise.outputs.logits]
batch_axis = 0
[[stepwise.state]]
name = "h"
input = "h_in"
output = "h_out"
initial = 0.25
batch_axis = 1
[[stepwise.state]]
name = "memory"
input = "memory_in"
output = "memory_out"
prefill = "memory0"
lengths = {1 = "source"}
grows = true
"""


def parse(text: str) -> Manifest:
    return manifest_file.parse(tomllib.loads(text), "here/model.toml")


def test_a_manifest_with_every_key_parses_to_its_content() -> None:
    assert parse(WHOLE) == Manifest(
        task="translate",
        labels=("a", "b"),
        default_version=2,
        fixed_shape=True,
        tolerance=0.5,
        text=TextSection("source.json", "target.json", (1,), (2, 3)),
        lengths={"source": LengthSection(100), "target": LengthSection(50)},
        inputs={
            "tokens": TensorSection(1, {0: "source"}, 3, (0, 500)),
            "mask": TensorSection(0, {1: "source"}, generated="mask", of="source", real=False),
            "sizes": TensorSection(0, generated="lengths", of="target"),
        },
        outputs={"attention": TensorSection(0, {2: "source", 3: "target"})},
        roles=RolesSection("tokens", "logits", "none", "vector", "attention"),
        batching=BatchingSection(32, 1000, 250.0),
        instances=InstancesSection(2, 3),
        prefill=PrefillSection(
            "encoder.onnx",
            {"tokens": TensorSection(0, {1: "source"})},
            {"memory0": TensorSection(0, {1: "source"})},
        ),
        stepwise=StepwiseSection(
            "decoder.onnx",
            16,
            70,
            700,
            5.0,
            {"token": TensorSection(0)},
            {"logits": TensorSection(0)},
            (
                StateSection("h", "h_in", "h_out", initial=0.25, batch_axis=1),
                StateSection(
                    "memory", "memory_in", "memory_out", "memory0", lengths={1: "source"}, grows=True
                ),
            ),
        ),
        from_file=True,
    )


def test_an_empty_file_gives_the_defaults() -> None:
    assert parse("") == Manifest(from_file=True)
    assert Manifest().from_file is False


WRONG: dict[str, tuple[str, str, str]] = {
    # case: (the manifest, the key in the error, a part of its message)
    "unknown key": ("max_rows = 3", "max_rows", "unknown key"),
    "unknown key, close": ("[batching]\nmax_row = 3", "batching.max_row", "did you mean 'max_rows'?"),
    "unknown key, far": ("[batching]\nzzz = 3", "batching.zzz", "available here: max_padded_elements"),
    "unknown table": ("[batchin]\nmax_rows = 3", "batchin", "did you mean 'batching'?"),
    "unknown key of an input": ("[inputs.x]\npadding = 0", "inputs.x.padding", "unknown key"),
    "unknown key of a state": (
        '[[stepwise.state]]\nname="h"\ninput="i"\nout="o"',
        "stepwise.state[0].out",
        "output",
    ),
    "task": ('task = "guess"', "task", "use one of tensor, classify"),
    "empty task": ('task = ""', "task", "non-empty string"),
    "labels with a number": ('labels = ["a", 1]', "labels", "list of strings"),
    "labels as a string": ('labels = "negative"', "labels", "list"),
    "labels as a number": ("labels = 5", "labels", "list"),
    "default_version": ("default_version = 0", "default_version", "1 or more"),
    "a version as a string": ('default_version = "1"', "default_version", "whole number"),
    "fixed_shape": ('fixed_shape = "no"', "fixed_shape", "true or false"),
    "tolerance": ("tolerance = 0", "tolerance", "above 0"),
    "no tokenizer": ("[text]\nend = 3", "text.source", 'source = "tokenizer.json"'),
    "an absolute path": ('[text]\nsource = "/etc/passwd"', "text.source", "relative"),
    "a URL as path": ('[text]\nsource = "https://x/y"', "text.source", "relative"),
    "a negative id": ('[text]\nsource = "t"\nend = -1', "text.end", "0 or more"),
    "no max": ("[lengths.words]", "lengths.words.max", "missing"),
    "a max of 0": ("[lengths.words]\nmax = 0", "lengths.words.max", "1 or more"),
    "lengths is not a table": ("lengths = 3", "lengths", "[lengths]"),
    "unknown length": (
        '[inputs.x]\nbatch_axis = 0\nlengths = {1 = "words"}',
        "inputs.x.lengths",
        "[lengths.words]",
    ),
    "an axis that is not a number": (
        '[inputs.x]\nlengths = {one = "words"}',
        "inputs.x.lengths",
        '{1 = "words"}',
    ),
    "lengths of a tensor is not a table": (
        '[inputs.x]\nlengths = "words"',
        "inputs.x.lengths",
        '{1 = "words"}',
    ),
    "batch axis with a named length": (
        '[lengths.w]\nmax = 3\n[inputs.x]\nbatch_axis = 1\nlengths = {1 = "w"}',
        "inputs.x.lengths",
        "axis 1 is the batch axis",
    ),
    "no batch axis": (
        '[lengths.w]\nmax = 3\n[outputs.y]\nlengths = {1 = "w"}',
        "outputs.y.batch_axis",
        "missing",
    ),
    "a negative axis": ("[inputs.x]\nbatch_axis = -1", "inputs.x.batch_axis", "0 or more"),
    "an empty range": ("[inputs.x]\nrange = [5, 5]", "inputs.x.range", "FIRST below END"),
    "a range with one number": ("[inputs.x]\nrange = [5]", "inputs.x.range", "[FIRST, END]"),
    "a padding that is a string": ('[inputs.x]\npad = "0"', "inputs.x.pad", "use a number"),
    "generated": ('[inputs.x]\ngenerated = "masks"', "inputs.x.generated", "mask, lengths"),
    "generated without a length": ('[inputs.x]\ngenerated = "mask"', "inputs.x.of", "missing"),
    "generated from an unknown length": (
        '[inputs.x]\ngenerated = "mask"\nof = "w"',
        "inputs.x.of",
        "[lengths.w]",
    ),
    "a generated output": (
        '[lengths.w]\nmax = 3\n[outputs.y]\ngenerated = "mask"\nof = "w"',
        "outputs.y.generated",
        "only an input",
    ),
    "activation": ('[roles]\nactivation = "tanh"', "roles.activation", "softmax, sigmoid, none"),
    "max_rows": ("[batching]\nmax_rows = 2.5", "batching.max_rows", "whole number"),
    "true is not a number": ("[batching]\nmax_rows = true", "batching.max_rows", "whole number"),
    "max_queue_ms": ("[batching]\nmax_queue_ms = -1", "batching.max_queue_ms", "above 0"),
    "count": ("[instances]\ncount = 0", "instances.count", "1 or more"),
    "a state without a name": ('[[stepwise.state]]\ninput = "h"', "stepwise.state[0].name", "missing"),
    "states that are not an array": ('[stepwise.state]\nname = "h"', "stepwise.state", "[[stepwise.state]]"),
    "two states with one name": (
        '[[stepwise.state]]\nname="h"\ninput="a"\n[[stepwise.state]]\nname="h"\ninput="b"',
        "stepwise.state[h].name",
        "another state has the same name 'h'",
    ),
    "two states with one input": (
        '[[stepwise.state]]\nname="h"\ninput="a"\n[[stepwise.state]]\nname="c"\ninput="a"',
        "stepwise.state[c].input",
        "another state has the same input 'a'",
    ),
    "a state with prefill but no prefill graph": (
        '[[stepwise.state]]\nname="h"\ninput="a"\nprefill="p"',
        "stepwise.state[h].prefill",
        "add [prefill]",
    ),
    "a state that grows without a named length": (
        '[[stepwise.state]]\nname="h"\ninput="a"\ngrows=true',
        "stepwise.state[h].grows",
        "add lengths",
    ),
    "a state that varies along two axes": (
        '[lengths.a]\nmax=9\n[[stepwise.state]]\nname="h"\ninput="i"\nlengths={1="a",2="a"}',
        "stepwise.state[h].lengths",
        "one axis at most",
    ),
    "a position of no scores": ("[outputs.y]\nposition = 0", "outputs.y.position", "roles.scores"),
    "no ids": ("[text]\nbegin = []", "text.begin", "a list of ids"),
    "an id that is a fraction": ("[text]\nend = [1, 2.5]", "text.end", "whole number"),
    "a state from a file and from a number": (
        '[[stepwise.state]]\nname="h"\ninput="i"\nfile="h.npy"\ninitial=1',
        "stepwise.state[h].file",
        "has initial too",
    ),
    "a state with a named length that neither grows nor is prefilled": (
        '[lengths.a]\nmax=9\n[[stepwise.state]]\nname="h"\ninput="i"\nlengths={1="a"}',
        "stepwise.state[h].prefill",
        "needs prefill, file, or grows = true",
    ),
    "a state that grows without an output": (
        '[lengths.a]\nmax=9\n[[stepwise.state]]\nname="h"\ninput="i"\nlengths={1="a"}\ngrows=true',
        "stepwise.state[h].output",
        "needs an output",
    ),
    "an infinite timeout": ("[stepwise]\nidle_timeout_s = inf", "stepwise.idle_timeout_s", "finite"),
    "a timeout that is no number": ("[stepwise]\nidle_timeout_s = nan", "stepwise.idle_timeout_s", "finite"),
    "an infinite queue": ("[batching]\nmax_queue_ms = inf", "batching.max_queue_ms", "finite"),
    "a count that no message can hold": (f"[batching]\nmax_rows = {10**30}", "batching.max_rows", "at most"),
    "a length that no message can hold": (f"[lengths.a]\nmax = {10**30}", "lengths.a.max", "at most"),
    "a number that no float can hold": (f"[inputs.x]\npad = 1{'0' * 400}", "inputs.x.pad", "2^53"),
    "ids that no tensor can hold": (f"[inputs.x]\nrange = [0, {2**70}]", "inputs.x.range", "64-bit"),
    "more threads than any machine has": (
        "[instances]\nthreads = 1000000",
        "instances.threads",
        "at most 256",
    ),
    "classify without scores": ('task = "classify"\nlabels = ["a"]', "roles.scores", "missing"),
    "classify without labels": ('task = "classify"\n[roles]\nscores = "y"', "labels", "missing"),
    "token-classification without labels": (
        'task = "token-classification"\n[roles]\nscores = "y"',
        "labels",
        "missing",
    ),
    "an infinite tolerance": ("tolerance = inf", "tolerance", "finite number above 0"),
    "a tolerance that is no number": ("tolerance = nan", "tolerance", "finite number above 0"),
    "a range that is no number": ("[inputs.x]\nrange = [0, nan]", "inputs.x.range", "two whole numbers"),
    "an infinite range": ("[inputs.x]\nrange = [0, inf]", "inputs.x.range", "two whole numbers"),
    "a range with fractions": ("[inputs.x]\nrange = [0, 2.5]", "inputs.x.range", "two whole numbers"),
    "a mask that is neither true nor false": (
        "[inputs.x]\nreal = -10000.0",
        "inputs.x.real",
        "true or false",
    ),
    "padding that a double rounds": ("[inputs.x]\npad = 9007199254740993", "inputs.x.pad", "2^53"),
    "a pooling of another name": (
        'roles.vector = "y"\n[outputs.y]\npooling = "sum"',
        "outputs.y.pooling",
        "mean, first, last, max",
    ),
    "pooling of an output that is not the vector": (
        '[outputs.y]\npooling = "mean"',
        "outputs.y.pooling",
        "only the output of roles.vector",
    ),
    "an input that is normalised": (
        '[inputs.y]\nnormalise = true\n[roles]\nvector = "y"',
        "inputs.y.normalise",
        "only the output",
    ),
    "a step with zeros": (
        '[lengths.a]\nmax=9\n[stepwise.inputs.x]\ngenerated="zeros"\nof="a"',
        "stepwise.inputs.x.generated",
        '"mask", "lengths" or "positions"',
    ),
    "a constant that is no number": ('[inputs.x]\nvalue = "a"', "inputs.x.value", "use a number"),
    "a constant output": ("[outputs.x]\nvalue = 1", "outputs.x.value", "only an input"),
    "sizes of an output": ("[outputs.x]\nsizes = {1 = 1}", "outputs.x.sizes", "only an input"),
    "a constant that is generated": (
        '[lengths.a]\nmax=9\n[inputs.x]\nvalue = 0\ngenerated="zeros"\nof="a"',
        "inputs.x.value",
        "generated too",
    ),
    "constant ids": ('[roles]\ninput = "x"\n[inputs.x]\nvalue = 0', "inputs.x.value", "roles.input too"),
    "a size of the batch axis": (
        "[inputs.x]\nbatch_axis = 1\nsizes = {1 = 1}",
        "inputs.x.sizes",
        "axis 1 varies",
    ),
    "a negative size": ("[inputs.x]\nsizes = {1 = -1}", "inputs.x.sizes", "0 or more"),
    "a size of no axis": ("[inputs.x]\nsizes = {x = 1}", "inputs.x.sizes", "not a number"),
    "a mask of a whole text with a new element": (
        '[lengths.a]\nmax=9\n[inputs.x]\ngenerated="mask"\nof="a"\nnew=true',
        "inputs.x.new",
        "only the generated mask of a step",
    ),
    "encode without a vector": ('task = "encode"', "roles.vector", "missing"),
    "generate without steps": ('task = "generate"', "stepwise", "step-wise form"),
    "translate without steps": ('task = "translate"', "stepwise", "step-wise form"),
}


def test_a_duration_of_more_than_a_year_counts_as_a_year() -> None:
    manifest = parse("[stepwise]\nidle_timeout_s = 1e300\n[batching]\nmax_queue_ms = 1e300")
    assert manifest.stepwise is not None
    assert manifest.stepwise.idle_timeout_s == LONGEST_S
    assert manifest.batching.max_queue_ms == LONGEST_S * 1000


@pytest.mark.parametrize("wrong", WRONG)
def test_an_error_names_the_file_the_key_and_the_fix(wrong: str) -> None:
    text, key, message = WRONG[wrong]
    with pytest.raises(LoadError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"here/model.toml: {key}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"task ? 1", b"\xff\xfe", b"a = 1\na = 2"])
def test_an_error_for_invalid_toml_names_the_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.toml"
    file.write_bytes(content)
    with pytest.raises(LoadError, match="not valid TOML") as caught:
        manifest_file.read(file)
    assert str(file) in str(caught.value)


FRAMES = """
[lengths]
frames = "ceil(samples / 320)"
[lengths.samples]
max = 1000
[inputs.x]
batch_axis = 0
lengths = {1 = "samples"}
[outputs.y]
batch_axis = 0
lengths = {1 = "frames"}
[outputs.z]
batch_axis = 0
lengths = {1 = "frames // 2"}
"""


def test_the_length_of_an_output_may_be_computed() -> None:
    manifest = manifest_file.parse(tomllib.loads(FRAMES))
    assert manifest.lengths == {"samples": LengthSection(1000)}
    assert manifest.length("samples", {"samples": 1000}) == 1000
    assert manifest.length("frames", {"samples": 1000}) == 4
    assert manifest.length("frames // 2", {"samples": 1000}) == 2
    assert manifest.sources("frames // 2") == {"samples"}


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ('"ceil(samples / 320)"', '"ceil(samples ** 2)"', "lengths.frames", "ceil(samples / 320)"),
        ('"ceil(samples / 320)"', '"ceil(words / 320)"', "lengths.frames", "available: samples"),
        ('{1 = "samples"}', '{1 = "frames"}', "inputs.x.lengths", "only an output's"),
        ('{1 = "samples"}', '{1 = "samples + 1"}', "inputs.x.lengths", "unknown length"),
        ('"frames // 2"', '"frames ** 2"', "outputs.z.lengths", "in a formula, use"),
        ('"frames // 2"', '"words // 2"', "the length 'words // 2'", "no length 'words'"),
    ],
)
def test_a_formula_that_cannot_be_computed_is_an_error(old: str, new: str, key: str, words: str) -> None:
    assert old in FRAMES
    with pytest.raises(LoadError) as raised:
        manifest_file.parse(tomllib.loads(FRAMES.replace(old, new)))
    assert key in str(raised.value)
    assert words in str(raised.value)
