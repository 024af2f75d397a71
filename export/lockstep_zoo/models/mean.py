"""Mean of embeddings: each word has a vector, and a text is the mean of its words' vectors.

    e_t = E[token_t]                    E [vocabulary, 50]
    vector = Σ_t e_t / T                over the T real words, [50]
    logits = W vector + b               W [2, 50]

16 texts of 10 words are [16, 10, 50] before the mean and [16, 50] after it. Positions are lost, and one "not"
among ten words changes the mean by a tenth: "I am happy" and "I am not happy" give similar results.
"""

import torch
from torch import Tensor, nn

from lockstep_zoo.recipe import ClassifierRecipe, Outputs, Training

EMBEDDING = 50


class MeanOfEmbeddings(nn.Module):
    """tokens [batch, words], mask [batch, words] (true on real words)
    → logits [batch, 2], vector [batch, 50]."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.head = nn.Linear(EMBEDDING, 2)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, tokens: Tensor, mask: Tensor) -> Outputs:
        real = mask.to(torch.float32)  # [batch, words]
        share = real / real.sum(dim=1, keepdim=True)
        vector = torch.matmul(share[:, None, :], self.embedding(tokens)).squeeze(1)  # [batch, 50]
        return {"logits": self.head(vector), "vector": vector}


RECIPE = ClassifierRecipe(
    name="sentiment-mean",
    about="Mean of embeddings of 50 over the real words",
    build=MeanOfEmbeddings,
    training=Training(learning_rate=0.002, word_dropout=0.25),
    activation="softmax",
    companion="mask",
    outputs=("logits", "vector"),
    limits=(
        "It knows which words occur but not their order: any order of the same words gives the same result.",
        "One word among ten changes the mean by a tenth: “I am happy” and “I am not happy” give "
        "similar results.",
    ),
)
