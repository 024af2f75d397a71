"""One self-attention layer: every word attends to all words, and the text is the mean of the results.

    x_t = E[token_t]                                       E [vocabulary, 64]
    A = softmax(Q Kᵀ / √64 + m),  m = −10⁹ on padding      Q, K, V linear in x
    y = x + A V                                            residual around attention
    vector = mean of y over the real words
    logits = W vector + b                                  W [2, 64]

There are no positions, so that the same words in any order give the same result. The value matrix starts at
zero: training starts from a mean of embeddings.
"""

import torch
from torch import Tensor, nn

from lockstep_zoo.recipe import ClassifierRecipe, Outputs, Training

WIDTH = 64


class AttentionClassifier(nn.Module):
    """tokens [batch, words], mask [batch, words] (true on real words)
    → logits [batch, 2], vector [batch, 64], attention [batch, 1 layer, 1 head, words, words]."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.spread = nn.Dropout(0.4)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(WIDTH, 2))
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.zeros_(self.value.weight)

    def forward(self, tokens: Tensor, mask: Tensor) -> Outputs:
        real = mask.to(torch.float32)  # [batch, words]
        x = self.spread(self.embedding(tokens))  # [batch, words, 64]
        scores = torch.matmul(
            self.query(x) * WIDTH**-0.5, self.key(x).transpose(1, 2)
        )  # [batch, words, words]
        weights = torch.softmax(scores + ((1.0 - real) * -1e9)[:, None, :], dim=-1)
        y = x + torch.matmul(weights, self.value(x))
        share = real / real.sum(dim=1, keepdim=True)  # [batch, words]
        vector = torch.matmul(share[:, None, :], y).squeeze(1)  # [batch, 64]
        return {"logits": self.head(vector), "vector": vector, "attention": weights[:, None, None]}


RECIPE = ClassifierRecipe(
    name="sentiment-attention",
    about="One self-attention layer of 64, masked mean; returns its attention",
    build=AttentionClassifier,
    training=Training(learning_rate=0.001, word_dropout=0.2),
    activation="softmax",
    companion="mask",
    outputs=("logits", "vector", "attention"),
    max_words=1024,
    max_padded_elements=1024,
    limits=(
        "Words attend to each other but have no positions: any order of the same words gives the same "
        "result, except for rounding.",
        "Less accurate than the bag of words (81.5%), the baseline for every network; with 1,821 sentences "
        "the difference is not significant.",
        "The attention weights show which words were used, which need not be the reason for the label.",
    ),
)
