"""Raw text and Treebank style give the same pieces."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from lockstep_export.text import save_tokenizer
from lockstep_zoo.classify.tokenizer import PAD_ID, UNKNOWN_ID, encode, train_tokenizer

CORPUS = [
    "i ca n't say it 's bad ! the actor 's film is n't good , they wo n't",
    "i ca n't say it 's bad ! they 're good , we 've seen it , you 'll see , i 'd say , i 'm in",
    "he said `` good '' -lrb- and\\/or bad -rrb- -- a coming of age film ... can not be",
    "he said `` good '' -lrb- and\\/or bad -rrb- -- a coming of age film ... can not be cliche",
] * 2


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(CORPUS, vocabulary=200)


@pytest.mark.parametrize(
    ("raw", "treebank"),
    [
        ("I can't say it's bad!", "i ca n't say it 's bad !"),
        ("I can’t say it’s bad!", "i ca n't say it 's bad !"),
        ("The actor's film isn't good, they won't.", "the actor 's film is n't good , they wo n't ."),
        ("We've seen it, you'll see, they're in", "we 've seen it , you 'll see , they 're in"),
        ('He said "good" (and/or bad)', "he said `` good '' -lrb- and\\/or bad -rrb-"),
        ("He said “good” (and/or bad)", "he said `` good '' -lrb- and\\/or bad -rrb-"),
        ("a coming-of-age film… good — bad", "a coming-of-age film ... good -- bad"),
        ("It cannot be cliché", "it can not be cliche"),
        ("  good\tfilm\n", "good film"),
    ],
)
def test_raw_text_equals_treebank_style(tokenizer: Tokenizer, raw: str, treebank: str) -> None:
    assert tokenizer.encode(raw).tokens == tokenizer.encode(treebank).tokens


def test_contractions_are_whole_pieces(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("I can't").tokens == ["i", "ca", "n't"]
    assert tokenizer.encode("It's").tokens == ["it", "'s"]


def test_fixed_ids_without_padding_and_truncation(tokenizer: Tokenizer) -> None:
    assert (tokenizer.token_to_id("[PAD]"), tokenizer.token_to_id("[UNK]")) == (PAD_ID, UNKNOWN_ID) == (0, 1)
    assert tokenizer.padding is None
    assert tokenizer.truncation is None
    assert tokenizer.encode("").ids == tokenizer.encode(" \n").ids == []


def test_any_text_stays_in_range(tokenizer: Tokenizer) -> None:
    for text in ("☃ 漢字 \x00", "x" * 5000, "[PAD] [UNK]", "zqj ' '' -- ...", "\\/\\*"):
        assert all(0 < token < tokenizer.get_vocab_size() for token in tokenizer.encode(text).ids)


def test_equal_texts_give_equal_files(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path / "a.json")
    save_tokenizer(train_tokenizer(CORPUS, vocabulary=200), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert "\n" not in (tmp_path / "a.json").read_text()
    assert json.loads((tmp_path / "a.json").read_text())["padding"] is None


def test_encode_truncates_and_never_gives_an_empty_row(tokenizer: Tokenizer) -> None:
    assert encode(tokenizer, ["good film good film", ""], max_words=3)[1] == [UNKNOWN_ID]
    assert len(encode(tokenizer, ["good film good film"], max_words=3)[0]) == 3
