"""A card says what was measured, what goes in and out, and what to beware of."""

from pathlib import Path

import pytest
from unit.zoo.sample_data import CLASSIFIERS, ZOO, as_built

from lockstep_zoo.model_card import model_card
from lockstep_zoo.scores import Score
from lockstep_zoo.sources import LIMITS, SOURCES

SCORE = Score("a-model", "classify", "sst2", 1234, 5678, "accuracy", 0.805, 0.8125, 3, 21.4)


@pytest.fixture
def written(tmp_path: Path) -> str:
    recipe = ZOO["sentiment-gru"]
    as_built(recipe.name, tmp_path)
    manifest = {"labels": ["bad", "good"], "lengths": {"words": {"max": 4096}}}
    return model_card(recipe, SCORE, manifest, tmp_path)


def test_says_what_was_measured(written: str) -> None:
    for row in ("| accuracy | dev 80.5%, test 81.2% |", "| parameters | 1,234 |", "| labels | bad, good |"):
        assert row in written
    assert "best of epoch 3, 21 s of one thread" in written
    assert 'lockstep classify --model sentiment-gru "a fine film"' in written


def test_names_every_tensor_of_every_face(written: str) -> None:
    for row in (
        "| in | `tokens` | int64 | [batch, words] |",
        "| out | `logits` | float | [batch, 1] |",
        "| in | `h_in` | float | [1, batch, 64] |",
        "| out | `h_out` | float | [1, batch, 64] |",
    ):
        assert row in written


def test_lines_stay_short(written: str) -> None:
    assert max(map(len, written.splitlines())) <= 110


@pytest.mark.parametrize("name", ZOO)
def test_every_corpus_has_its_terms_and_every_model_a_limit(name: str) -> None:
    recipe = ZOO[name]
    assert recipe.corpus in SOURCES
    assert recipe.limits + LIMITS[recipe.corpus]


def test_every_classifier_tells_a_limit_of_its_own() -> None:
    assert all(ZOO[name].limits for name in CLASSIFIERS)
