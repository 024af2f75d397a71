"""Recurrent networks that predict the next word: "a man is sitting on the ___".

    e_t = E[word_t]                        E [vocabulary, 160]
    logits = E h_t + b'                    P(next word) = softmax(logits); E is input and output

The three differ in their state:

    Elman RNN   h_t = tanh(W e_t + R h_{t-1} + b)       h [160]: one state and no gates, so that every word
                                                        overwrites a part of what was read before
    GRU         r, z = σ(W [h_{t-1}, e_t] + b)          r: how much of the past is used, z: how much is kept
                n = tanh(W e_t + r·(R h_{t-1}) + b)
                h_t = z·h_{t-1} + (1 − z)·n             h [160]
    LSTM        h_t, c_t = LSTM(e_t, h_{t-1}, c_{t-1})  h, c [160]: a second, gated state; formulas in
                                                        lockstep_export.recurrent
"""

from functools import partial
from typing import Any

from lockstep_export.recurrent import Kind
from lockstep_zoo.models.word_language_model import (
    WIDTH,
    WordLanguageModel,
    WordLanguageModelPrefill,
    WordLanguageModelStep,
)
from lockstep_zoo.recipe import LanguageModelRecipe, Training


def _recipe(
    kind: Kind, name: str, about: str, learning_rate: float, states: str = "h", **more: Any
) -> LanguageModelRecipe:
    return LanguageModelRecipe(
        name=name,
        about=f"{about} of 160 that writes captions, one word a step",
        build=partial(WordLanguageModel, kind),
        training=Training(
            learning_rate=learning_rate,
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
        states=dict.fromkeys(states, (1, WIDTH)),
        max_tokens=60,
        **more,
    )


RNN = _recipe(
    "RNN",
    "captions-next-word",
    "Elman RNN",
    0.004,
    # No prefill: in ONNX Runtime's RNN node the bits of a row depend on the batch.
    limits=("One state without gates: the weakest memory of the three recurrent ones.",),
)
GRU = _recipe("GRU", "captions-next-word-gru", "GRU", 0.008, prefill=WordLanguageModelPrefill)
LSTM = _recipe("LSTM", "captions-next-word-lstm", "LSTM", 0.008, "hc", prefill=WordLanguageModelPrefill)
