"""Incremental text joins to the decoded text, cut exactly before the first stop string."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import steps
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lockstep_server.text.detokenizer import Detokenizer, TextStream
from lockstep_server.text.tokenizer import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SENTENCES = [
    "the cat sat on the mat",
    "où est l'été ? à côté",
    "日本語のテキスト",
    "🙂🙃 smile 🇫🇷",
    "naïve café",
]


def id_of(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None
    return found


def byte_level() -> Tokenizer:
    """A byte-level BPE: a character may span several tokens, and a token may end within a character."""
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
    """Words joined by spaces: a token's text depends on the one before it."""
    words = ["[UNK]", "[END]", *sorted({word for text in SENTENCES for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["[END]"])
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def characters() -> Tokenizer:
    """The decoder `Fuse`, for which a table of token texts is used."""
    tokenizer = steps.characters()
    tokenizer.add_special_tokens(["[UNK]"])
    return tokenizer


TOKENIZERS = {"bytes": byte_level, "words": word_pieces, "characters": characters}


@cache
def detokenizer_for(kind: str) -> tuple[Tokenizer, Detokenizer]:
    tokenizer = TOKENIZERS[kind]()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        tokenizer.save(str(file))
        return tokenizer, Detokenizer(Vocabulary(file.read_bytes()))


def splits(ids: Sequence[int], data: Any) -> list[Sequence[int]]:
    """The ids in chunks, some of them empty."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=6)))
    return [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]


def outputs(text: TextStream, chunks: Iterable[Sequence[int]]) -> list[str]:
    return [*(text.add(chunk) for chunk in chunks), text.finish()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_outputs_of_any_split_join_to_the_text(kind: str, data: Any) -> None:
    tokenizer, detokenizer = detokenizer_for(kind)
    text = " ".join(data.draw(st.lists(st.sampled_from(SENTENCES), max_size=3)))
    ids = tokenizer.encode(text).ids
    parts = outputs(TextStream(detokenizer.stream()), splits(ids, data))
    assert "".join(parts) == tokenizer.decode(ids)
    assert not any("�" in part for part in parts)


@given(st.lists(st.integers(0, 299), max_size=30))
def test_outputs_of_random_ids_are_a_prefix_of_the_decoded_text(ids: list[int]) -> None:
    """Invalid bytes are returned as the decoder writes them; a partial character at the end is dropped."""
    tokenizer, detokenizer = detokenizer_for("bytes")
    parts = "".join(outputs(TextStream(detokenizer.stream()), [[one] for one in ids]))
    whole = tokenizer.decode(ids)
    assert whole.startswith(parts)
    assert set(whole[len(parts) :]) <= {"�"}


def test_a_partial_character_is_held_until_it_is_complete() -> None:
    tokenizer, detokenizer = detokenizer_for("bytes")
    ids = [id_of(tokenizer, one) for one in pre_tokenizers.ByteLevel().pre_tokenize_str("é")[0][0]]
    text = TextStream(detokenizer.stream())
    assert [text.add([one]) for one in ids][-2:] == ["", "é"]


def test_two_streams_are_independent() -> None:
    tokenizer, detokenizer = detokenizer_for("bytes")
    one, other = TextStream(detokenizer.stream()), TextStream(detokenizer.stream())
    parts = ["", ""]
    for a, b in zip(tokenizer.encode("été").ids, tokenizer.encode("日本語の").ids, strict=False):
        parts[0] += one.add([a])
        parts[1] += other.add([b])
    assert "été".startswith(parts[0])
    assert parts[0]
    assert "日本語の".startswith(parts[1])


def test_finish_returns_whole_characters_before_a_partial_one() -> None:
    tokenizer, detokenizer = detokenizer_for("bytes")
    texts = {i: tokenizer.decode([i]) for i in range(300)}
    token = next(i for i, text in texts.items() if text.endswith("�") and text.rstrip("�"))
    ids = [*tokenizer.encode("on").ids, token]
    assert "".join(outputs(TextStream(detokenizer.stream()), [ids])) == "on" + texts[token].rstrip("�")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_an_id_outside_the_vocabulary_has_no_text(kind: str) -> None:
    """A model may score more tokens than its tokenizer has."""
    tokenizer, detokenizer = detokenizer_for(kind)
    ids = tokenizer.encode("on").ids
    assert "".join(outputs(TextStream(detokenizer.stream()), [ids, [tokenizer.get_vocab_size() + 5]])) == "on"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_special_tokens_have_no_text(kind: str) -> None:
    tokenizer, detokenizer = detokenizer_for(kind)
    special = next(iter(tokenizer.get_added_tokens_decoder()))
    ids = [special, *tokenizer.encode("on").ids, special]
    assert "".join(outputs(TextStream(detokenizer.stream()), [ids])) == tokenizer.decode(ids) == "on"


def test_token_returns_the_vocabularys_spelling() -> None:
    tokenizer, detokenizer = detokenizer_for("words")
    assert detokenizer.token(id_of(tokenizer, "café")) == "café"
    assert detokenizer.token(10_000) == ""


# --- stop strings -----------------------------------------------------------------------------------


class Letters:
    """A decoder whose ids are code points, to test stop strings alone."""

    def add(self, ids: Iterable[int]) -> str:
        return "".join(map(chr, ids))

    def finish(self) -> str:
        return ""


def decode_letters(text: str, stops: tuple[str, ...], data: Any) -> tuple[TextStream, list[str]]:
    cut = TextStream(Letters(), stops)
    return cut, outputs(cut, splits([ord(letter) for letter in text], data))


@given(st.text("ab", max_size=30), st.text("ab", min_size=1, max_size=5), st.data())
def test_text_is_cut_before_the_stop_string_for_any_split(text: str, stop: str, data: Any) -> None:
    cut, parts = decode_letters(text, (stop,), data)
    assert "".join(parts) == text.partition(stop)[0]
    assert cut.stopped == (stop in text)


@given(st.text("abc", max_size=30), st.data())
def test_the_first_of_several_stop_strings_cuts(text: str, data: Any) -> None:
    stops = ("aab", "cb", "bb")  # none contains another, so the first to start is the first to end
    cut, parts = decode_letters(text, stops, data)
    places = [text.find(stop) for stop in stops if stop in text]
    assert "".join(parts) == text[: min(places, default=len(text))]
    assert cut.stopped == bool(places)


@pytest.mark.parametrize("stops", [("abc", "b"), ("abab", "ba"), ("aab", "ab", "bcc")])
@given(text=st.text("abc", max_size=30), data=st.data())
def test_the_overlapping_stop_string_that_ends_first_cuts(
    stops: tuple[str, ...], text: str, data: Any
) -> None:
    whole = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    _, parts = decode_letters(text, stops, data)
    assert "".join(parts) == (text[: min(whole)[1]] if whole else text)


@pytest.mark.parametrize(
    ("stops", "chunks", "expected"),
    [
        (("\n\n",), ["ab\n", "\ncd"], ["ab", "", ""]),
        (("END",), ["xE", "N", "x"], ["x", "", "ENx", ""]),
        (("END",), ["xEN"], ["x", "EN"]),  # the held start is returned at the end
        (("aab",), ["aaa", "ab"], ["a", "a", ""]),
        (("END", "stop"), ["a st", "E"], ["a ", "st", "E"]),
    ],
)
def test_a_possible_start_of_a_stop_string_is_held(
    stops: tuple[str, ...], chunks: list[str], expected: list[str]
) -> None:
    text = TextStream(Letters(), stops)
    assert outputs(text, [[ord(letter) for letter in chunk] for chunk in chunks]) == expected


def test_no_text_after_a_stop_string() -> None:
    text = TextStream(Letters(), ("b",))
    assert outputs(text, [[97, 98, 99], [100], [101]]) == ["a", "", "", ""]


def test_a_stray_byte_becomes_a_replacement_character_and_the_text_goes_on() -> None:
    """Decoded as a whole, the bytes before it would no longer be a character; they have been sent."""
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "x"]
    tokenizer = Tokenizer(
        models.BPE(
            {name: index for index, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True
        )
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    detokenizer = Detokenizer(Vocabulary(tokenizer.to_str().encode()))
    ids = [id_of(tokenizer, name) for name in ("x", "<0xEC>", "<0x84>", "<0xAC>", "<0xBB>", "a", "a")]
    assert "".join(outputs(TextStream(detokenizer.stream()), [[one] for one in ids])) == "x\uc12c\ufffdaa"


def test_a_vocabulary_with_gaps_loses_no_text() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 7}, unk_token="a"))
    tokenizer.decoder = decoders.Fuse()
    detokenizer = Detokenizer(Vocabulary(tokenizer.to_str().encode()))
    assert outputs(TextStream(detokenizer.stream()), [[0, 7, 3, 7]]) == ["abb", ""]
