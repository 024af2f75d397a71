"""Elman RNN: the plainest recurrence, one tanh of what was and what comes.

    e_t = E[token_t]                       E [vocabulary, 128]
    h_t = tanh(W e_t + R h_{t-1} + b)      h [64]
    logit = w · h_T + b'                   T the row's own length, not the padded one

Nothing guards its memory: what it read long ago fades with every step. One logit: P(positive) = σ(logit).
"""

from torch import nn

from lockstep_zoo.models.reader import RecurrentClassifier, RecurrentClassifierStep, plain
from lockstep_zoo.recipe import ClassifierRecipe, RecipeOutput, Training


def build(vocabulary: int) -> nn.Module:
    """A Reader with an Elman RNN in it."""
    return RecurrentClassifier("RNN", vocabulary, plain)


RECIPE = ClassifierRecipe(
    name="sentiment-rnn",
    about="Elman RNN of 64, last real state; whole texts or word by word",
    build=build,
    training=Training(learning_rate=0.0005, word_dropout=0.25, averaging=0.995),
    activation="sigmoid",
    companion="lengths",
    outputs=(RecipeOutput("logits"), RecipeOutput("vector")),
    step=RecurrentClassifierStep,
    states=("h",),
    limits=(
        "It answers from its last state, and what stood far before the end has faded: the least accurate of "
        "the zoo, and the one that stays under the bag of words (81.5%) by more than chance.",
    ),
)
