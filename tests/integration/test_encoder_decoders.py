"""Stock encoder-decoders with manifests of their own answer what transformers' `model.generate` does.

Rules of scores and beams are here; `test_adopted.py` has adopted ones, alone and among streams that come
and go.
"""

from __future__ import annotations

import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.harness import Served, serve
from patience import PATIENCE_S

from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "encoder_decoders"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
TOKENS = 20

IDS = {
    "marian": "[text]\nbegin = 47\nend = 0\n[generation]\nforced_last = 0\nforbidden = 47\n",
    "t5": "[text]\nbegin = 0\nend = [1, 9]\n"
    "[generation]\nforbidden = [20, 21]\nforbidden_first = [1, 9, 30]\n",
    "bart": "[text]\nbegin = 2\nend = 2\n[generation]\nforced_first = 0\nforced_last = 2\n",
}
"""What generation_config.json says."""

MANIFEST = """
task = "{task}"
{ids}
[lengths.source]
max = 64
[lengths.past]
max = 64
[roles]
input = "input_ids"
scores = "logits"
[encoder]
graph = "encoder_model.onnx"
[encoder.inputs.input_ids]
batch_axis = 0
lengths = {{1 = "source"}}
range = [0, 48]
[encoder.inputs.attention_mask]
batch_axis = 0
lengths = {{1 = "source"}}
generated = "mask"
of = "source"
[encoder.outputs.last_hidden_state]
batch_axis = 0
lengths = {{1 = "source"}}
[prefill]
graph = "{first}"
[prefill.inputs.input_ids]
batch_axis = 0
lengths = {{1 = "past"}}
[prefill.inputs.encoder_attention_mask]
batch_axis = 0
lengths = {{1 = "source"}}
generated = "mask"
of = "source"
[prefill.inputs.encoder_hidden_states]
batch_axis = 0
lengths = {{1 = "source"}}
encoder = "last_hidden_state"
[prefill.outputs.logits]
batch_axis = 0
lengths = {{1 = "past"}}
[stepwise]
graph = "{step}"
max_sequences = 32
[stepwise.inputs.input_ids]
batch_axis = 0
range = [0, 48]
[stepwise.inputs.encoder_attention_mask]
batch_axis = 0
generated = "mask"
of = "source"
[stepwise.outputs.logits]
batch_axis = 0
{merged}
"""

MERGED = """
[prefill.inputs.use_cache_branch]
value = false
[stepwise.inputs.use_cache_branch]
value = true
[stepwise.inputs.encoder_hidden_states]
batch_axis = 0
value = 0
sizes = {1 = 1}
"""

STATE = """
[[stepwise.state]]
name = "{name}"
input = "past_key_values.{name}"
prefill = "present.{name}"
"""
GROWS = 'output = "present.{name}"\nlengths = {{2 = "past"}}\ngrows = true\n'
CARRIED = 'lengths = {2 = "source"}\n'
NAMES = [
    f"{layer}.{of}.{part}" for layer in (0, 1) for of in ("decoder", "encoder") for part in ("key", "value")
]


def manifest(kind: str, *, task: str, merged: bool) -> str:
    files = (
        ("decoder_model_merged.onnx",) * 2
        if merged
        else ("decoder_model.onnx", "decoder_with_past_model.onnx")
    )
    whole = MANIFEST.format(
        task=task, ids=IDS[kind], first=files[0], step=files[1], merged=MERGED if merged else ""
    )
    for name in NAMES:
        whole += STATE.format(name=name) + (CARRIED if "encoder" in name else GROWS.format(name=name))
    return whole


MODELS = {
    f"{kind}-{task}{'-merged' if merged else ''}": (kind, task, merged)
    for kind, task, merged in (
        ("marian", "translate", True),
        ("bart", "generate", False),
        ("t5", "generate", True),
    )
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    with tarfile.open(FOLDER / "graphs.tar.xz") as archive:
        graphs = {member.name: archive.extractfile(member).read() for member in archive}
    for name, (kind, task, merged) in MODELS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "model.toml").write_text(manifest(kind, task=task, merged=merged))
        for file, content in graphs.items():
            folder, graph = file.split("/")
            if folder == kind or (merged and folder == f"{kind}-merged"):
                (root / name / "1" / graph).write_bytes(content)
    with serve(root, engine="process") as started:
        yield started


def answer(server: Served, model: str, source: list[int], **more: Any) -> Any:
    """The whole reply of Translate or Generate."""
    options: dict[str, Any] = {"model": model, "ids": pb.Ids(ids=source), "max_tokens": TOKENS} | more
    if MODELS[model][1] == "translate":
        replies = server.sequences.Translate(pb.TranslateRequest(**options), timeout=PATIENCE_S)
    else:
        replies = server.sequences.Generate(pb.GenerateRequest(temperature=0, **options), timeout=PATIENCE_S)
    whole: Any = pb.TranslateReply() if MODELS[model][1] == "translate" else pb.GenerateReply()
    for reply in replies:
        whole.MergeFrom(reply)
    return whole


@pytest.mark.parametrize("model", MODELS)
def test_the_self_test_batches_sequences_of_equal_length(server: Served, model: str) -> None:
    """The graphs take no mask of what was generated, so that its cache must not be padded."""
    served = server.app.registry.get(model, 1)
    assert served is not None
    spec = served.spec
    assert (spec.batched, spec.unpadded) == (True, ("past",))
    assert spec.notice.startswith("only sequences of equal past share a step: no mask")
    assert ";" not in spec.notice
    assert spec.prefill is not None
    assert spec.prefill.batched


# --- rules and beams --------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "repetition": {"repetition_penalty": 1.7},
    "no_repeat": {"no_repeat": 2},
    "min_tokens": {"min_tokens": 12},
    "beams": {"beams": 4},
    "short_beams": {"beams": 3, "length_penalty": 0.0, "early_stopping": True},
    "long_beams": {"beams": 2, "length_penalty": 2.0, "no_repeat": 3},
}
"""The ways of `encoder_decoders/make.py`."""


def texts_of(reply: Any) -> Any:
    """The texts as `expected.json` has them: with scores if there was a beam search."""
    if not reply.alternatives:
        return [list(reply.tokens)]
    assert list(reply.alternatives[0].tokens) == list(reply.tokens)
    return [[list(one.tokens), pytest.approx(one.score, abs=2e-3)] for one in reply.alternatives]


@pytest.mark.parametrize("model", MODELS)
def test_rules_and_beams_give_what_generate_gives_among_streams_of_every_way(
    server: Served, model: str
) -> None:
    """All ways at once, with greedy streams beside them, which stay as they are alone."""
    expected = EXPECTED[MODELS[model][0]]
    calls = [(way, index) for index in range(len(expected["sources"])) for way in ("greedy", *WAYS)]

    def call(place: tuple[str, int]) -> Any:
        way, index = place
        sent = pb.Decoding(**WAYS.get(way, {}))
        return answer(server, model, expected["sources"][index], decoding=sent)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(call, calls))
    assert max(reply.timings.batch_rows for reply in found) > 1
    wrong = {}
    for (way, index), texts in zip(calls, map(texts_of, found), strict=True):
        if texts[: len(expected[way][index])] != expected[way][index]:
            wrong[way, index] = texts, expected[way][index]
    assert not wrong
