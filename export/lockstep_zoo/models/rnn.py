"""Elman RNN: the simplest recurrence, one tanh of the previous state and the next word.

    e_t = E[token_t]                       E [vocabulary, 128]
    h_t = tanh(W e_t + R h_{t-1} + b)      h [64]
    logit = w · h_T + b'                   T the row's own length, not the padded one

There are no gates: the effect of a word fades with every step. One logit: P(positive) = σ(logit).
"""

from torch import nn

from lockstep_zoo.models.recurrent_classifier import RecurrentClassifier, RecurrentClassifierStep, plain
from lockstep_zoo.recipe import ClassifierRecipe, Training


def build(vocabulary: int) -> nn.Module:
    """A RecurrentClassifier with an Elman RNN."""
    return RecurrentClassifier("RNN", vocabulary, plain)


RECIPE = ClassifierRecipe(
    name="sentiment-rnn",
    about="Elman RNN of 64, last real state; whole texts or word by word",
    build=build,
    training=Training(learning_rate=0.0005, word_dropout=0.25, averaging=0.995),
    activation="sigmoid",
    companion="lengths",
    outputs=("logits", "vector"),
    step=RecurrentClassifierStep,
    states=("h",),
    limits=(
        "It classifies by its last state, in which early words have faded: the least accurate model of the "
        "zoo, and the only one that is significantly below the bag of words (81.5%).",
    ),
)
