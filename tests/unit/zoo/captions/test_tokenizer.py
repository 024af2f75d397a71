"""One token per word, including its space: tokens join to the text, and a continuation joins its prompt."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lockstep_zoo.captions.tokenizer import END_ID, SPECIAL, UNKNOWN_ID, encode, word_tokenizer

CAPTIONS = ("A man's dog, in the snow.", "Two dogs run.", "A man sleeps in the snow.")
TOKENIZER = word_tokenizer(CAPTIONS)
WORDS = (" a", " man", " dogs", " in", " the", " snow", ".", ",")


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12))
def test_known_text_is_restored(words: list[str]) -> None:
    text = "".join(words)
    back = TOKENIZER.decode(TOKENIZER.encode(text).ids)
    assert back.lstrip() == text.lstrip()


@given(st.integers(1, 6))
def test_a_continuation_joins_its_prompt(count: int) -> None:
    ids = TOKENIZER.encode("A man sleeps in the snow.").ids
    before, after = TOKENIZER.decode(ids[:count]), TOKENIZER.decode(ids[count:])
    assert before + after == " a man sleeps in the snow."


def test_case_and_white_space_have_no_effect() -> None:
    plain = TOKENIZER.encode("a man's dog").ids
    assert TOKENIZER.encode("  A MAN’S\n dog ").ids == plain
    assert UNKNOWN_ID not in plain


def test_parts_of_a_text_encode_to_the_whole() -> None:
    parts = [TOKENIZER.encode(part).ids for part in ("a man ", "sleeps ", "in the ", "snow .")]
    assert list(chain.from_iterable(parts)) == TOKENIZER.encode("a man sleeps in the snow.").ids


def test_rare_words_are_left_out() -> None:
    small = word_tokenizer(CAPTIONS, 5)
    assert small.get_vocab_size() == 5
    assert small.encode("a dog sleeps.").ids[1:3] == [UNKNOWN_ID, UNKNOWN_ID]


def test_an_empty_text_is_one_unknown_word() -> None:
    assert encode(TOKENIZER, ["", " a man"]) == [[UNKNOWN_ID], TOKENIZER.encode("a man").ids]


def test_special_tokens_have_no_text() -> None:
    assert [TOKENIZER.token_to_id(word) for word in SPECIAL] == [UNKNOWN_ID, END_ID]
    assert TOKENIZER.decode([END_ID, UNKNOWN_ID]) == ""


def test_the_file_reads_back_the_same() -> None:
    again = Tokenizer.from_str(TOKENIZER.to_str())
    assert again.encode(CAPTIONS[0]).ids == TOKENIZER.encode(CAPTIONS[0]).ids
