"""Ids back to text, piece by piece: the pieces of all messages join to the exact text.

A piece is held back while it may still change: half a character, or the beginning of a stop string.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

from tokenizers.decoders import DecodeStream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenizers import Tokenizer

    from .tokenizer import Vocabulary


class _Stream(Protocol):
    """Text of ids that come one after another. `finish` gives what was held back, but half a character."""

    def add(self, ids: Iterable[int]) -> str: ...

    def finish(self) -> str: ...


class Detokenizer:
    """The vocabulary of what a model makes. One thread's.

    Where a token's text does not hang on its neighbours (the decoder `Fuse`), a table of texts does.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer = vocabulary.open()
        self._table = _table(self._tokenizer)

    def stream(self) -> _Stream:
        return _Joined(self._table) if self._table is not None else _Decoded(self._tokenizer)

    def token(self, id: int) -> str:  # noqa: A002
        """One token's own name in the vocabulary."""
        return self._tokenizer.id_to_token(id) or ""


class _Joined:
    def __init__(self, table: _Table) -> None:
        self._text_of = table.__getitem__

    def add(self, ids: Iterable[int]) -> str:
        return "".join(map(self._text_of, ids))

    def finish(self) -> str:
        return ""


class _Decoded:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._decoder = tokenizer, DecodeStream(skip_special_tokens=True)
        self._said: list[int] = []  # ids of the last piece
        self._held: list[int] = []  # ids since, that have given none

    def add(self, ids: Iterable[int]) -> str:
        pieces = []
        for one in ids:
            self._held.append(one)
            if piece := self._decoder.step(self._tokenizer, one):
                pieces.append(piece)
                self._said, self._held = self._held, []
        return "".join(pieces)

    def finish(self) -> str:
        if not self._held:
            return ""
        before = self._tokenizer.decode(self._said)
        return self._tokenizer.decode(self._said + self._held)[len(before) :].rstrip("\ufffd")


class _Table(dict[int, str]):
    """Each id's text; ids that the tokenizer has not (a model may score more) have none."""

    def __missing__(self, key: int) -> str:
        return ""


def _table(tokenizer: Tokenizer) -> _Table | None:
    """None where the decoder does more than join them."""
    described = json.loads(tokenizer.to_str())
    decoder = described.get("decoder")
    if decoder is None or decoder.get("type") != "Fuse":
        return None
    special = {token["id"] for token in described.get("added_tokens", ()) if token.get("special")}
    size = tokenizer.get_vocab_size()
    return _Table((one, tokenizer.id_to_token(one) or "") for one in range(size) if one not in special)


class TextStream:
    """The text of one sequence, cut before the first of its stop strings."""

    def __init__(self, stream: _Stream, stops: tuple[str, ...] = ()) -> None:
        self._stream, self._stops = stream, stops
        self._held = ""
        self.stopped = False

    def add(self, ids: Iterable[int]) -> str:
        """What can be said now that these ids have come; nothing after a stop string was found."""
        text = self._stream.add(ids)
        if not self._stops:
            return text
        if self.stopped:
            return ""
        self._held += text
        # The stop that is whole first: which one that is does not hang on where pieces end.
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            said, self._held = self._held[: min(found)[1]], ""
            return said
        keep = max(_beginning(self._held, stop) for stop in self._stops)
        said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return said

    def finish(self) -> str:
        """What was held back, at the end."""
        if self.stopped:
            return ""
        said, self._held = self._held + self._stream.finish(), ""
        return said


def _beginning(text: str, stop: str) -> int:
    """Characters at the end of `text` that may be the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
