"""Beam search as a pure function: the best texts, when it ends, and scores as transformers has them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from lockstep_server.engine.stepwise.beams import BeamSearch, BeamSettings, log_softmax

END, TOKENS = 0, 4


def chances(ids: tuple[int, ...]) -> Any:
    """Log-probabilities of the token after these ids: of a random, fixed model."""
    seed = sum((place + 1) * 7**place * (token + 1) for place, token in enumerate(ids))
    return log_softmax(np.random.default_rng(seed).standard_normal((1, TOKENS)).astype(np.float32) * 2)[0]


def search(beams: int, limit: int, length_penalty: float = 1.0, *, early: bool = False) -> BeamSearch:
    """A whole search with `chances`."""
    one = BeamSearch(BeamSettings(beams, length_penalty, early), (END,))
    while not one.done:
        rows = np.stack([chances(tuple(one.chosen(beam))) for beam in range(beams)])
        source, tokens = one.advance(rows, limit)
        assert source.shape == tokens.shape == (beams,)
        assert tokens.tolist() == [one.chosen(beam)[-1] for beam in range(beams)]
    return one


def every_text(limit: int, length_penalty: float) -> list[tuple[float, tuple[int, ...]]]:
    """All texts with their scores, best first."""
    found = []
    for length in range(1, limit + 1):
        for ids in itertools.product(range(TOKENS), repeat=length):
            if END in ids[:-1] or (length < limit and ids[-1] != END):
                continue
            total = sum(float(chances(ids[:place])[token]) for place, token in enumerate(ids))
            found.append((total / length**length_penalty, ids))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_as_many_beams_as_texts_find_the_best_of_all(length_penalty: float) -> None:
    expected = every_text(3, length_penalty)[:3]
    found = search(64, 3, length_penalty).candidates()[:3]
    assert [one.ids for one in found] == [ids for _, ids in expected]
    assert [one.score for one in found] == pytest.approx([score for score, _ in expected], abs=1e-5)
    assert [one.reason for one in found] == ["end" if one.ids[-1] == END else "length" for one in found]


def test_candidates_are_sorted_and_as_many_as_beams() -> None:
    found = search(5, 8).candidates()
    assert len(found) == 5
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert len({one.ids for one in found}) == 5


def test_early_stopping_ends_with_the_last_text_that_is_needed() -> None:
    late, early = (search(3, 12, 0.0, early=early).candidates() for early in (False, True))
    assert max(len(one.ids) for one in early) <= max(len(one.ids) for one in late)
    one = BeamSearch(BeamSettings(2, 1.0, True), (END,))
    sure = np.log(np.array([[0.9, 0.1, 1e-6, 1e-6]] * 2, np.float32))
    one.advance(sure, 9)
    assert not one.done
    one.advance(sure, 9)
    assert one.done
    assert [candidate.ids for candidate in one.candidates()] == [(END,), (1, END)]


def test_more_beams_than_tokens_are_filled_up() -> None:
    one = BeamSearch(BeamSettings(8, 1.0, False), (END,))
    source, tokens = one.advance(chances(())[None], 9)
    assert (len(source), len(tokens)) == (8, 8)
    assert len({tuple(each.ids) for each in search(8, 4).candidates()}) == 8


def test_a_search_that_must_end_keeps_its_beams() -> None:
    one = BeamSearch(BeamSettings(2, 1.0, False), ())
    one.advance(chances(())[None], 9)
    assert not one.candidates()
    one.close()
    assert one.done
    best = np.argsort(-chances(()))[:2].tolist()
    assert [each.ids for each in one.candidates()] == [(token,) for token in best]
    assert all(each.reason == "length" and math.isfinite(each.score) for each in one.candidates())
