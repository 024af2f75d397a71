"""Sample modules in the styles that users write, correct and incorrect."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lockstep_export import Classify

VOCABULARY, HIDDEN = 40, 8
TOKENS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 0, 0], [11, 12, 0, 0, 0]])
LENGTHS = torch.tensor([5, 3, 2])
LABELS = Classify(["no", "yes"])
WITH_LENGTHS: dict[str, Any] = {
    "axes": ("batch words", "batch"),
    "lengths": "lengths",
    "task": LABELS,
    "report": lambda _: None,
}
WITHOUT: dict[str, Any] = {"axes": "batch words", "task": LABELS, "report": lambda _: None}


class Reader(nn.Module):
    """An embedding, nn.RNN, nn.GRU or nn.LSTM, and the last real state of each row."""

    def __init__(self, kind: str = "LSTM", layers: int = 1, packed: bool = False, **more: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6)
        self.recurrence = getattr(nn, kind)(6, HIDDEN, layers, batch_first=True, **more)
        directions = 2 if self.recurrence.bidirectional else 1
        self.head: nn.Module = nn.Sequential(nn.Dropout(0.5), nn.Linear(directions * HIDDEN, 2))
        self.packed = packed

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        x: Any = self.embedding(tokens)
        if self.packed:
            x = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = self.recurrence(x)
        if self.packed:
            states, _ = pad_packed_sequence(states, batch_first=True, total_length=tokens.shape[1])
        return self.head(states[torch.arange(tokens.shape[0]), lengths - 1])


class Pooled(nn.Module):
    """Pools all words, including padding, into one vector with `how`."""

    def __init__(self, how: Any, recurrent: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.recurrence = nn.GRU(HIDDEN, HIDDEN, batch_first=True) if recurrent else None
        self.head, self.how = nn.Linear(HIDDEN, 2), how

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(self.how(self.recurrence(x)[0] if self.recurrence else x))


class MaskedMean(nn.Module):
    """The mean over real words."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        real = mask.to(torch.float32)[:, :, None]
        return self.head((self.embedding(tokens) * real).sum(1) / real.sum(1))


class Last(nn.Module):
    """Time-first input; the result is computed from the final state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6)
        self.recurrence, self.head = nn.GRU(6, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        _, last = self.recurrence(self.embedding(tokens))
        return self.head(last[-1])


class Loop(nn.Module):
    """A recurrence in Python: a tracer unrolls as many steps as its example has."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell = nn.Embedding(VOCABULARY, 6), nn.GRUCell(6, HIDDEN)
        self.head = nn.Linear(HIDDEN, 2)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        state = torch.zeros(tokens.shape[0], HIDDEN)
        for place in range(tokens.shape[1]):
            after = self.cell(self.embedding(tokens[:, place]), state)
            state = torch.where((place < lengths)[:, None], after, state)
        return self.head(state)


class LastState(Reader):
    """Packs and uses the layer's last state: with one layer, the older tracer fails on it."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        x = pack_padded_sequence(
            self.embedding(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, last = self.recurrence(x)
        last = last[0] if isinstance(last, tuple) else last
        return self.head(torch.cat(last.unbind(0)[-2 if self.recurrence.bidirectional else -1 :], dim=1))


class Counted(Reader):
    """Converts the number of rows to Python: the older tracer freezes it without a warning."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.recurrence(self.embedding(tokens))
        return self.head(states[torch.arange(len(tokens)), lengths - 1])


class Language(nn.Module):
    """Scores of the next token at each position; two recurrent layers, one time-first, one without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6)
        self.lower, self.upper = nn.GRU(6, HIDDEN), nn.LSTM(HIDDEN, HIDDEN, bias=False, batch_first=True)
        self.head = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.lower(self.embedding(tokens).transpose(0, 1))
        start = torch.zeros(1, tokens.shape[0], HIDDEN)
        x, _ = self.upper(x.transpose(0, 1), (start, start))
        return self.head(x)


class Step(nn.Module):
    """One step of an LSTM, written by its author."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell = nn.Embedding(VOCABULARY, 6), nn.LSTMCell(6, HIDDEN)
        self.head = nn.Linear(HIDDEN, 2)

    def forward(self, token: Tensor, h: Tensor, c: Tensor) -> dict[str, Tensor]:
        h, c = self.cell(self.embedding(token), (h, c))
        return {"logits": self.head(h), "h_next": h, "c": c}


STEP: dict[str, Any] = {
    "example": {"token": TOKENS[:, 0], "h": torch.zeros(3, HIDDEN), "c": torch.zeros(3, HIDDEN)},
    "axes": {"token": "batch", "h": "batch 8", "c": "batch 8"},
    "states": {"h": "h_next", "c": "c"},
    "task": LABELS,
    "report": lambda _: None,
}


class Careless(nn.Module):
    """Random in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.head(x), 0.5)


class Mixing(nn.Module):
    """A softmax over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).softmax(0)
