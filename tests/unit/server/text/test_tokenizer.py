"""The tokenizer: ids and tokens of a text, from any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import fakes
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lockstep_server.text.tokenizer import TokenizerError, Vocabulary

MODELS = Path(__file__).parents[4] / "models"


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    fakes.write_tokenizer(tmp_path / "tokenizer.json")
    return Vocabulary((tmp_path / "tokenizer.json").read_bytes())


def test_a_text_has_ids_and_tokens(vocabulary: Vocabulary) -> None:
    encoded = vocabulary.encode("very good film unknown")
    assert (encoded.ids, encoded.tokens) == ([5, 2, 4, 1], ["very", "good", "film", "[UNK]"])
    assert vocabulary.names([5, 999]) == ["very", ""]


def test_concurrent_texts_get_their_own_ids(vocabulary: Vocabulary) -> None:
    with ThreadPoolExecutor(4) as threads:
        encoded = threads.map(vocabulary.encode, ("good " * (1 + i % 40) for i in range(500)))
        assert [len(one.ids) for one in encoded] == [1 + i % 40 for i in range(500)]


def test_padding_and_truncation_in_the_file_are_ignored(tmp_path: Path) -> None:
    fakes.write_tokenizer(tmp_path / "t.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "t.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "t.json"))
    assert Vocabulary((tmp_path / "t.json").read_bytes()).encode("good bad film").ids == [2, 3, 4]


@pytest.mark.parametrize("content", [b"", b"{}", b"no json", b"\xff"])
def test_content_that_is_no_tokenizer_is_an_error(content: bytes) -> None:
    with pytest.raises(TokenizerError):
        Vocabulary(content)


@pytest.mark.parametrize("model", ["sentiment-bow", "captions-next-word", "shakespeare-char-lstm"])
def test_tokens_are_those_of_the_library(model: str) -> None:
    content = (MODELS / model / "tokenizer.json").read_bytes()
    opened, library = Vocabulary(content), Tokenizer.from_buffer(content)
    for text in ("Two dogs run.", "it's a good film , unknownword", "ABC é \U0001f600 x", " \t", ""):
        encoding = library.encode(text)
        assert opened.encode(text).tokens == encoding.tokens
        assert opened.encode(text).ids == encoding.ids


def placed(tokenizer: Tokenizer, text: str) -> list[tuple[str, bool]]:
    """The covered text of each token, and whether it begins a word."""
    encoded = Vocabulary(tokenizer.to_str().encode()).encode(text, places=True)
    assert encoded.places is not None
    assert encoded.ids == tokenizer.encode(text).ids
    return [(text[place.start : place.end], place.begins_word) for place in encoded.places]


A_BC_D = [("a", True), ("bc", True), ("d", True)]


def unigram(*, split: bool) -> Tokenizer:
    tokens = [("[UNK]", 0.0), ("▁a", -1.0), ("▁bc", -1.0), ("bc", -3.0), ("▁d", -1.0), ("▁", -5.0)]
    tokenizer = Tokenizer(models.Unigram(tokens, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    return tokenizer


def byte_level() -> Tokenizer:
    vocabulary = {"[UNK]": 0, "a": 1, "Ġbc": 2, "Ġ": 3, "b": 4, "c": 5, "Ġd": 6, "d": 7, "Ġb": 8}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", "b"), ("Ġb", "c"), ("Ġ", "d")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer", [unigram(split=True), unigram(split=False), byte_level()], ids=["split", "whole", "bytes"]
)
def test_a_word_begins_after_white_space_whatever_the_tokenizer_calls_a_word(tokenizer: Tokenizer) -> None:
    assert placed(tokenizer, "a bc d") == A_BC_D


def test_pieces_of_a_word_follow_its_first_one_and_special_tokens_have_no_place() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "[CLS]": 1, "a": 2, "##b": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    assert placed(tokenizer, "ab  x,abb") == [
        ("a", True), ("b", False), ("x", True), (",", True), ("a", True), ("b", False), ("b", False)
    ]  # fmt: skip


@given(st.text(st.sampled_from("ab \t\n é😀x,"), max_size=30))
def test_places_are_in_the_text_and_in_its_order(text: str) -> None:
    for tokenizer in (unigram(split=False), byte_level()):
        places = Vocabulary(tokenizer.to_str().encode()).encode(text, places=True).places
        assert places is not None
        for place in places:
            assert 0 <= place.start < place.end <= len(text)
            part = text[place.start : place.end]
            assert part.isspace() if place.is_blank else part == part.strip()
        assert all(one.start <= two.start and one.token < two.token for one, two in pairwise(places))
