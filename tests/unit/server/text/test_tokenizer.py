"""The tokenizer pool: each text its own ids or its own error."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

import fakes
import pytest

from lockstep_server.errors import LoadError
from lockstep_server.text.tokenizer import TokenizerPool, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    fakes.write_tokenizer(tmp_path / "tokenizer.json")
    return Vocabulary(tmp_path / "tokenizer.json")


@pytest.fixture
def pool() -> Iterator[TokenizerPool]:
    made = TokenizerPool(3)
    yield made
    made.close()


def test_a_text_is_encoded_away_from_the_caller(pool: TokenizerPool, vocabulary: Vocabulary) -> None:
    got: queue.Queue[Any] = queue.Queue()
    pool.encode(vocabulary, "very good film nobody", lambda one: got.put((one, threading.get_ident())))
    encoded, thread = got.get(timeout=30)
    assert (encoded.ids, encoded.tokens) == ([5, 2, 4, 1], ["very", "good", "film", "[UNK]"])
    assert thread != threading.get_ident()


def test_many_texts_at_once_each_get_their_own(pool: TokenizerPool, vocabulary: Vocabulary) -> None:
    got: queue.Queue[Any] = queue.Queue()
    for i in range(500):
        pool.encode(vocabulary, "good " * (1 + i % 40), lambda one, i=i: got.put((i, one)))
    found = dict(got.get(timeout=30) for _ in range(500))
    assert {i: len(one.ids) for i, one in found.items()} == {i: 1 + i % 40 for i in range(500)}


def test_padding_and_truncation_of_the_file_are_not_used(tmp_path: Path, pool: TokenizerPool) -> None:
    from tokenizers import Tokenizer

    fakes.write_tokenizer(tmp_path / "t.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "t.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "t.json"))
    got: queue.Queue[Any] = queue.Queue()
    pool.encode(Vocabulary(tmp_path / "t.json"), "good bad film", got.put)
    assert got.get(timeout=30).ids == [2, 3, 4]


def test_a_callback_that_raises_does_not_end_the_pool(pool: TokenizerPool, vocabulary: Vocabulary) -> None:
    got: queue.Queue[Any] = queue.Queue()
    for _ in range(9):
        pool.encode(vocabulary, "good", lambda one: 1 / 0)
    pool.encode(vocabulary, "bad", got.put)
    assert got.get(timeout=30).ids == [3]


def test_closing_finishes_what_was_asked(vocabulary: Vocabulary) -> None:
    pool, got = TokenizerPool(2), []
    for _ in range(20):
        pool.encode(vocabulary, "good", got.append)
    pool.close()
    assert len(got) == 20


@pytest.mark.parametrize("content", [b"", b"{}", b"no json", b"\xff"])
def test_what_is_no_tokenizer_is_told_with_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(LoadError, match=r"t\.json: not a Hugging Face tokenizer"):
        Vocabulary(tmp_path / "t.json")
