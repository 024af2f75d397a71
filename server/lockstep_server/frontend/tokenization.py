"""Tokenizes the texts of requests: short ones on the event loop, longer ones on worker threads.

ModelUpdate -> `open` -> a vocabulary, parsed on a worker -> `encode` -> ids and tokens
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from ..errors import ServingError, bad_input
from ..fair_queueing import FairQueueing
from ..text.tokenizer import EncodedText, TokenizerError, Vocabulary

OpenVocabulary = asyncio.Future[Vocabulary]
Done = Callable[[EncodedText | ServingError], None]

SHORT_TEXT = 512
"""Characters. Tokenizing a shorter text costs less than passing it to another thread."""


class _WaitingText(NamedTuple):
    """A text that waits for a worker. The order is that of `tag`, then of arrival."""

    tag: float
    number: int
    vocabulary: OpenVocabulary
    text: str
    field: str
    done: Done
    places: bool
    wanted: Callable[[], bool]


class Tokenizers:
    """The vocabularies of all models, equal files opened once, and the threads that use them.

    Event loop only.
    """

    def __init__(self, workers: int = 1) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="tokenizer")
        self._vocabularies: dict[str, OpenVocabulary] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers = self._free = workers
        self._waiting = list[_WaitingText]()  # a heap
        self._numbers, self._fair_queueing = itertools.count(), FairQueueing()

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
        caller: str = "",
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Tokenize a text. `done` gets the result or BAD_INPUT, for a short text before this returns.

        Args:
            caller: who sent it. Longer texts are tokenized fair among callers, by characters.
            wanted: whether the result is wanted still. A text whose request was cancelled is not tokenized.
        """
        if len(text) <= SHORT_TEXT and vocabulary.done() and vocabulary.exception() is None:
            done(_encode(vocabulary.result(), text, field, places))
            return
        tag = self._fair_queueing.start_tag(caller, len(text))
        waiting = _WaitingText(tag, next(self._numbers), vocabulary, text, field, done, places, wanted)
        heapq.heappush(self._waiting, waiting)
        self._begin()

    def _begin(self) -> None:
        """Tokenize what waits, as far as workers are free."""
        while self._free and self._waiting:
            first = heapq.heappop(self._waiting)
            if not first.wanted():
                continue
            self._fair_queueing.serve(first.tag)
            self._free -= 1
            task = asyncio.ensure_future(self._encode_on_worker(first))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not self._waiting and self._free == self._workers:
            self._fair_queueing.forget_callers()

    async def _encode_on_worker(self, waiting: _WaitingText) -> None:
        try:
            opened = await asyncio.shield(waiting.vocabulary)
            work = partial(_encode, opened, waiting.text, waiting.field, waiting.places)
            result = await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except TokenizerError as error:
            result = _cannot_encode(waiting.field, error)
        finally:
            self._free += 1
            self._begin()
        waiting.done(result)

    def close(self) -> None:
        self._waiting.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)


def _encode(vocabulary: Vocabulary, text: str, field: str, places: bool) -> EncodedText | ServingError:
    try:
        return vocabulary.encode(text, places=places)
    except TokenizerError as error:
        return _cannot_encode(field, error)


def _cannot_encode(field: str, error: TokenizerError) -> ServingError:
    return bad_input(field, f"the text cannot be tokenized: {error}")
