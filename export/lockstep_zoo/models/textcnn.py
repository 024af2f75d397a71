"""TextCNN: filters that each detect one phrase of two, three or four words at any position.

    e_t = E[token_t]                                      E [vocabulary, 100]; zero after the end of the text
    c_t = relu(W [e_t, …, e_{t+k-1}] + b)                 64 filters for each k of 2, 3 and 4
    vector = [max_t c_t for each filter of each k]        t over the real words, [192]
    logits = W' vector + b'                               W' [2, 192]

A filter starts at every real word, and words after the last one count as zero. So a text of one word has a
result, padding has no effect, and batched results equal unbatched ones. (Kim 2014, random vectors.)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_zoo.recipe import ClassifierRecipe, Outputs, Training

EMBEDDING, FILTERS, SIZES = 100, 64, (2, 3, 4)


class TextCNN(nn.Module):
    """tokens [batch, words], mask [batch, words] (true on real words)
    → logits [batch, 2], vector [batch, 192]."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.spread = nn.Dropout(0.5)
        self.filters = nn.ModuleList(nn.Conv1d(EMBEDDING, FILTERS, size) for size in SIZES)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(FILTERS * len(SIZES), 2))
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, tokens: Tensor, mask: Tensor) -> Outputs:
        real = mask.to(torch.float32)[:, None, :]  # [batch, 1, words]
        x = self.spread(self.embedding(tokens)).transpose(1, 2) * real  # [batch, 100, words]
        peaks = []
        for size, filters in zip(SIZES, self.filters, strict=True):
            found = torch.relu(filters(functional.pad(x, (0, size - 1))))  # [batch, 64, words]
            peaks.append((found * real).amax(dim=2))
        vector = torch.cat(peaks, dim=1)  # [batch, 192]
        return {"logits": self.head(vector), "vector": vector}


RECIPE = ClassifierRecipe(
    name="sentiment-textcnn",
    about="TextCNN: 64 filters each of 2, 3 and 4 words, max over time",
    build=TextCNN,
    training=Training(learning_rate=0.001, word_dropout=0.2, averaging=0.995),
    activation="softmax",
    companion="mask",
    outputs=("logits", "vector"),
    limits=(
        "A filter covers four words at most, and only its highest value counts: the position of a phrase "
        "is lost.",
        "Seeds 2 and 3 reach 80.5% and 79.2% on dev, so that the dev figure above is partly luck; "
        "longer averaging, other dropouts and a declining rate did no better.",
        "Below the 82.7 published for a CNN with random vectors, which was also trained on labelled phrases; "
        "this one was trained on 6,920 whole sentences.",
    ),
)
