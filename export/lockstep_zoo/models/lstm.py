"""LSTM: reads from left to right and classifies by the last real state.

    e_t = E[token_t]                       E [vocabulary, 128]
    h_t, c_t = LSTM(e_t, h_{t-1}, c_{t-1}) h, c [64], formulas in lockstep_export.recurrent
    logit = w · relu(V h_T + b) + b'       V [32, 64], T the row's own length, not the padded one

Dropout 0.2 on the last state and 0.5 on the embeddings, which hold nine tenths of the weights.
One logit: P(positive) = σ(logit).
"""

from torch import nn

from lockstep_zoo.models.recurrent_classifier import RecurrentClassifier, RecurrentClassifierStep, dense
from lockstep_zoo.recipe import ClassifierRecipe, Training


def build(vocabulary: int) -> nn.Module:
    """A RecurrentClassifier with an LSTM."""
    return RecurrentClassifier("LSTM", vocabulary, dense)


RECIPE = ClassifierRecipe(
    name="sentiment-lstm",
    about="LSTM of 64, last real state; whole texts or word by word",
    build=build,
    training=Training(learning_rate=0.002, word_dropout=0.1),
    activation="sigmoid",
    companion="lengths",
    outputs=("logits", "vector"),
    step=RecurrentClassifierStep,
    states=("h", "c"),
    limits=(
        "It reads from left to right: a word is interpreted without its right-hand context.",
        "Less accurate than the bag of words (81.5%), the baseline for every network; with 1,821 sentences "
        "the difference is not significant.",
    ),
)
