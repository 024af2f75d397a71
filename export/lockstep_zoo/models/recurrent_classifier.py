"""The common part of the one-directional classifiers: left to right, classified by the last real state.

    tokens → embedding → recurrence → last state → head → logits

`RecurrentClassifier` takes a whole text. `RecurrentClassifierStep` shares its weights and takes one word of
each row; after any number of words its result is that of `RecurrentClassifier` on the same prefix.
"""

from collections.abc import Callable

from torch import Tensor, nn

from lockstep_export.recurrent import Cell, Kind, Packed
from lockstep_zoo.recipe import Outputs

EMBEDDING, HIDDEN, DENSE = 128, 64, 32
SPREAD = 0.5  # dropout of the embeddings, which hold nine tenths of the weights


class RecurrentClassifier(nn.Module):
    """tokens [batch, words], lengths [batch] → logits [batch, 1], vector [batch, 64]."""

    def __init__(self, kind: Kind, vocabulary: int, head: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.spread = nn.Dropout(SPREAD)
        self.recurrence = Packed(kind, EMBEDDING, HIDDEN)
        self.head = head()
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Outputs:
        embedded = self.spread(self.embedding(tokens.T))  # [words, batch, 128]
        _, last = self.recurrence(embedded, lengths)
        vector = last[0].squeeze(0)  # [batch, 64]
        return {"logits": self.head(vector), "vector": vector}


class RecurrentClassifierStep(nn.Module):
    """token [batch], h_in (and of an LSTM c_in) [1, batch, 64]
    → logits [batch, 1], vector [batch, 64], h_out (and c_out)."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        assert isinstance(trained, RecurrentClassifier)
        self.embedding, self.head = trained.embedding, trained.head
        self.cell = Cell(trained.recurrence)

    def forward(self, token: Tensor, h_in: Tensor, c_in: Tensor | None = None) -> Outputs:
        before = (h_in[0],) if c_in is None else (h_in[0], c_in[0])
        after = self.cell(self.cell.project(self.embedding(token)), before)
        states = {f"{name}_out": state[None] for name, state in zip("hc", after, strict=False)}
        return {"logits": self.head(after[0]), "vector": after[0], **states}


def dense() -> nn.Module:
    """vector [batch, 64] → logits [batch, 1] through a hidden layer."""
    return nn.Sequential(nn.Dropout(0.2), nn.Linear(HIDDEN, DENSE), nn.ReLU(), nn.Linear(DENSE, 1))


def plain() -> nn.Module:
    """vector [batch, 64] → logits [batch, 1]."""
    return nn.Sequential(nn.Dropout(0.2), nn.Linear(HIDDEN, 1))
