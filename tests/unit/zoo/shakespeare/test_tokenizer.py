"""One token per character; text is restored exactly."""

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from unit.zoo.sample_data import PLAY

from lockstep_zoo.shakespeare.tokenizer import UNKNOWN_ID, character_tokenizer

TOKENIZER = character_tokenizer(PLAY)
KNOWN = "".join(sorted(set(PLAY)))


@given(st.text(alphabet=KNOWN, max_size=60))
def test_known_text_is_restored(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert len(ids) == len(text)
    assert TOKENIZER.decode(ids) == text


@given(st.lists(st.text(alphabet=KNOWN, max_size=9), max_size=6))
def test_token_texts_join_to_the_whole(parts: list[str]) -> None:
    texts = [TOKENIZER.decode([token]) for part in parts for token in TOKENIZER.encode(part).ids]
    assert "".join(texts) == "".join(parts)


def test_a_new_character_is_unknown() -> None:
    assert TOKENIZER.encode("K☃K").ids[1] == UNKNOWN_ID


def test_the_file_reads_back_the_same() -> None:
    again = Tokenizer.from_str(TOKENIZER.to_str())
    assert again.encode(PLAY).ids == TOKENIZER.encode(PLAY).ids
    assert again.token_to_id("\n") == 1
