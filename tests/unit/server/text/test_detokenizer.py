"""Pieces of any split join to the decoded text, cut exactly before the first stop string."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lockstep_server.text.detokenizer import Detokenizer, TextStream
from lockstep_server.text.tokenizer import Vocabulary
from tests import steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SENTENCES = [
    "the cat sat on the mat",
    "où est l'été ? à côté",
    "日本語のテキスト",
    "🙂🙃 smile 🇫🇷",
    "naïve café",
]


def byte_level() -> Tokenizer:
    """A byte-level BPE: a character may lie in several tokens, a token may hold half a character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["[BEGIN]"], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    return tokenizer


def word_pieces() -> Tokenizer:
    """Words joined by spaces: a token's text hangs on what is before it."""
    words = ["[UNK]", "[END]", *sorted({word for text in SENTENCES for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["[END]"])
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def characters() -> Tokenizer:
    """The decoder `Fuse`: a table of texts will do."""
    tokenizer = steps.characters()
    tokenizer.add_special_tokens(["[UNK]"])
    return tokenizer


TOKENIZERS = {"bytes": byte_level, "words": word_pieces, "characters": characters}


@cache
def pieces_of(kind: str) -> tuple[Tokenizer, Detokenizer]:
    tokenizer = TOKENIZERS[kind]()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        tokenizer.save(str(file))
        return tokenizer, Detokenizer(Vocabulary(file))


def splits(ids: Sequence[int], data: Any) -> list[Sequence[int]]:
    """The ids in chunks, some of them empty."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=6)))
    return [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]


def said(text: TextStream, chunks: Iterable[Sequence[int]]) -> list[str]:
    return [*(text.add(chunk) for chunk in chunks), text.finish()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_pieces_of_any_split_join_to_the_text(kind: str, data: Any) -> None:
    tokenizer, pieces = pieces_of(kind)
    text = " ".join(data.draw(st.lists(st.sampled_from(SENTENCES), max_size=3)))
    ids = tokenizer.encode(text).ids
    heard = said(TextStream(pieces.stream()), splits(ids, data))
    assert "".join(heard) == tokenizer.decode(ids)
    assert not any("�" in piece for piece in heard)


@given(st.lists(st.integers(0, 299), max_size=30))
def test_whatever_a_model_makes_its_pieces_are_a_beginning_of_the_text(ids: list[int]) -> None:
    """Bytes that make no character are told as the decoder tells them; half a one at the end is not."""
    tokenizer, pieces = pieces_of("bytes")
    heard = "".join(said(TextStream(pieces.stream()), [[one] for one in ids]))
    whole = tokenizer.decode(ids)
    assert whole.startswith(heard)
    assert set(whole[len(heard) :]) <= {"�"}


def test_half_a_character_is_held_until_it_is_whole() -> None:
    tokenizer, pieces = pieces_of("bytes")
    ids = [tokenizer.token_to_id(one) for one in pre_tokenizers.ByteLevel().pre_tokenize_str("é")[0][0]]
    text = TextStream(pieces.stream())
    assert [text.add([one]) for one in ids][-2:] == ["", "é"]


def test_two_streams_do_not_hear_each_other() -> None:
    tokenizer, pieces = pieces_of("bytes")
    one, other = TextStream(pieces.stream()), TextStream(pieces.stream())
    heard = ["", ""]
    for a, b in zip(tokenizer.encode("été").ids, tokenizer.encode("日本語の").ids, strict=False):
        heard[0] += one.add([a])
        heard[1] += other.add([b])
    assert "été".startswith(heard[0])
    assert heard[0]
    assert "日本語の".startswith(heard[1])


def test_whole_characters_before_half_a_one_are_said_at_the_end() -> None:
    tokenizer, pieces = pieces_of("bytes")
    texts = {i: tokenizer.decode([i]) for i in range(300)}
    token = next(i for i, text in texts.items() if text.endswith("�") and text.rstrip("�"))
    ids = [*tokenizer.encode("on").ids, token]
    assert "".join(said(TextStream(pieces.stream()), [ids])) == "on" + texts[token].rstrip("�")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_an_id_outside_the_vocabulary_has_no_text(kind: str) -> None:
    """A model may score more tokens than its tokenizer has."""
    tokenizer, pieces = pieces_of(kind)
    ids = tokenizer.encode("on").ids
    assert "".join(said(TextStream(pieces.stream()), [ids, [tokenizer.get_vocab_size() + 5]])) == "on"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_special_tokens_have_no_text(kind: str) -> None:
    tokenizer, pieces = pieces_of(kind)
    special = next(iter(tokenizer.get_added_tokens_decoder()))
    ids = [special, *tokenizer.encode("on").ids, special]
    assert "".join(said(TextStream(pieces.stream()), [ids])) == tokenizer.decode(ids) == "on"


def test_a_token_has_its_own_name() -> None:
    tokenizer, pieces = pieces_of("words")
    assert pieces.token(tokenizer.token_to_id("café")) == "café"
    assert pieces.token(10_000) == ""


# --- stop strings -----------------------------------------------------------------------------------


class Letters:
    """A stream whose ids are code points: what remains is the cutting."""

    def add(self, ids: Iterable[int]) -> str:
        return "".join(map(chr, ids))

    def finish(self) -> str:
        return ""


def heard_letters(text: str, stops: tuple[str, ...], data: Any) -> tuple[TextStream, list[str]]:
    cut = TextStream(Letters(), stops)
    return cut, said(cut, splits([ord(letter) for letter in text], data))


@given(st.text("ab", max_size=30), st.text("ab", min_size=1, max_size=5), st.data())
def test_text_is_cut_before_the_first_stop_wherever_chunks_end(text: str, stop: str, data: Any) -> None:
    cut, heard = heard_letters(text, (stop,), data)
    assert "".join(heard) == text.partition(stop)[0]
    assert cut.stopped == (stop in text)


@given(st.text("abc", max_size=30), st.data())
def test_of_several_stops_the_first_cuts(text: str, data: Any) -> None:
    stops = ("aab", "cb", "bb")  # none lies within another, so the first to begin is the first to end
    cut, heard = heard_letters(text, stops, data)
    places = [text.find(stop) for stop in stops if stop in text]
    assert "".join(heard) == text[: min(places, default=len(text))]
    assert cut.stopped == bool(places)


@pytest.mark.parametrize("stops", [("abc", "b"), ("abab", "ba"), ("aab", "ab", "bcc")])
@given(text=st.text("abc", max_size=30), data=st.data())
def test_of_stops_that_overlap_the_one_that_is_whole_first_cuts(
    stops: tuple[str, ...], text: str, data: Any
) -> None:
    whole = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    _, heard = heard_letters(text, stops, data)
    assert "".join(heard) == (text[: min(whole)[1]] if whole else text)


@pytest.mark.parametrize(
    ("stops", "chunks", "expected"),
    [
        (("\n\n",), ["ab\n", "\ncd"], ["ab", "", ""]),
        (("END",), ["xE", "N", "x"], ["x", "", "ENx", ""]),
        (("END",), ["xEN"], ["x", "EN"]),  # the beginning that was held back is said at the end
        (("aab",), ["aaa", "ab"], ["a", "a", ""]),
        (("END", "stop"), ["a st", "E"], ["a ", "st", "E"]),
    ],
)
def test_what_may_be_a_beginning_is_held_back(
    stops: tuple[str, ...], chunks: list[str], expected: list[str]
) -> None:
    text = TextStream(Letters(), stops)
    assert said(text, [[ord(letter) for letter in chunk] for chunk in chunks]) == expected


def test_after_a_stop_nothing_is_said() -> None:
    text = TextStream(Letters(), ("b",))
    assert said(text, [[97, 98, 99], [100], [101]]) == ["a", "", "", ""]
