"""Text is restored; the case and spacing of a source have no effect."""

import pytest
from unit.zoo.sample_data import PAIRS

from lockstep_zoo.translate.tokenizer import (
    BEGIN_ID,
    END_ID,
    PAD_ID,
    SPECIAL,
    UNKNOWN_ID,
    decode,
    encode,
    train_tokenizer,
)

SOURCES, TARGETS = ([pair[side] for pair in PAIRS] * 3 for side in (0, 1))
SOURCE = train_tokenizer(SOURCES, 200, cased=False)
TARGET = train_tokenizer(TARGETS, 200)


@pytest.mark.parametrize("text", [*TARGETS[:3], "Un chien sur l'eau. Deux hommes.", "l'herbe."])
def test_targets_are_restored_exactly(text: str) -> None:
    assert decode(TARGET, encode(TARGET, [text], 99)) == [text]


def test_an_elision_keeps_its_apostrophe() -> None:
    pieces = TARGET.encode("sur l’herbe").tokens
    assert "".join(pieces) == "▁sur▁l'herbe"
    assert any(piece.endswith("'") for piece in pieces)


@pytest.mark.parametrize("text", ["a MAN  sleeps.", " A man sleeps.\n", "A Man Sleeps."])
def test_case_and_white_space_of_a_source_have_no_effect(text: str) -> None:
    assert SOURCE.encode(text).ids == SOURCE.encode("A man sleeps.").ids


def test_fixed_ids_without_padding_and_truncation() -> None:
    ids = [TARGET.token_to_id(name) for name in SPECIAL]
    assert ids == [PAD_ID, UNKNOWN_ID, BEGIN_ID, END_ID] == [0, 1, 2, 3]
    assert SOURCE.padding is None
    assert SOURCE.truncation is None


def test_special_ids_have_no_text() -> None:
    ids = encode(TARGET, ["Un homme"], 99)[0]
    assert TARGET.decode([BEGIN_ID, *ids, END_ID, PAD_ID]) == "Un homme"


def test_encode_truncates_and_never_gives_an_empty_row() -> None:
    assert encode(SOURCE, ["A man sleeps.", ""], 2)[1] == [UNKNOWN_ID]
    assert len(encode(SOURCE, ["A man sleeps."], 2)[0]) == 2
    assert UNKNOWN_ID in encode(SOURCE, ["a ☃"], 9)[0]


def test_equal_texts_give_equal_tokenizers() -> None:
    assert train_tokenizer(TARGETS, 200).to_str() == TARGET.to_str()
