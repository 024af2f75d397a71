"""The text of the best labels of frames, whole and element by element."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_server.api import transcribe
from lockstep_server.model.manifest import Manifest
from lockstep_server.model.spec import ModelSpec

LABELS = ("a", "<blank>", " ", "bc")
SPEC = ModelSpec("m", 1, Manifest(task="ctc", labels=LABELS, blank=1), (), ())
BEST = st.lists(st.integers(0, len(LABELS) - 1), max_size=30)


def plainly(best: list[int]) -> str:
    """The text by the definition: repetitions are removed, then blanks."""
    return "".join(LABELS[label] for label, _ in groupby(best) if label != 1).lstrip()


def array(best: list[int]) -> Any:
    return np.array(best, np.int32)


@given(BEST)
def test_repetitions_are_removed_before_blanks(best: list[int]) -> None:
    ids, starts, ends = transcribe.collapse(array(best), 1)
    assert transcribe.text_of(SPEC, ids).lstrip() == plainly(best)
    for label, start, end in zip(ids, starts, ends, strict=True):
        assert set(best[start:end]) == {label}
        assert best[start - 1 : start] != [label]
        assert best[end : end + 1] != [label]


@pytest.mark.parametrize("rereads", [False, True])
@given(best=BEST, cuts=st.lists(st.integers(1, 5), min_size=30, max_size=30))
def test_the_parts_of_a_stream_make_the_text_of_all_of_it(
    rereads: bool, best: list[int], cuts: list[int]
) -> None:
    running, text, at = transcribe.RunningText(SPEC, rereads=rereads), "", 0
    for size in cuts:
        before, at = at, min(at + size, len(best))
        kept, added = running.add(array(best[:at] if rereads else best[before:at]))
        assert kept <= len(text)
        text = text[:kept] + added
        assert text == plainly(best[:at])


def test_a_model_that_reads_all_again_may_change_its_mind() -> None:
    running = transcribe.RunningText(SPEC, rereads=True)
    assert running.add(array([0, 1, 0])) == (0, "aa")
    assert running.add(array([0, 3, 3, 0])) == (1, "bca")
    assert running.add(array([0])) == (1, "")
