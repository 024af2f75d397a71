"""The tokenizer: ids and tokens of a text, from any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fakes
import pytest
from tokenizers import Tokenizer

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
