"""The TextCNN with two-dimensional convolutions: a text is an image of one channel with one word per line.

    X = [E[token_1]; …; E[token_T]]                       E [vocabulary, 100]; X [1, T, 100]
    c_t = relu(K * X + b)  at line t                      10 kernels of k × 100 for each k of 2, 3 and 4
    vector = [max_t c_t for each kernel]                  t over the real words, [30]
    logits = W vector + b'                                W [2, 30]

A kernel is as wide as the image, so that it can only slide from word to word: the Conv2d computes the same as
a Conv1d over the 100 channels of the embedding. Lines after the last word are zero, as in the TextCNN.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_zoo.recipe import ClassifierRecipe, Outputs, Training

EMBEDDING, KERNELS, SIZES = 100, 10, (2, 3, 4)


class CNN2d(nn.Module):
    """tokens [batch, words], mask [batch, words] (true on real words)
    → logits [batch, 2], vector [batch, 30]."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.spread = nn.Dropout(0.5)
        self.kernels = nn.ModuleList(nn.Conv2d(1, KERNELS, (size, EMBEDDING)) for size in SIZES)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(KERNELS * len(SIZES), 2))
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, tokens: Tensor, mask: Tensor) -> Outputs:
        real = mask.to(torch.float32)[:, None, :]  # [batch, 1, words]
        image = (self.spread(self.embedding(tokens)) * real.transpose(1, 2))[
            :, None
        ]  # [batch, 1, words, 100]
        peaks = []
        for size, kernels in zip(SIZES, self.kernels, strict=True):
            padded = functional.pad(image, (0, 0, 0, size - 1))
            found = torch.relu(kernels(padded)).squeeze(3)  # [batch, 10, words]
            peaks.append((found * real).amax(dim=2))
        vector = torch.cat(peaks, dim=1)  # [batch, 30]
        return {"logits": self.head(vector), "vector": vector}


RECIPE = ClassifierRecipe(
    name="sentiment-cnn2d",
    about="TextCNN as a Conv2d over one channel: 10 kernels each of 2, 3 and 4 words",
    build=CNN2d,
    training=Training(learning_rate=0.001, word_dropout=0.2, averaging=0.995),
    activation="softmax",
    companion="mask",
    outputs=("logits", "vector"),
    limits=(
        "It is the TextCNN with 10 instead of 64 filters of each width, written as 2-D convolutions; on a "
        "CPU it is not faster.",
        "Below the 82.7 published for a CNN with random vectors, which was also trained on labelled phrases; "
        "this one was trained on 6,920 whole sentences.",
    ),
)
