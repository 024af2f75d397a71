"""Bag of words with TF-IDF: words that occur in many texts count less, and so do the words of long texts.

    tf(w) = count of w in the text / length of the text
    idf(w) = ln(N / texts with w)                          N training texts; counted, not trained
    logits = Σ_w tf(w) idf(w) W[w] + b                     W [vocabulary, 2], b [2]
           = Σ_t idf[token_t] W[token_t] / length + b      the same, word by word

All of it is computed in the graph, which has the same input as the other classifiers. The padding id has no
weight and does not count in the length.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lockstep_zoo.classify.tokenizer import PAD_ID
from lockstep_zoo.recipe import ClassifierRecipe, Outputs, Training


class TfIdf(nn.Module):
    """tokens [batch, words] → logits [batch, 2]."""

    idf: Tensor  # [vocabulary]

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.votes = nn.Embedding(vocabulary, 2, padding_idx=PAD_ID)
        self.bias = nn.Parameter(torch.zeros(2))
        self.register_buffer("idf", torch.ones(vocabulary))
        nn.init.zeros_(self.votes.weight)

    def forward(self, tokens: Tensor) -> Outputs:
        length = (tokens != PAD_ID).sum(dim=1, keepdim=True).clamp(min=1)  # [batch, 1]
        weight = self.idf[tokens] / length  # [batch, words]
        votes = self.votes(tokens)  # [batch, words, 2], zero on padding
        return {"logits": (weight[:, :, None] * votes).sum(dim=1) + self.bias}


def count_documents(module: nn.Module, texts: Sequence[Sequence[int]]) -> None:
    """Writes ln(N / texts with the word) into `module`; words without a text count as if they had one."""
    assert isinstance(module, TfIdf)
    found = torch.zeros(len(module.idf))
    for text in texts:
        found[list(set(text))] += 1
    module.idf.copy_((math.log(len(texts)) - found.clamp(min=1).log()).half().float())


RECIPE = ClassifierRecipe(
    name="sentiment-tfidf",
    about="TF-IDF with logistic regression",
    build=TfIdf,
    training=Training(learning_rate=0.02, word_dropout=0.1),
    activation="softmax",
    counts=count_documents,
    limits=(
        "It knows which words occur but not their order: any order of the same words gives the same result.",
        "A word has less weight in a longer text.",
        "On single sentences, IDF adds nothing to trained weights: it is no better than the bag of words.",
    ),
)
