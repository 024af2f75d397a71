"""Elman RNN that predicts the next word: "a man is sitting on the ___".

    e_t = E[word_t]                        E [vocabulary, 160]
    h_t = tanh(W e_t + R h_{t-1} + b)      h [160]
    logits = E h_t + b'                    P(next word) = softmax(logits); E is input and output

One state and no gates: every word overwrites a part of what was read before.
"""

from torch import nn

from lockstep_zoo.models.word_language_model import WIDTH, WordLanguageModel, WordLanguageModelStep
from lockstep_zoo.recipe import LanguageModelRecipe, Training


def build(vocabulary: int) -> nn.Module:
    """A WordLanguageModel with an Elman RNN."""
    return WordLanguageModel("RNN", vocabulary)


RECIPE = LanguageModelRecipe(
    name="captions-next-word",
    about="Elman RNN of 160 that writes captions, one word a step",
    build=build,
    training=Training(
        learning_rate=0.004,
        weight_decay=0.0,
        rows=64,
        epochs=8,
        averaging=0.998,
        word_dropout=0.02,
        declines=True,
        bfloat16=True,
    ),
    corpus="captions",
    # No prefill: in ONNX Runtime's RNN node the bits of a row depend on the batch.
    step=WordLanguageModelStep,
    states={"h": (1, WIDTH)},
    max_tokens=60,
    limits=("One state without gates: the weakest memory of the three recurrent ones.",),
)
