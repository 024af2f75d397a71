"""GRU: one state instead of the LSTM's two, and three quarters of its recurrent weights.

    e_t = E[token_t]                       E [vocabulary, 128]
    r, z = σ(W [h_{t-1}, e_t] + b)         r: how much of the past is used, z: how much of it is kept
    n = tanh(W e_t + r·(R h_{t-1}) + b)    r weighs R h, not h: the form that fused kernels compute
    h_t = z·h_{t-1} + (1 − z)·n            h [64]
    logit = w · relu(V h_T + b) + b'       V [32, 64], T the row's own length

One logit: P(positive) = σ(logit).
"""

from torch import nn

from lockstep_zoo.models.recurrent_classifier import RecurrentClassifier, RecurrentClassifierStep, dense
from lockstep_zoo.recipe import ClassifierRecipe, Training


def build(vocabulary: int) -> nn.Module:
    """A RecurrentClassifier with a GRU."""
    return RecurrentClassifier("GRU", vocabulary, dense)


RECIPE = ClassifierRecipe(
    name="sentiment-gru",
    about="GRU of 64, last real state; whole texts or word by word",
    build=build,
    training=Training(learning_rate=0.002, word_dropout=0.1),
    activation="sigmoid",
    companion="lengths",
    outputs=("logits", "vector"),
    step=RecurrentClassifierStep,
    states=("h",),
    limits=("It reads from left to right: a word is interpreted without its right-hand context.",),
)
