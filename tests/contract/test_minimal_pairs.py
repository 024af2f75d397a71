"""Minimal pairs on served models: which models give different results for texts that differ in one thing.

The assertions hold by construction, whatever the weights are. The labels themselves are recorded in
models/README.md and not asserted.

    order      "dog bites man" / "man bites dog"
    negation   "I am happy" / "I am not happy"
    context    "went to the bank to deposit" / "sat by the river bank": right-hand or distant words
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from integration.harness import REPOSITORY, serve

from lockstep_client import Client

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from lockstep_client.results import Label

    Scores = npt.NDArray[np.float64]

BAGS = ("sentiment-bow", "sentiment-tfidf", "sentiment-mean")
UNORDERED = (*BAGS, "sentiment-attention")  # it has no positions
ONE_WAY = ("sentiment-rnn", "sentiment-gru", "sentiment-lstm")
WINDOWS = ("sentiment-textcnn", "sentiment-cnn2d")
LOOKING = ("sentiment-attention", "sentiment-transformer")
ORDERED = (*ONE_WAY, "sentiment-bilstm", *WINDOWS, "sentiment-transformer")
RECURRENT_WRITERS = ("captions-next-word", "captions-next-word-gru", "captions-next-word-lstm")
CONTEXT = "captions-context-cnn"
WRITERS = (*RECURRENT_WRITERS, CONTEXT)

EQUAL, APART = 1e-4, 1e-3  # largest difference through rounding; smallest real difference


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A client of a real server with the models of this test."""
    only = ",".join(sorted({*UNORDERED, *ORDERED, *WRITERS}))
    with serve(REPOSITORY, only=only) as server, Client(server.address) as one:
        yield one


def scores(client: Client, model: str, *texts: str) -> Scores:
    """Scores [texts, labels], before the activation."""
    answers = client.classify(model, list(texts))
    return np.array([_by_index(answer.labels) for answer in answers])


def followed(client: Client, model: str, text: str) -> list[Scores]:
    """The scores of all labels, or of the ten most likely next words, after each token."""
    top_k = 10 if model in WRITERS else 0
    return [_by_index(one.labels) for one in client.follow(model, text, top_k=top_k).result()]


def _by_index(labels: Iterable[Label]) -> Scores:
    return np.array([label.score for label in sorted(labels, key=lambda label: label.index)])


def apart(one: Scores, other: Scores) -> float:
    return float(np.abs(one - other).max())


# --- order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", UNORDERED)
def test_a_model_without_positions_ignores_word_order(client: Client, model: str) -> None:
    one, other, third = scores(client, model, "dog bites man", "man bites dog", "bites dog man")
    assert apart(one, other) <= EQUAL
    assert apart(one, third) <= EQUAL


@pytest.mark.parametrize("model", ORDERED)
def test_a_model_with_order_distinguishes_word_order(client: Client, model: str) -> None:
    one, other = scores(client, model, "dog bites man", "man bites dog")
    assert apart(one, other) > APART


AND = "and and and and"  # wider than any filter
FAR = (f"{AND} good {AND} bad {AND}", f"{AND} bad {AND} good {AND}")


@pytest.mark.parametrize("model", [*UNORDERED, *WINDOWS])
def test_filters_of_four_words_ignore_the_order_of_distant_words(client: Client, model: str) -> None:
    one, other = scores(client, model, *FAR)
    assert apart(one, other) <= EQUAL


@pytest.mark.parametrize("model", [model for model in ORDERED if model not in WINDOWS])
def test_a_state_or_positions_distinguish_the_order_of_distant_words(client: Client, model: str) -> None:
    one, other = scores(client, model, *FAR)
    assert apart(one, other) > APART


@pytest.mark.parametrize("model", WRITERS)
def test_the_continuation_depends_on_word_order(client: Client, model: str) -> None:
    one, other = (followed(client, model, text) for text in ("dog bites man", "man bites dog"))
    assert apart(one[-1], other[-1]) > APART


# --- negation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [*UNORDERED, *ORDERED])
def test_every_model_uses_the_word_not(client: Client, model: str) -> None:
    one, other = scores(client, model, "I am happy", "I am not happy")
    assert apart(one, other) > APART


def test_in_a_bag_of_words_not_has_the_same_effect_everywhere(client: Client) -> None:
    happy, unhappy, sad, unsad = scores(
        client, "sentiment-bow", "I am happy", "I am not happy", "I am sad", "I am not sad"
    )
    assert apart(unhappy - happy, unsad - sad) <= EQUAL


@pytest.mark.parametrize("model", [model for model in ORDERED if model not in WINDOWS])
def test_in_a_network_with_order_not_depends_on_what_it_negates(client: Client, model: str) -> None:
    happy, unhappy, sad, unsad = scores(
        client, model, "I am happy", "I am not happy", "I am sad", "I am not sad"
    )
    assert apart(unhappy - happy, unsad - sad) > APART


# --- context ------------------------------------------------------------------------------------------------

BANK = ("we went to the bank to deposit money", "we went to the bank of the river")


@pytest.mark.parametrize("model", [*ONE_WAY, *WRITERS])
def test_one_directional_models_have_no_right_hand_context(client: Client, model: str) -> None:
    one, other = (followed(client, model, text) for text in BANK)
    common = len(["we", "went", "to", "the", "bank"])
    assert all(np.array_equal(a, b) for a, b in zip(one[:common], other[:common], strict=True))
    assert apart(one[-1], other[-1]) > APART


@pytest.mark.parametrize("model", LOOKING)
def test_attention_uses_the_context_on_both_sides(client: Client, model: str) -> None:
    before, after = [], []
    for text in BANK:
        [encoding] = client.encode(model, text, attention=True)
        assert encoding.attention is not None
        at = encoding.tokens.index("bank")
        looked = encoding.attention[..., at, :].astype(np.float64)
        before.append(looked[..., : at + 1])
        after.append(looked[..., at + 1 :].sum(axis=-1))
    assert apart(*before) > APART  # the left context is equal; its weights depend on the right one
    assert min(share.max() for share in after) > 0.1


SITTING = ("a man in a red shirt is sitting on the", "two dogs and a small child were sitting on the")


def test_a_window_of_three_words_ignores_earlier_words(client: Client) -> None:
    one, other = (followed(client, CONTEXT, text) for text in SITTING)
    assert apart(one[-1], other[-1]) <= EQUAL
    assert apart(one[-4], other[-4]) > APART  # "is" and "were" are in the window


@pytest.mark.parametrize("model", RECURRENT_WRITERS)
def test_a_state_carries_words_that_a_window_has_lost(client: Client, model: str) -> None:
    one, other = (followed(client, model, text) for text in SITTING)
    assert apart(one[-1], other[-1]) > APART


def test_a_change_affects_as_many_positions_as_the_window_has(client: Client) -> None:
    tokens = np.arange(10, 22, dtype=np.int64)[None]
    changed = tokens.copy()
    changed[0, 4] = 99
    one, other = (client.infer(CONTEXT, {"tokens": ids})["logits"][0] for ids in (tokens, changed))
    reached = [position for position in range(12) if apart(one[position], other[position]) > EQUAL]
    assert reached == [4, 5, 6]
