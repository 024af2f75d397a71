"""What is decided from a graph and the files beside it, what is asked, what is refused, what is written."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tokenizers import Tokenizer, models
from typer.testing import CliRunner
from unit.export.adopt.graphs import BOOL, FLOAT, INT64, save, streaming_encoder

from lockstep_export.adopt import adopt, adoption
from lockstep_export.adopt.adoption import decide
from lockstep_export.adopt.report import Report
from lockstep_export.adopt.selftest import SelfTestError
from lockstep_export.adopt.source import find_source
from lockstep_export.cli import app
from lockstep_export.errors import DescriptionError

STOCK = Path(__file__).parents[3] / "stock"
IDS, TEXT = (INT64, ("batch", "sequence")), {"input_ids": (INT64, ("batch", "sequence"))}


def decided(path: Path, task: str | None = None, **given: str) -> tuple[dict[str, Any], Report]:
    report = Report()
    return decide(find_source(path, report), task, given, report), report


def questions(report: Report) -> list[str]:
    return [f"[{question.section}] {question.line}" for question in report.questions]


def config(folder: Path, **content: Any) -> None:
    (folder / "config.json").write_text(json.dumps(content))


@pytest.fixture
def untested(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is written: the server's self-test has its own."""
    monkeypatch.setattr(adoption, "self_test", lambda *_: ["not made"])


# --- decisions ------------------------------------------------------------------------------------


def test_a_streaming_encoder_with_99_inputs_is_one_command(tmp_path: Path) -> None:
    file = streaming_encoder(tmp_path / "encoder.onnx")
    done = CliRunner().invoke(app, ["adopt", str(file), "--out", str(tmp_path / "models/encoder")])
    assert done.exit_code == 0, done.output
    assert "batched answers equal those of each request alone" in done.output
    assert "Not decided" not in done.output
    written = tomllib.loads((tmp_path / "models/encoder/model.toml").read_text())
    states = {state["input"]: state for state in written["stepwise"]["state"]}
    assert len(states) == 98
    assert states["cached_key_0"]["batch_axis"] == 1
    name = "cached_conv1_15"
    assert states[name] == {"name": name, "input": name, "output": f"new_{name}", "batch_axis": 0}


def test_constants_of_known_names_have_values_and_others_are_asked_for(tmp_path: Path) -> None:
    inputs = {"input": (None, None), "state": (2, None, 128), "sr": (INT64, ()), "beam": (INT64, (1,))}
    file = save(tmp_path / "vad.onnx", inputs, {"output": (None, 1), "stateN": (None, None, None)})
    table, report = decided(file)
    assert table["stepwise"]["inputs"] == {"input": {"batch_axis": 0}, "sr": {"value": 16000}}
    assert table["stepwise"]["state"] == [
        {"name": "state", "input": "state", "output": "stateN", "batch_axis": 1}
    ]
    asked = ["[stepwise.inputs.sr] value = 16000", "[stepwise.inputs.beam] value = 1"]
    assert questions(report) == asked
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    table, report = decided(file)
    assert table["stepwise"]["inputs"]["sr"] == {"value": 8000}
    assert questions(report) == asked[1:]


def test_limits_and_ids_come_from_the_configuration(tmp_path: Path) -> None:
    save(tmp_path / "model.onnx", {**TEXT, "attention_mask": IDS}, {"logits": ("batch", 2)})
    architectures = ["RobertaForSequenceClassification"]
    labels, kind = {"1": "yes", "0": "no"}, "multi_label_classification"
    config(
        tmp_path, architectures=architectures, model_type="roberta", vocab_size=99, pad_token_id=1,
        max_position_embeddings=514, id2label=labels, problem_type=kind,
    )  # fmt: skip
    table, report = decided(tmp_path)
    assert table["task"] == "classify"
    assert table["labels"] == ["no", "yes"]
    assert table["lengths"] == {"tokens": {"max": 512}}
    assert table["inputs"]["input_ids"]["range"] == [0, 99]
    assert table["inputs"]["input_ids"]["pad"] == 1
    assert table["inputs"]["attention_mask"]["generated"] == "mask"
    assert table["roles"] == {"input": "input_ids", "scores": "logits", "activation": "sigmoid"}
    assert questions(report) == ['[text] source = "tokenizer.json"']


def test_what_is_unknown_is_asked_for(tmp_path: Path) -> None:
    save(
        tmp_path / "model.onnx",
        {**TEXT, "attention_mask": IDS},
        {"last_hidden_state": ("batch", "sequence", 8)},
    )
    table, report = decided(tmp_path)
    assert table["outputs"] == {
        "last_hidden_state": {"batch_axis": 0, "lengths": {1: "tokens"}, "pooling": "mean"}
    }
    assert questions(report) == [
        '[text] source = "tokenizer.json"',
        "[lengths.tokens] max = 512",
        '[outputs.last_hidden_state] pooling = "mean"',
    ]


def test_a_graph_without_states_and_texts_is_served_as_tensors(tmp_path: Path) -> None:
    file = save(
        tmp_path / "asr.onnx",
        {"features": ("batch", "time", 80), "lengths": (INT64, ("batch",))},
        {"log_probs": ("batch", "time", 30), "out_lengths": (INT64, ("batch",))},
    )
    table, _ = decided(file)
    assert table["task"] == "tensor"
    assert table["inputs"] == {
        "features": {"batch_axis": 0, "lengths": {1: "length"}},
        "lengths": {"batch_axis": 0, "generated": "lengths", "of": "length"},
    }
    assert table["outputs"]["log_probs"] == {"batch_axis": 0, "lengths": {1: "length"}}


def test_an_output_of_another_length_is_asked_about(tmp_path: Path) -> None:
    file = save(tmp_path / "asr.onnx", {"samples": ("batch", "time")}, {"logits": ("batch", "frames", 30)})
    assert '[outputs.logits] lengths = {1 = "ceil(length / 2)"}' in questions(decided(file)[1])


def test_an_autoencoder_has_no_states(tmp_path: Path) -> None:
    file = save(tmp_path / "x.onnx", {"input_image": ("n", 3, 8, 8)}, {"output_image": ("n", 3, 8, 8)})
    assert "stepwise" not in decided(file)[0]


def test_two_graphs_one_for_prompts_and_one_for_steps(tmp_path: Path) -> None:
    cache, longer = ("batch", 4, "past", 8), ("batch", 4, "past + 1", 8)
    outputs = {"logits": ("batch", "sequence", 9), "present.0.key": longer}
    save(tmp_path / "decoder_model.onnx", {**TEXT, "attention_mask": IDS}, outputs)
    save(
        tmp_path / "decoder_with_past_model.onnx",
        {**TEXT, "attention_mask": (INT64, ("batch", "past + 1")), "past_key_values.0.key": cache},
        outputs,
    )
    config(tmp_path, vocab_size=9, n_positions=32, eos_token_id=[2, 7])
    table, _ = decided(tmp_path)
    assert table["prefill"]["graph"] == "decoder_model.onnx"
    assert table["stepwise"]["graph"] == "decoder_with_past_model.onnx"
    assert table["stepwise"]["inputs"]["attention_mask"]["new"] is True


def test_a_merged_decoder_is_told_whether_it_has_a_cache(tmp_path: Path) -> None:
    cache, longer = ("batch", 4, "past", 8), ("batch", 4, "past + sequence", 8)
    inputs = {**TEXT, "past_key_values.0.key": cache, "use_cache_branch": (BOOL, (1,))}
    outputs = {"logits": ("batch", "sequence", 9), "present.0.key": longer}
    save(tmp_path / "decoder_model_merged.onnx", inputs, outputs)
    table, _ = decided(tmp_path)
    assert table["prefill"]["inputs"]["use_cache_branch"] == {"value": False}
    assert table["stepwise"]["inputs"]["use_cache_branch"] == {"value": True}
    assert table["prefill"]["graph"] == table["stepwise"]["graph"] == "decoder_model_merged.onnx"


def test_a_folder_of_the_hub_has_its_graph_one_level_below(tmp_path: Path) -> None:
    shutil.copytree(STOCK / "bert-classifier", tmp_path / "hub")
    (tmp_path / "hub/onnx").mkdir()
    (tmp_path / "hub/model.onnx").rename(tmp_path / "hub/onnx/model.onnx")
    shutil.copy(tmp_path / "hub/onnx/model.onnx", tmp_path / "hub/onnx/model_quantized.onnx")
    expected = decided(STOCK / "bert-classifier")[0]
    assert decided(tmp_path / "hub")[0] == expected
    assert decided(tmp_path / "hub/onnx/model_quantized.onnx")[0] == expected


def test_an_encoder_decoder_has_three_parts() -> None:
    table, report = decided(STOCK / "marian")
    assert table["task"] == "translate"
    assert [table[part]["graph"] for part in ("encoder", "prefill", "stepwise")] == [
        "encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"
    ]  # fmt: skip
    assert table["text"] == {"source": "tokenizer.json", "begin": 0, "end": 2}
    assert table["generation"] == {"forced_last": 2}
    states = {state["name"]: state for state in table["stepwise"]["state"]}
    assert states["0.encoder.key"]["lengths"] == {2: "source"}
    assert states["0.encoder.key"]["prefill"] == "present.0.encoder.key"
    assert "output" not in states["0.encoder.key"]
    assert states["0.decoder.key"]["grows"] is True
    assert questions(report) == []


def test_the_settings_of_a_generation_are_taken_over(tmp_path: Path) -> None:
    """As of bart-large-cnn. `min_length` counts the id that a text begins with."""
    folder = shutil.copytree(STOCK / "bart", tmp_path / "bart")
    written = json.loads((folder / "generation_config.json").read_text())
    more = {
        "num_beams": 4, "length_penalty": 2, "early_stopping": True, "no_repeat_ngram_size": 3,
        "min_length": 56, "bad_words_ids": [[5], [6, 7]], "suppress_tokens": [9], "repetition_penalty": 1.0,
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(written | more))
    assert decided(folder)[0]["generation"] == {
        "forced_first": 1,
        "forced_last": 2,
        "forbidden": [5, 9],
        "min_tokens": 55,
        "no_repeat": 3,
        "beams": 4,
        "length_penalty": 2.0,
        "early_stopping": True,
    }


# --- refusals -------------------------------------------------------------------------------------


def test_the_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(STOCK / "gpt2", tmp_path / "gpt2")
    other = Tokenizer(models.WordLevel({f"w{index}": index for index in range(65)}, unk_token="w0"))
    other.save(str(folder / "tokenizer.json"))
    with pytest.raises(DescriptionError, match=r"tokenizer\.json: the tokenizer has ids up to 64.*below 64"):
        decided(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(DescriptionError, match="not a tokenizer"):
        decided(folder)


def test_more_scores_than_ids_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["embedded"])]
    file = save(
        tmp_path / "model.onnx",
        {**TEXT, "h_in": ("batch", 8)},
        {"logits": ("batch", 12), "h_out": ("batch", 8)},
        nodes,
    )
    model = onnx.load(file)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((9, 4), np.float32), "table"))
    onnx.save(model, file)
    with pytest.raises(DescriptionError, match="12 scores, but 9 ids"):
        decided(tmp_path)


def test_a_generator_without_caches_is_refused_with_the_remedy(tmp_path: Path) -> None:
    file = save(tmp_path / "model.onnx", TEXT, {"logits": ("batch", "sequence", 9)})
    with pytest.raises(DescriptionError, match="export it with its caches"):
        decided(file, "generate")


def test_a_decoder_without_an_encoder_decoders_other_half_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(STOCK / "marian", tmp_path / "marian")
    (folder / "decoder_with_past_model.onnx").unlink()
    with pytest.raises(DescriptionError, match=r"no decoder_with_past_model\.onnx"):
        decided(folder)


def test_a_path_without_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="no such file"):
        find_source(tmp_path / "none", Report())
    with pytest.raises(DescriptionError, match=r"no \.onnx file"):
        find_source(tmp_path, Report())
    (tmp_path / "a.onnx").write_bytes(b"not a graph")
    with pytest.raises(DescriptionError, match="not an ONNX model"):
        find_source(tmp_path, Report())
    (tmp_path / "b.onnx").write_bytes(b"")
    with pytest.raises(DescriptionError, match=r"2 graphs \(a\.onnx, b\.onnx\), none with a usual name"):
        find_source(tmp_path, Report())


def test_a_state_without_an_open_axis_is_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "x.onnx", {"x": (1, 3), "h_in": (1, 8)}, {"y": (1, 3), "h_out": (1, 8)})
    with pytest.raises(DescriptionError, match="Export it with a dynamic batch axis"):
        decided(file)


# --- the self-test --------------------------------------------------------------------------------


@pytest.mark.parametrize("mended", [True, False])
def test_a_cache_is_one_shorter_if_the_graph_has_no_room_for_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    """As with tables of exactly as many positions as the model reads."""
    seen = []

    def tested(root: Path, name: str, version: int, begin: object) -> list[str]:
        written = tomllib.loads((root / name / "model.toml").read_text())
        seen.append(written["lengths"]["past"]["max"])
        return [] if mended and seen[-1] == 63 else ["step-wise: the self-test could not run: a Where node"]

    monkeypatch.setattr(adoption, "self_test", tested)
    done = adopt(STOCK / "gpt2", tmp_path / "gpt2")
    assert seen == [64, 63]
    written = tomllib.loads((tmp_path / "gpt2/model.toml").read_text())
    assert written["lengths"]["past"]["max"] == (63 if mended else 64)
    limits = [one.decided for one in done.report.decisions if one.subject == "past"]
    assert limits == ["at most 63" if mended else "at most 64"]


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untested")
def test_an_existing_version_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    model = tmp_path / "models/gpt2"
    adopt(STOCK / "gpt2", model)
    graph = (model / "1/model.onnx").read_bytes()
    assert graph == (STOCK / "gpt2/model.onnx").read_bytes()
    with pytest.raises(DescriptionError, match=r"gpt2/1 exists; .*--overwrite"):
        adopt(STOCK / "bloom", model)
    assert (model / "1/model.onnx").read_bytes() == graph
    adopt(STOCK / "bloom", model, overwrite=True)
    assert (model / "1/model.onnx").read_bytes() == (STOCK / "bloom/model.onnx").read_bytes()
    adopt(STOCK / "gpt2", model, version=2)
    assert {path.name for path in model.iterdir()} == {"1", "2", "model.toml", "tokenizer.json"}
    assert (model / "2/model.toml").is_file()


@pytest.mark.usefixtures("untested")
def test_the_source_may_be_read_only_and_stays_as_it_is(tmp_path: Path) -> None:
    source = shutil.copytree(STOCK / "gpt2", tmp_path / "source")
    for path in (*source.rglob("*"), source):
        path.chmod(0o500 if path.is_dir() else 0o400)
    before = {path: path.stat() for path in (source, *source.rglob("*"))}
    adopt(source, tmp_path / "models/gpt2")
    after = {path: path.stat() for path in (source, *source.rglob("*"))}
    assert {p: (s.st_mtime_ns, s.st_size) for p, s in before.items()} == {
        p: (s.st_mtime_ns, s.st_size) for p, s in after.items()
    }
    for path in (source, *source.rglob("*")):
        path.chmod(0o700)  # pytest removes it


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize("link", [False, True])
def test_weights_in_other_files_come_along(tmp_path: Path, link: bool) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    file = save(tmp_path / "plain.onnx", {"x": ("batch", 64)}, {"y": ("batch", 64)}, nodes)
    model = onnx.load(file)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((64, 64), np.float32), "w"))
    (tmp_path / "source").mkdir()
    onnx.save(model, tmp_path / "source/model.onnx", save_as_external_data=True, location="weights.bin")
    adopt(tmp_path / "source", tmp_path / "models/x", link=link)
    for name in ("model.onnx", "weights.bin"):
        one, other = tmp_path / "source" / name, tmp_path / "models/x/1" / name
        assert one.read_bytes() == other.read_bytes()
        assert one.samefile(other) is link
    (tmp_path / "source/weights.bin").unlink()
    with pytest.raises(DescriptionError, match=r"weights\.bin, does not exist"):
        adopt(tmp_path / "source", tmp_path / "models/y")


def test_weights_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    file = save(tmp_path / "model.onnx", {"x": ("batch", 2)}, {"y": ("batch", 2)}, nodes)
    model = onnx.load(file)
    weights = onnx.TensorProto(name="w", data_type=FLOAT, dims=[2, 2])
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../secret.bin")
    model.graph.initializer.append(weights)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(DescriptionError, match="outside of its folder"):
        find_source(file, Report())


def test_what_the_server_refuses_is_not_published_unless_asked(tmp_path: Path) -> None:
    """A graph without nodes has no outputs to compute."""
    file = save(tmp_path / "x.onnx", {"x": ("batch", 3)}, {"y": ("batch", 3)})
    with pytest.raises(SelfTestError, match="x"):
        adopt(file, tmp_path / "models/x")
    assert list((tmp_path / "models").iterdir()) == []
    begun: list[str] = []
    done = adopt(file, tmp_path / "models/x", untested=True, begin=begun.append)
    assert begun == ["reading the graphs", "copying the graphs", "opening model.onnx"]
    assert done.report.findings[0].startswith("the server refuses the model: x/1/model.onnx")
    assert (tmp_path / "models/x/model.toml").is_file()
