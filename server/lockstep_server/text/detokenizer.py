"""Detokenizes a sequence incrementally: the parts returned join to the exact text.

ids -> text so far -> minus what may still change (a partial character, the start of a stop string).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

from tokenizers.decoders import DecodeStream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenizers import Tokenizer

    from .tokenizer import Vocabulary


class _IdDecoder(Protocol):
    """Decodes ids incrementally. `finish` returns the held text, without a partial character at its end."""

    def add(self, ids: Iterable[int]) -> str: ...

    def finish(self) -> str: ...


class Detokenizer:
    """Decodes the ids of a vocabulary. Not thread-safe.

    If a token's text does not depend on its neighbours (the decoder is `Fuse`), it is looked up in a table.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer = vocabulary.tokenizer
        self._texts = _token_texts(self._tokenizer)

    def stream(self) -> _IdDecoder:
        """A decoder for one sequence."""
        return _TableDecoder(self._texts) if self._texts is not None else _StreamDecoder(self._tokenizer)

    def token(self, id: int) -> str:  # noqa: A002
        """The token of an id as the vocabulary writes it; "" if unknown."""
        return self._tokenizer.id_to_token(id) or ""


class _TableDecoder:
    def __init__(self, texts: _TokenTexts) -> None:
        self._text_of = texts.__getitem__

    def add(self, ids: Iterable[int]) -> str:
        return "".join(map(self._text_of, ids))

    def finish(self) -> str:
        return ""


class _StreamDecoder:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._decoder = tokenizer, DecodeStream(skip_special_tokens=True)
        self._last: list[int] = []  # ids of the last text returned
        self._held: list[int] = []  # ids since then, without text so far

    def add(self, ids: Iterable[int]) -> str:
        texts = []
        for id in ids:  # noqa: A001
            self._held.append(id)
            try:
                text = self._decoder.step(self._tokenizer, id)
            except Exception:  # a stray byte: the bytes before it would no longer be what they were
                self._decoder = DecodeStream(skip_special_tokens=True)
                text = self._tokenizer.decode(self._held)
            if text:
                texts.append(text)
                self._last, self._held = self._held, []
        return "".join(texts)

    def finish(self) -> str:
        if not self._held:
            return ""
        before = self._tokenizer.decode(self._last)
        return self._tokenizer.decode(self._last + self._held)[len(before) :].rstrip("\ufffd")


class _TokenTexts(dict[int, str]):
    """Text by id; "" for ids outside the vocabulary, since a model may score more ids than it has."""

    def __missing__(self, key: int) -> str:
        return ""


def _token_texts(tokenizer: Tokenizer) -> _TokenTexts | None:
    """None if the decoder does more than join the texts."""
    described = json.loads(tokenizer.to_str())
    decoder = described.get("decoder")
    if decoder is None or decoder.get("type") != "Fuse":
        return None
    special = {token["id"] for token in described.get("added_tokens", ()) if token.get("special")}
    ids = tokenizer.get_vocab(with_added_tokens=True).items()  # they may have gaps
    return _TokenTexts((id, token) for token, id in ids if id not in special)  # noqa: A001


class TextStream:
    """The text of one sequence, cut before its first stop string."""

    def __init__(self, stream: _IdDecoder, stops: tuple[str, ...] = ()) -> None:
        self._stream, self._stops = stream, stops
        self._held = ""
        self.stopped = False

    def add(self, ids: Iterable[int]) -> str:
        """Add ids. Returns the text that is now final; "" once a stop string was found."""
        text = self._stream.add(ids)
        if not self._stops:
            return text
        if self.stopped:
            return ""
        self._held += text
        # Choose the stop string that ends first, so that the result does not depend on how ids arrive.
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            final, self._held = self._held[: min(found)[1]], ""
            return final
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        final, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return final

    def finish(self) -> str:
        """End the sequence. Returns the held text."""
        if self.stopped:
            return ""
        rest, self._held = self._held + self._stream.finish(), ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a start of `stop`, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
