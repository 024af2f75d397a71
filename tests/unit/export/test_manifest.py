"""model.toml parses and describes the inputs and outputs of the graphs."""

import math
import tomllib
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from unit.zoo.sample_data import CLASSIFIERS, SHAKESPEARE, STEPWISE, TRANSLATOR, classifier

from lockstep_export.manifest import write
from lockstep_zoo.models import ZOO
from lockstep_zoo.pipeline import task_of

H = {"name": "h", "input": "h_in", "output": "h_out", "batch_axis": 1}
C = {"name": "c", "input": "c_in", "output": "c_out", "batch_axis": 1}


def parsed_manifest(name: str, vocabulary: int = 20) -> dict[str, Any]:
    words = {"\n": 0} | {str(index): index for index in range(1, vocabulary)}
    recipe = ZOO[name]
    task = task_of(recipe)
    tokenizers = [Tokenizer(models.WordLevel(words, unk_token="1"))] * len(task.tokenizers)
    module = recipe.build(*[vocabulary] * len(tokenizers))
    return tomllib.loads(task.forms(recipe, module, tokenizers).manifest())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_keys_common_to_all_classifiers(name: str) -> None:
    text = parsed_manifest(name, 8000)
    assert text["task"] == "classify"
    assert text["labels"] == ["negative", "positive"]
    assert text["text"] == {"source": "tokenizer.json"}
    assert text["inputs"]["tokens"] == {
        "batch_axis": 0,
        "lengths": {"1": "words"},
        "pad": 0,
        "range": [0, 8000],
    }
    assert text["roles"]["scores"] == "logits"
    assert text["lengths"]["words"]["max"] == classifier(name).max_words
    assert set(text["batching"]) == {"max_rows", "max_padded_elements"}
    assert ("stepwise" in text) is (name in STEPWISE)


def test_bag_of_words_has_one_input() -> None:
    text = parsed_manifest("sentiment-bow")
    assert set(text["inputs"]) == {"tokens"}
    assert text["roles"] == {"scores": "logits", "activation": "softmax"}


def test_lstm_gets_generated_lengths() -> None:
    text = parsed_manifest("sentiment-lstm")
    assert text["inputs"]["lengths"] == {"batch_axis": 0, "generated": "lengths", "of": "words"}
    assert text["roles"] == {"scores": "logits", "activation": "sigmoid", "vector": "vector"}


def test_transformer_gets_a_generated_mask_and_returns_attention() -> None:
    text = parsed_manifest("sentiment-transformer")
    mask = {"batch_axis": 0, "lengths": {"1": "words"}, "generated": "mask", "of": "words", "real": True}
    assert text["inputs"]["mask"] == mask
    assert text["outputs"]["attention"] == {"batch_axis": 0, "lengths": {"3": "words", "4": "words"}}
    assert text["roles"]["attention"] == "attention"


@pytest.mark.parametrize(
    ("name", "states"), [("sentiment-rnn", [H]), ("sentiment-gru", [H]), ("sentiment-lstm", [H, C])]
)
def test_step_graphs_pair_their_states(name: str, states: list[dict[str, Any]]) -> None:
    stepwise = parsed_manifest(name)["stepwise"]
    assert stepwise["graph"] == "step.onnx"
    assert stepwise["inputs"] == {"token": {"batch_axis": 0, "range": [0, 20]}}
    assert stepwise["outputs"] == {"logits": {"batch_axis": 0}, "vector": {"batch_axis": 0}}
    assert stepwise["state"] == states


def test_the_language_model_starts_from_a_new_line_and_has_a_prefill() -> None:
    text = parsed_manifest(SHAKESPEARE)
    assert text["task"] == "generate"
    assert text["text"] == {"source": "tokenizer.json", "begin": 0}
    assert text["lengths"] == {"prompt": {"max": 4096}}
    assert text["prefill"]["inputs"]["lengths"] == {"batch_axis": 0, "generated": "lengths", "of": "prompt"}
    assert text["prefill"]["outputs"]["h0"] == {"batch_axis": 1}
    assert text["stepwise"]["state"] == [H | {"prefill": "h0"}, C | {"prefill": "c0"}]
    assert "inputs" not in text


def test_the_translator_carries_its_memory() -> None:
    text = parsed_manifest(TRANSLATOR)
    assert text["text"] == {"source": "source.json", "target": "target.json", "begin": 2, "end": 3}
    ragged = {"batch_axis": 0, "lengths": {"1": "source"}}
    assert text["prefill"]["outputs"]["memory"] == ragged
    assert text["stepwise"]["outputs"]["attention"] == ragged
    mask = ragged | {"generated": "mask", "of": "source", "real": True}
    assert text["stepwise"]["inputs"]["mask"] == mask
    memory = {"name": "memory", "input": "memory", "prefill": "memory"} | ragged
    assert text["stepwise"]["state"][3] == memory
    assert text["roles"] == {"scores": "logits", "attention": "attention"}
    assert text["generation"] == {"beams": 4}


def test_any_names_and_values_survive_a_round_trip() -> None:
    table = {
        "labels": ["😀", 'a "quoted" one', "\x7f"],
        "lengths": {"wörter": {"max": 9}},
        "outputs": {"head.logits": {"batch_axis": 0, "lengths": {1: "wörter"}}},
        "state": [{"name": "best", "initial": -math.inf}],
    }
    found = tomllib.loads(write("two\nlines", table))
    assert found == table | {
        "outputs": {"head.logits": {"batch_axis": 0, "lengths": {"1": "wörter"}}},
    }
