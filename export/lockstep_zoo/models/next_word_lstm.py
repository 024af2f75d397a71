"""LSTM that predicts the next word: like the GRU, with a second, gated state.

e_t = E[word_t]                        E [vocabulary, 160]
h_t, c_t = LSTM(e_t, h_{t-1}, c_{t-1}) h, c [160], formulas in lockstep_export.recurrent
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
    """A WordLanguageModel with an LSTM."""
    return WordLanguageModel("LSTM", vocabulary)


RECIPE = LanguageModelRecipe(
    name="captions-next-word-lstm",
    about="LSTM of 160 that writes captions, one word a step",
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
    states={"h": (1, WIDTH), "c": (1, WIDTH)},
    max_tokens=60,
)
