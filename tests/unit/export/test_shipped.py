"""The files in the repository: each whole, and each right in company and padding."""

import json
import tomllib
from pathlib import Path

import onnx
import pytest
from tokenizers import Tokenizer
from torch import from_numpy

from lockstep_export.batches import inputs_for
from lockstep_export.graph import Graph
from lockstep_export.manifest import manifest
from lockstep_export.parity import check_parity
from lockstep_export.train import predicted
from lockstep_export.zoo import ZOO

MODELS = Path(__file__).parents[3] / "models"
HARD = "I can't say it's bad!"


@pytest.mark.parametrize("name", ZOO)
def test_padded_rows_equal_the_same_alone(name: str) -> None:
    vocabulary = Tokenizer.from_file(str(MODELS / name / "tokenizer.json")).get_vocab_size()
    check_parity(ZOO[name], vocabulary, Graph(MODELS / name / "1" / "model.onnx")).require()


@pytest.mark.parametrize("name", ZOO)
def test_the_manifest_fits_the_graph(name: str) -> None:
    text = (MODELS / name / "model.toml").read_text(encoding="utf-8")
    graph = onnx.load(MODELS / name / "1" / "model.onnx").graph
    parsed = tomllib.loads(text)
    assert set(parsed["inputs"]) == {value.name for value in graph.input}
    assert set(parsed["outputs"]) == {value.name for value in graph.output}
    assert text == manifest(ZOO[name], parsed["inputs"]["tokens"]["range"][1])


def test_all_share_one_tokenizer() -> None:
    files = {(MODELS / name / "tokenizer.json").read_bytes() for name in ZOO}
    assert len(files) == 1
    tokenizer = Tokenizer.from_file(str(MODELS / "sentiment-bow" / "tokenizer.json"))
    assert tokenizer.encode(HARD).tokens == ["i", "ca", "n't", "say", "it", "'s", "bad", "!"]
    ranges = {
        tomllib.loads((MODELS / n / "model.toml").read_text())["inputs"]["tokens"]["range"][1] for n in ZOO
    }
    assert ranges == {tokenizer.get_vocab_size()}


def test_the_record_names_the_shipped_files() -> None:
    record = json.loads((MODELS / "accuracy.json").read_text(encoding="utf-8"))
    for score in record["models"]:
        assert score["bytes"] == (MODELS / score["model"] / "1" / "model.onnx").stat().st_size
        assert score["test"] >= 0.78
        assert f"`{score['model']}`" in (MODELS / "README.md").read_text(encoding="utf-8")
    assert {score["model"] for score in record["models"]} == set(ZOO)
    assert sum(score["bytes"] for score in record["models"]) < 16e6


def answers(name: str, text: str) -> bool:
    """True where the shipped model calls `text` positive."""
    ids = Tokenizer.from_file(str(MODELS / name / "tokenizer.json")).encode(text).ids
    logits = Graph(MODELS / name / "1" / "model.onnx").run(inputs_for(ZOO[name], [ids]))["logits"]
    return bool(predicted(from_numpy(logits))[0])


@pytest.mark.parametrize("name", ZOO)
def test_plain_praise_and_plain_blame(name: str) -> None:
    assert answers(name, "A moving, beautifully acted and very funny film.")
    assert not answers(name, "A dull, pointless and badly written mess of a movie.")
