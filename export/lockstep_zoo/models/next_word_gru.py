"""GRU that predicts the next word: like the Elman RNN, with gates for what the state keeps.

e_t = E[word_t]                        E [vocabulary, 160]
r, z = σ(W [h_{t-1}, e_t] + b)         r: how much of the past is used, z: how much of it is kept
n = tanh(W e_t + r·(R h_{t-1}) + b)
h_t = z·h_{t-1} + (1 − z)·n            h [160]
logits = E h_t + b'                    P(next word) = softmax(logits); E is input and output
"""

from torch import nn

from lockstep_zoo.models.word_language_model import (
    WIDTH,
    WordLanguageModel,
    WordLanguageModelPrefill,
    WordLanguageModelStep,
)
from lockstep_zoo.recipe import LanguageModelRecipe, Training


def build(vocabulary: int) -> nn.Module:
    """A WordLanguageModel with a GRU."""
    return WordLanguageModel("GRU", vocabulary)


RECIPE = LanguageModelRecipe(
    name="captions-next-word-gru",
    about="GRU of 160 that writes captions, one word a step",
    build=build,
    training=Training(
        learning_rate=0.008,
        weight_decay=0.0,
        rows=64,
        epochs=8,
        averaging=0.998,
        word_dropout=0.02,
        declines=True,
        bfloat16=True,
    ),
    corpus="captions",
    step=WordLanguageModelStep,
    prefill=WordLanguageModelPrefill,
    states={"h": (1, WIDTH)},
    max_tokens=60,
)
