"""Transformer encoder: every word attends to all words, in four layers.

    x_t = √d E[token_t] + P[t]                             E [vocabulary, 128]; P sinusoids, [1024, 128]
    A = softmax(Q Kᵀ / √32 + m),  m = −10⁹ on padding      4 heads of 32; Q, K, V linear in norm(x)
    x = x + O [A V]                                        residual around attention
    x = x + W₂ relu(W₁ norm(x))                            residual around the feed-forward part, 512 wide
    vector = mean of norm(x) over the real words
    logits = W vector + b                                  W [2, 128]

The last matrices of the layers (O, W₂) start at zero: training starts from a mean of embeddings, for which
6,920 sentences suffice. P[t, 2i] = sin(t / 10000^(2i/d)), P[t, 2i+1] = cos(same).
"""

import math
from functools import partial

import torch
from torch import Tensor, nn

from lockstep_zoo.recipe import ClassifierRecipe, Outputs, Training

WIDTH, LAYERS, HEADS, FEED_FORWARD, MAX_WORDS = 128, 4, 4, 512, 1024
QUICK_LAYERS = 1
DROPOUT = 0.2
START = 0.02  # standard deviation of new embeddings: small, so that rare words add little noise to the mean


class TransformerClassifier(nn.Module):
    """tokens [batch, words], mask [batch, words] (true on real words)
    → logits [batch, 2], vector [batch, 128], attention [batch, layers, heads, words, words]."""

    positions: Tensor  # [1024, 128]

    def __init__(self, vocabulary: int, layers: int = LAYERS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.register_buffer("positions", sinusoids(MAX_WORDS, WIDTH), persistent=False)
        self.spread = nn.Dropout(0.4)
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(layers))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(WIDTH, 2))
        nn.init.normal_(self.embedding.weight, std=START)

    def forward(self, tokens: Tensor, mask: Tensor) -> Outputs:
        real = mask.to(torch.float32)  # [batch, words]
        bias = ((1.0 - real) * -1e9)[:, None, None, :]  # [batch, 1, 1, words]
        x = self.spread(self.embedding(tokens) * math.sqrt(WIDTH) + self.positions[: tokens.shape[1]])
        attention = []
        for layer in self.layers:
            x, weights = layer(x, bias)  # [batch, words, 128], [batch, heads, words, words]
            attention.append(weights)
        share = real / real.sum(dim=1, keepdim=True)  # [batch, words]
        vector = torch.matmul(share[:, None, :], self.norm(x)).squeeze(1)  # [batch, 128]
        return {"logits": self.head(vector), "vector": vector, "attention": torch.stack(attention, dim=1)}


class EncoderLayer(nn.Module):
    """x [batch, words, 128], bias [batch, 1, 1, words] → x, attention [batch, heads, words, words]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = SelfAttention()
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, FEED_FORWARD),
            nn.ReLU(),
            zeroed(nn.Linear(FEED_FORWARD, WIDTH)),
        )
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        looked, weights = self.attention(self.norm(x), bias)
        x = x + self.dropout(looked)
        return x + self.dropout(self.feed_forward(x)), weights


class SelfAttention(nn.Module):
    """Multi-head attention that also returns its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = zeroed(nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (split_heads(part(x)) for part in (self.query, self.key, self.value))
        scores = torch.matmul(q * (WIDTH // HEADS) ** -0.5, k.transpose(2, 3))  # [batch, heads, words, words]
        weights = torch.softmax(scores + bias, dim=-1)
        mixed = torch.matmul(weights, v).transpose(1, 2).flatten(2)  # [batch, words, 128]
        return self.out(mixed), weights


def split_heads(x: Tensor) -> Tensor:
    """[batch, words, 128] → [batch, heads, words, 32]."""
    return x.reshape(x.shape[0], x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)


def zeroed(linear: nn.Linear) -> nn.Linear:
    """A linear layer that returns zero before training."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def sinusoids(words: int, width: int) -> Tensor:
    """The positions of Vaswani et al. 2017: [words, width], as float16 numbers to keep the file small."""
    angle = torch.arange(words)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1).half().float()


RECIPE = ClassifierRecipe(
    name="sentiment-transformer",
    about="Transformer encoder of 4 layers, masked mean; returns its attention",
    build=TransformerClassifier,
    training=Training(learning_rate=0.0005, word_dropout=0.2),
    activation="softmax",
    companion="mask",
    outputs=("logits", "vector", "attention"),
    max_words=MAX_WORDS,
    max_padded_elements=1024,
    limits=(
        "Four layers are many for 6,920 sentences: it is not better than the bag of words.",
        "1,024 tokens at most.",
    ),
    quick={"build": partial(TransformerClassifier, layers=QUICK_LAYERS)},
)
