"""Sample modules in the styles that users write, correct and incorrect."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lockstep_export import Classify, Generate, State, Whole

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


class Prompt(nn.Module):
    """The prefill of a GRU language model: scores and state after the last real token of each prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell = nn.Embedding(VOCABULARY, 6), nn.GRU(6, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, tokens: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        states, _ = self.cell(self.embedding(tokens))
        last = states[torch.arange(tokens.shape[0]), lengths - 1]
        return {"logits": self.head(last), "h0": last[None]}


class NextToken(nn.Module):
    """One step of the same language model."""

    def __init__(self, prompt: Prompt) -> None:
        super().__init__()
        self.prompt = prompt

    def forward(self, token: Tensor, h: Tensor) -> dict[str, Tensor]:
        states, last = self.prompt.cell(self.prompt.embedding(token)[:, None], h)
        return {"logits": self.prompt.head(states[:, 0]), "h_next": last}


def prefilled(prompt: Prompt | None = None, **more: Any) -> dict[str, Any]:
    """The arguments of `export_stepwise` for a language model with a prefill, without the folder."""
    prompt = prompt or Prompt()
    return {
        "module": NextToken(prompt),
        "example": {"token": TOKENS[:, 0], "h": torch.zeros(1, 3, HIDDEN)},
        "axes": {"token": "batch", "h": "1 batch 8"},
        "states": {"h": State("h_next", prefill="h0")},
        "prefill": Whole(prompt, (TOKENS, LENGTHS), axes=("batch prompt", "batch"), lengths="lengths"),
        "task": Generate(),
        "report": lambda _: None,
        **more,
    }


class Decoder(nn.Module):
    """One step of a one-layer attention decoder: a query on the cache and on the token itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.query = nn.Embedding(VOCABULARY, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, token: Tensor, past: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.embedding(token)
        present = torch.cat((past, x[:, None]), dim=1)
        real = functional.pad(mask, (0, 1), value=True)
        energy = (present @ self.query(x)[:, :, None]).squeeze(2).masked_fill(~real, -1e9)
        found = (torch.softmax(energy, dim=1)[:, None] @ present).squeeze(1)
        return {"logits": self.head(found + x), "present": present}


class DecoderPrompt(nn.Module):
    """The prefill of the same decoder."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        x = self.decoder.embedding(tokens)
        last = x[torch.arange(tokens.shape[0]), lengths - 1]
        real = torch.arange(tokens.shape[1])[None] < lengths[:, None]
        energy = (x @ self.decoder.query(last)[:, :, None]).squeeze(2).masked_fill(~real, -1e9)
        found = (torch.softmax(energy, dim=1)[:, None] @ x).squeeze(1)
        return {"logits": self.decoder.head(found + last), "past0": x}


def cached(decoder: Decoder | None = None, *, prefill: bool = False, **more: Any) -> dict[str, Any]:
    """The arguments of `export_stepwise` for a decoder with a growing cache, without the folder."""
    decoder = decoder or Decoder()
    whole = Whole(DecoderPrompt(decoder), (TOKENS, LENGTHS), axes=("batch past", "batch"), lengths="lengths")
    return {
        "module": decoder,
        "example": {
            "token": TOKENS[:, 0],
            "past": torch.zeros(3, 5, HIDDEN),
            "mask": torch.ones(3, 5, dtype=torch.bool),
        },
        "axes": {"token": "batch", "past": "batch past 8", "mask": "batch past"},
        "mask": "mask",
        "states": {"past": State("present", grows=True, prefill="past0" if prefill else "")},
        "task": Generate(),
        "longest": 96,
        "report": lambda _: None,
        **({"prefill": whole} if prefill else {}),
        **more,
    }


class Source(nn.Module):
    """The prefill of a translator: its memory, and the state that starts the target."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.target = nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(VOCABULARY, HIDDEN)
        self.reader = nn.GRU(HIDDEN, HIDDEN // 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, source: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        packed = pack_padded_sequence(
            self.embedding(source), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, last = self.reader(packed)
        memory, _ = pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])
        return {"memory": memory, "h0": last.transpose(0, 1).flatten(1)}


class Target(nn.Module):
    """One step of the same translator: the memory is carried unchanged."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source

    def forward(self, token: Tensor, h: Tensor, memory: Tensor, mask: Tensor) -> dict[str, Tensor]:
        energy = (memory @ h[:, :, None]).squeeze(2).masked_fill(~mask, -1e9)
        attention = torch.softmax(energy, dim=1)
        context = (attention[:, None] @ memory).squeeze(1)
        h = torch.tanh(context + self.source.target(token) - h)
        return {"logits": self.source.head(h), "attention": attention, "h_next": h}


def translating(source: Source | None = None, **more: Any) -> dict[str, Any]:
    """The arguments of `export_stepwise` for a translator, without the folder and the tokenizers."""
    source = source or Source()
    return {
        "module": Target(source),
        "example": {
            "token": TOKENS[:, 0],
            "h": torch.zeros(3, HIDDEN),
            "memory": torch.zeros(3, 5, HIDDEN),
            "mask": torch.ones(3, 5, dtype=torch.bool),
        },
        "axes": {"token": "batch", "h": "batch 8", "memory": "batch source 8", "mask": "batch source"},
        "mask": "mask",
        "states": {"h": State("h_next", prefill="h0"), "memory": State(prefill="memory")},
        "prefill": Whole(source, (TOKENS, LENGTHS), axes=("batch source", "batch"), lengths="lengths"),
        "report": lambda _: None,
        **more,
    }
