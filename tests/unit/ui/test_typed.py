"""A stream follows a text that changes, by what it has not read yet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lockstep_ui.typed import Typed

TEXTS = st.text(alphabet="ab \n", max_size=8)


@given(st.lists(st.tuples(TEXTS, st.booleans()), max_size=8))
def test_the_pieces_of_one_stream_join_to_the_text(changes: list[tuple[str, bool]]) -> None:
    typed, sent = Typed(), ""
    for text, whole in changes:
        piece = typed.piece(text)
        if piece is None:
            typed, sent = Typed(), ""
            piece = text
        sent += piece
        assert sent == text
        typed = Typed(text, (typed.flushed and not piece) or whole)


@given(TEXTS, TEXTS)
def test_a_word_that_was_complete_does_not_grow(before: str, more: str) -> None:
    grows = bool(more) and not more[0].isspace()
    assert Typed(before, flushed=True).piece(before + more) == (None if grows else more)
    assert Typed(before).piece(before + more) == more


def test_a_change_before_the_end_needs_a_new_stream() -> None:
    assert Typed("a good film").piece("a bad film") is None
    assert Typed("a good film").piece("a good") is None
    assert Typed().piece("a good") == "a good"
