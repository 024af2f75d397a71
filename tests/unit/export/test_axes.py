"""The notation for axes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_export.axes import read_axes
from lockstep_export.errors import DescriptionError

NAMES = st.lists(st.sampled_from(["words", "letters", "_", "7"]), max_size=3)


@given(before=NAMES, after=NAMES)
def test_what_is_named_varies_and_the_rest_is_fixed(before: list[str], after: list[str]) -> None:
    words = [*before, "batch", *after]
    axes = read_axes(" ".join(words), [7] * len(words), "x")
    assert axes.batch == len(before)
    assert axes.in_front[0] == "batch"
    assert len(axes.in_front) == len(words)
    assert axes.lengths == {axis: word for axis, word in enumerate(words) if word in ("words", "letters")}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("batch", "names 1, the example has 2"),
        ("batch words 4", "names 3, the example has 2"),
        ("batch 5", "says 5, the example has 4 there"),
        ("rows words", "has 0 axes named 'batch'"),
        ("batch batch", "has 2 axes named 'batch'"),
        ("batch word-count", "'word-count' is no name"),
    ],
)
def test_what_does_not_fit_is_told_with_the_notation(text: str, told: str) -> None:
    with pytest.raises(DescriptionError, match=told):
        read_axes(text, (3, 4), "tokens")
