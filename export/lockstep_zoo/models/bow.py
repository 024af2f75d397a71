"""Bag of words with logistic regression: the baseline for every network.

    logits = Σ_t W[token_t] + b        W [vocabulary, 2], b [2]

An embedding bag with one column per class: each word votes for each class, independently of its position. The
row of the padding id is zero and stays zero, so padding adds nothing and the graph needs no lengths or mask.
"""

import torch
from torch import Tensor, nn

from lockstep_zoo.classify.tokenizer import PAD_ID
from lockstep_zoo.recipe import ClassifierRecipe, Outputs, Training


class BagOfWords(nn.Module):
    """tokens [batch, words] → logits [batch, 2]."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.votes = nn.Embedding(vocabulary, 2, padding_idx=PAD_ID)
        self.bias = nn.Parameter(torch.zeros(2))
        nn.init.zeros_(self.votes.weight)

    def forward(self, tokens: Tensor) -> Outputs:
        return {"logits": self.votes(tokens).sum(dim=1) + self.bias}


RECIPE = ClassifierRecipe(
    name="sentiment-bow",
    about="Bag of words with logistic regression",
    build=BagOfWords,
    training=Training(learning_rate=0.01, word_dropout=0.1),
    activation="softmax",
    limits=(
        "It knows which words occur but not their order: any order of the same words gives the same result.",
        "It cannot see what a negation refers to: “not” has the same weight everywhere.",
    ),
)
