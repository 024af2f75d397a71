"""Self-attention, once: every word takes up what it looks at, and the text is their mean.

    x_t = E[token_t]                                       E [vocabulary, 64]
    A = softmax(Q Kᵀ / √64 + m),  m = −10⁹ on padding      Q, K, V linear in x
    y = x + A V                                            residual around attention
    vector = mean of y over the real words
    logits = W vector + b                                  W [2, 64]

There are no positions: words know one another and not where they stand, so the same words in any order give
the same answer. The value starts at zero: the model begins as a mean of embeddings.
"""

import torch
from torch import Tensor, nn

from lockstep_zoo.recipe import ClassifierRecipe, Outputs, RecipeOutput, Training

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
    outputs=(RecipeOutput("logits"), RecipeOutput("vector"), RecipeOutput("attention", word_axes=(3, 4))),
    max_words=1024,
    max_padded_elements=1024,
    limits=(
        "Words look at one another and have no positions: any order of the same words has the same "
        "answer, but for rounding.",
        "It stays under the bag of words (81.5%), the floor that a network must beat or explain, by less "
        "than 1,821 sentences can tell.",
        "The weights show what a word took up, which need not be why the text was labelled so.",
    ),
)
