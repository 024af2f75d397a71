"""Text to ids, away from the event loop: a pool of threads, each with tokenizers of its own.

A tokenizer is configured once, when it is loaded, and never changed: changing one while another
thread encodes raises "Already borrowed".
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
    """A `tokenizer.json`, checked once; equal files share what each worker makes of them.

    Raises:
        LoadError: the file is no tokenizer.
    """

    def __init__(self, file: Path) -> None:
        try:
            self.content = file.read_bytes()
            self.digest = hashlib.sha256(self.content).hexdigest()
            self._own = self.open()
            self.size: int = self._own.get_vocab_size()
        except Exception as error:
            raise LoadError(
                f"{file}: not a Hugging Face tokenizer: {error}; save it again with tokenizers"
            ) from error

    def names(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ids; an id that there is not has an empty one."""
        return [self._own.id_to_token(id) or "" for id in ids]  # noqa: A001

    def open(self) -> Tokenizer:
        tokenizer = Tokenizer.from_buffer(self.content)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer


class _Job(NamedTuple):
    vocabulary: Vocabulary
    text: str
    done: Callable[[EncodedText | Exception], None]


class TokenizerPool:
    """Encodes on `workers` threads. `done` is called on a worker, and must not raise."""

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
        """End the workers once the jobs before this are done."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        reader = TextEncoder()
        while (job := self._jobs.get()) is not None:
            try:
                job.done(reader.encode(job.vocabulary, job.text))
            except Exception:
                log.exception("the answer to an encoded text could not be taken")


class TextEncoder:
    """One thread's tokenizers."""

    def __init__(self) -> None:
        self._mine: dict[str, Tokenizer] = {}

    def encode(self, vocabulary: Vocabulary, text: str) -> EncodedText | Exception:
        """An error belongs to this text alone."""
        try:
            tokenizer = self._mine.get(vocabulary.digest)
            if tokenizer is None:
                tokenizer = self._mine[vocabulary.digest] = vocabulary.open()
            encoding = tokenizer.encode(text)
        except Exception as error:
            return error
        return EncodedText(encoding.ids, encoding.tokens)
