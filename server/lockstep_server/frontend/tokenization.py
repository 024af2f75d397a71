"""Tokenizes the texts of requests: short ones on the event loop, longer ones on worker threads.

ModelUpdate -> `open` -> a vocabulary, parsed on a worker -> `encode` -> ids and tokens
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ..errors import ServingError, bad_input
from ..text.tokenizer import EncodedText, TokenizerError, Vocabulary

OpenVocabulary = asyncio.Future[Vocabulary]
Done = Callable[[EncodedText | ServingError], None]

_SHORT_TEXT = 512
"""Characters. Tokenizing a shorter text costs less than passing it to another thread."""


class Tokenizers:
    """The vocabularies of all models, equal files opened once, and the threads that use them.

    Event loop only.
    """

    def __init__(self, workers: int = 1) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="tokenizer")
        self._vocabularies: dict[str, OpenVocabulary] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, content: bytes) -> OpenVocabulary:
        """Start to open a tokenizer file's content."""
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._vocabularies:
            loop = asyncio.get_running_loop()
            self._vocabularies[digest] = loop.run_in_executor(self._executor, Vocabulary, content)
        return self._vocabularies[digest]

    def encode(
        self,
        vocabulary: OpenVocabulary,
        text: str,
        field: str,
        done: Done,
        *,
        places: bool = False,
    ) -> None:
        """Tokenize a text. `done` gets the result or BAD_INPUT, for a short text before this returns."""
        if len(text) <= _SHORT_TEXT and vocabulary.done() and vocabulary.exception() is None:
            done(_encode(vocabulary.result(), text, field, places))
            return
        task = asyncio.ensure_future(self._encode_on_worker(vocabulary, text, field, done, places))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _encode_on_worker(
        self,
        vocabulary: OpenVocabulary,
        text: str,
        field: str,
        done: Done,
        places: bool,
    ) -> None:
        try:
            opened = await asyncio.shield(vocabulary)
        except TokenizerError as error:
            done(_cannot_encode(field, error))
            return
        loop = asyncio.get_running_loop()
        done(await loop.run_in_executor(self._executor, _encode, opened, text, field, places))

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


def _encode(vocabulary: Vocabulary, text: str, field: str, places: bool) -> EncodedText | ServingError:
    try:
        return vocabulary.encode(text, places=places)
    except TokenizerError as error:
        return _cannot_encode(field, error)


def _cannot_encode(field: str, error: TokenizerError) -> ServingError:
    return bad_input(field, f"the text cannot be tokenized: {error}")
