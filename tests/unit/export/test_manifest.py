"""model.toml parses and says what the graph really takes and gives."""

import tomllib

import pytest

from lockstep_export.manifest import manifest
from lockstep_export.zoo import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_common_parts(name: str) -> None:
    text = tomllib.loads(manifest(ZOO[name], 8000))
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
    assert text["lengths"]["words"]["max"] == ZOO[name].max_words
    assert set(text["batching"]) == {"max_rows", "max_padded_elements"}


def test_bag_of_words_needs_no_second_input() -> None:
    text = tomllib.loads(manifest(ZOO["sentiment-bow"], 10))
    assert set(text["inputs"]) == {"tokens"}
    assert text["roles"] == {"scores": "logits", "activation": "softmax"}


def test_lstm_is_given_lengths() -> None:
    text = tomllib.loads(manifest(ZOO["sentiment-lstm"], 10))
    assert text["inputs"]["lengths"] == {"batch_axis": 0, "generated": "lengths", "of": "words"}
    assert text["roles"] == {"scores": "logits", "activation": "sigmoid", "vector": "vector"}


def test_transformer_is_given_a_mask_and_returns_attention() -> None:
    text = tomllib.loads(manifest(ZOO["sentiment-transformer"], 10))
    mask = {"batch_axis": 0, "lengths": {"1": "words"}, "generated": "mask", "of": "words", "real": True}
    assert text["inputs"]["mask"] == mask
    assert text["outputs"]["attention"] == {"batch_axis": 0, "lengths": {"3": "words", "4": "words"}}
    assert text["roles"]["attention"] == "attention"
