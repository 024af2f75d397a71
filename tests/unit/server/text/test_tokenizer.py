"""The tokenizer pool: each text gets its own ids or its own error."""

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
    workers = TokenizerPool(3)
    yield workers
    workers.close()


def test_a_text_is_encoded_on_another_thread(pool: TokenizerPool, vocabulary: Vocabulary) -> None:
    results: queue.Queue[Any] = queue.Queue()
    pool.encode(vocabulary, "very good film unknown", lambda one: results.put((one, threading.get_ident())))
    encoded, thread = results.get(timeout=30)
    assert (encoded.ids, encoded.tokens) == ([5, 2, 4, 1], ["very", "good", "film", "[UNK]"])
    assert thread != threading.get_ident()


def test_concurrent_texts_get_their_own_ids(pool: TokenizerPool, vocabulary: Vocabulary) -> None:
    results: queue.Queue[Any] = queue.Queue()
    for i in range(500):
        pool.encode(vocabulary, "good " * (1 + i % 40), lambda one, i=i: results.put((i, one)))
    found = dict(results.get(timeout=30) for _ in range(500))
    assert {i: len(one.ids) for i, one in found.items()} == {i: 1 + i % 40 for i in range(500)}


def test_padding_and_truncation_in_the_file_are_ignored(tmp_path: Path, pool: TokenizerPool) -> None:
    from tokenizers import Tokenizer

    fakes.write_tokenizer(tmp_path / "t.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "t.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "t.json"))
    results: queue.Queue[Any] = queue.Queue()
    pool.encode(Vocabulary(tmp_path / "t.json"), "good bad film", results.put)
    assert results.get(timeout=30).ids == [2, 3, 4]


def test_a_callback_that_raises_does_not_end_the_pool(pool: TokenizerPool, vocabulary: Vocabulary) -> None:
    results: queue.Queue[Any] = queue.Queue()
    for _ in range(9):
        pool.encode(vocabulary, "good", lambda one: 1 / 0)
    pool.encode(vocabulary, "bad", results.put)
    assert results.get(timeout=30).ids == [3]


def test_close_finishes_queued_texts(vocabulary: Vocabulary) -> None:
    pool, results = TokenizerPool(2), []
    for _ in range(20):
        pool.encode(vocabulary, "good", results.append)
    pool.close()
    assert len(results) == 20


@pytest.mark.parametrize("content", [b"", b"{}", b"no json", b"\xff"])
def test_an_invalid_file_is_named_in_the_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(LoadError, match=r"t\.json: not a Hugging Face tokenizer"):
        Vocabulary(tmp_path / "t.json")
