"""A model card lists figures, inputs and outputs, and known limits."""

import pytest
from unit.zoo.sample_data import CLASSIFIERS, ZOO, quick_pipeline

from lockstep_zoo.model_card import model_card
from lockstep_zoo.scores import Score
from lockstep_zoo.sources import LIMITS, SOURCES

SCORE = Score("a-model", "classify", "sst2", 1234, 5678, "accuracy", 0.805, 0.8125, 3, 21.4)


@pytest.fixture
def card() -> str:
    recipe = ZOO["sentiment-gru"]
    manifest = {"labels": ["bad", "good"], "lengths": {"words": {"max": 4096}}}
    return model_card(recipe, SCORE, manifest, quick_pipeline().version(recipe.name))


def test_lists_the_figures(card: str) -> None:
    for row in ("| accuracy | dev 80.5%, test 81.2% |", "| parameters | 1,234 |", "| labels | bad, good |"):
        assert row in card
    assert "best epoch 3, 21 s on one thread" in card
    assert 'lockstep classify --model sentiment-gru "a fine film"' in card


def test_lists_every_tensor_of_every_graph(card: str) -> None:
    for row in (
        "| in | `tokens` | int64 | [batch, words] |",
        "| out | `logits` | float | [batch, 1] |",
        "| in | `h_in` | float | [1, batch, 64] |",
        "| out | `h_out` | float | [1, batch, 64] |",
    ):
        assert row in card


def test_lines_stay_short(card: str) -> None:
    assert max(map(len, card.splitlines())) <= 110


@pytest.mark.parametrize("name", ZOO)
def test_every_corpus_has_terms_of_use_and_every_model_a_limit(name: str) -> None:
    recipe = ZOO[name]
    assert recipe.corpus in SOURCES
    assert recipe.limits + LIMITS[recipe.corpus]


def test_every_classifier_has_a_specific_limit() -> None:
    assert all(ZOO[name].limits for name in CLASSIFIERS)
