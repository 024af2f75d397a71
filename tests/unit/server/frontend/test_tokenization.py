"""Long texts are tokenized in turns of callers, and only while somebody wants them."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from lockstep_server.frontend.tokenization import Tokenizers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONG = 600  # characters: too many for the event loop


class HeldVocabulary:
    """Records what it tokenizes; the first text holds the worker until `release`."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.begun, self.released = threading.Event(), threading.Event()

    def encode(self, text: str, *, places: bool) -> Any:
        self.seen.append(text.strip())
        self.begun.set()
        self.released.wait()
        return text


@pytest.fixture
async def tokenizers() -> AsyncIterator[Tokenizers]:
    tokenizers = Tokenizers(1)
    yield tokenizers
    tokenizers.close()


async def _run(tokenizers: Tokenizers, sent: list[tuple[str, str, int]], unwanted: set[str]) -> list[str]:
    """Send (text, caller, length), all while the first is tokenized; then give up what is `unwanted`."""
    held: Any = HeldVocabulary()
    vocabulary: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    vocabulary.set_result(held)
    left, gone, done = len(sent) - len(unwanted), set[str](), asyncio.Event()

    def answered(_: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    for text, caller, length in sent:
        tokenizers.encode(
            vocabulary,
            text.ljust(length),
            "texts[0]",
            answered,
            caller=caller,
            wanted=lambda text=text: text not in gone,  # type: ignore[misc]
        )
    await asyncio.to_thread(held.begun.wait)
    gone.update(unwanted)
    held.released.set()
    await done.wait()
    return list(held.seen)


async def test_a_cancelled_text_is_not_tokenized(tokenizers: Tokenizers) -> None:
    sent = [(f"a{number}", "a", LONG) for number in range(5)]
    assert await _run(tokenizers, sent, {"a1", "a2", "a3"}) == ["a0", "a4"]


async def test_callers_take_turns_by_characters(tokenizers: Tokenizers) -> None:
    sent = [*((f"a{number}", "a", 4 * LONG) for number in range(3)), ("b0", "b", LONG), ("b1", "b", LONG)]
    assert await _run(tokenizers, sent, set()) == ["a0", "b0", "b1", "a1", "a2"]


async def test_one_caller_is_served_in_order(tokenizers: Tokenizers) -> None:
    sent = [(f"a{number}", "a", LONG) for number in range(4)]
    assert await _run(tokenizers, sent, set()) == ["a0", "a1", "a2", "a3"]
