"""Tokenizes texts on a pool of threads, each with its own tokenizers.

text -> job queue -> worker -> ids and tokens, or an exception -> `done`. A tokenizer is configured once,
when it is loaded: changing it while another thread encodes raises "Already borrowed".
"""

from __future__ import annotations

import hashlib
import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from tokenizers import Tokenizer

from ..errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

log = logging.getLogger(__name__)


class EncodedText(NamedTuple):
    ids: list[int]
    tokens: list[str]


class Vocabulary:
    """A `tokenizer.json`, checked when it is read. Workers share one tokenizer among equal files.

    Raises:
        LoadError: the file is not a Hugging Face tokenizer.
    """

    def __init__(self, file: Path) -> None:
        try:
            self.content = file.read_bytes()
            self.digest = hashlib.sha256(self.content).hexdigest()
            self._tokenizer = self.open()
            self.size: int = self._tokenizer.get_vocab_size()
        except Exception as error:
            raise LoadError(
                f"{file}: not a Hugging Face tokenizer ({error}); save it with the tokenizers library"
            ) from error

    def names(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ids; "" for an unknown id."""
        return [self._tokenizer.id_to_token(id) or "" for id in ids]  # noqa: A001

    def open(self) -> Tokenizer:
        """A new tokenizer, without the padding and truncation set in the file."""
        tokenizer = Tokenizer.from_buffer(self.content)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer


class _Job(NamedTuple):
    vocabulary: Vocabulary
    text: str
    done: Callable[[EncodedText | Exception], None]


class TokenizerPool:
    """Encodes texts on `workers` threads. `done` is called on a worker thread, and should not raise."""

    def __init__(self, workers: int = 1) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"tokenizer-{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def encode(
        self, vocabulary: Vocabulary, text: str, done: Callable[[EncodedText | Exception], None]
    ) -> None:
        self._jobs.put(_Job(vocabulary, text, done))

    def close(self) -> None:
        """Finish the jobs queued so far, then end the workers."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        encoder = TextEncoder()
        while (job := self._jobs.get()) is not None:
            try:
                job.done(encoder.encode(job.vocabulary, job.text))
            except Exception:
                log.exception("processing an encoded text failed")


class TextEncoder:
    """Encodes texts with one tokenizer per vocabulary. Not thread-safe."""

    def __init__(self) -> None:
        self._tokenizers: dict[str, Tokenizer] = {}

    def encode(self, vocabulary: Vocabulary, text: str) -> EncodedText | Exception:
        """Encode a text. Returns the exception, rather than raising it, so that it ends this text only."""
        try:
            tokenizer = self._tokenizers.get(vocabulary.digest)
            if tokenizer is None:
                tokenizer = self._tokenizers[vocabulary.digest] = vocabulary.open()
            encoding = tokenizer.encode(text)
        except Exception as error:
            return error
        return EncodedText(encoding.ids, encoding.tokens)
