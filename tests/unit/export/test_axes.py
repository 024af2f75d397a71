"""The notation for axes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_export.axes import read_axes
from lockstep_export.errors import DescriptionError

NAMES = st.lists(st.sampled_from(["words", "letters", "_", "7"]), max_size=3)


@given(before=NAMES, after=NAMES)
def test_named_axes_vary_and_others_are_fixed(before: list[str], after: list[str]) -> None:
    words = [*before, "batch", *after]
    axes = read_axes(" ".join(words), [7] * len(words), "x")
    assert axes.batch == len(before)
    assert axes.graph_axes[0] == "batch"
    assert len(axes.graph_axes) == len(words)
    assert axes.lengths == {axis: word for axis, word in enumerate(words) if word in ("words", "letters")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch", "names 1, but the example has 2"),
        ("batch words 4", "names 3, but the example has 2"),
        ("batch 5", "has size 5 where the example has 4"),
        ("rows words", "has 0 axes named 'batch'"),
        ("batch batch", "has 2 axes named 'batch'"),
        ("batch word-count", "'word-count' is not a valid name"),
    ],
)
def test_invalid_axes_are_rejected_with_the_notation(text: str, message: str) -> None:
    with pytest.raises(DescriptionError, match=message):
        read_axes(text, (3, 4), "tokens")
