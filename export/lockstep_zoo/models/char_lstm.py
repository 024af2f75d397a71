"""Character language model: two LSTM layers that predict the next character.

    e_t = E[token_t]                                   E [characters, 128]
    h¹_t, c¹_t = LSTM(e_t, h¹_{t-1}, c¹_{t-1})         formulas in lockstep_export.recurrent
    h²_t, c²_t = LSTM(h¹_t, h²_{t-1}, c²_{t-1})        each [128]
    logits = W h²_t + b                                P(next character) = softmax(logits)

Dropout 0.2 between the layers and before the last one. `CharLSTMPrefill` reads a whole prompt, `CharLSTMStep`
one character of each row; both share the weights of the trained module.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export.recurrent import Cell, Packed, States
from lockstep_zoo.recipe import LanguageModelRecipe, Outputs, Training
from lockstep_zoo.shakespeare.tokenizer import UNKNOWN_ID

WIDTH, LAYERS, DROPOUT = 128, 2, 0.2
UNWRITABLE = -50.0  # bias of the unknown character: it may be read but is never generated


class CharLSTM(nn.Module):
    """tokens [batch, characters], lengths [batch], states [2, batch, 128]
    → logits [characters, batch, vocabulary] after each of them, the last real states."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.lower, self.upper = (Packed("LSTM", WIDTH, WIDTH) for _ in range(LAYERS))
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(WIDTH, vocabulary)
        with torch.no_grad():
            self.head.bias[UNKNOWN_ID] = UNWRITABLE

    def forward(self, tokens: Tensor, lengths: Tensor, states: States = ()) -> tuple[Tensor, States]:
        x = self.embedding(tokens.T)  # [characters, batch, 128]
        ends = []
        for index, layer in enumerate((self.lower, self.upper)):
            before = tuple(state[index : index + 1] for state in states)
            x, last = layer(x, lengths, before)
            x = self.dropout(x)
            ends.append(last)
        return self.head(x), tuple(torch.cat(parts) for parts in zip(*ends, strict=True))


class CharLSTMStep(nn.Module):
    """token [batch], h_in and c_in [2, batch, 128] → logits [batch, vocabulary], h_out, c_out."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        assert isinstance(trained, CharLSTM)
        self.embedding, self.head = trained.embedding, trained.head
        self.lower, self.upper = Cell(trained.lower), Cell(trained.upper)

    def forward(self, token: Tensor, h_in: Tensor, c_in: Tensor) -> Outputs:
        table = self.lower.project(self.embedding.weight)  # a constant: [vocabulary, 512]
        low = self.lower(functional.embedding(token, table), (h_in[0], c_in[0]))
        high = self.upper(self.upper.project(low[0]), (h_in[1], c_in[1]))
        h, c = (torch.stack(pair) for pair in zip(low, high, strict=True))
        return {"logits": self.head(high[0]), "h_out": h, "c_out": c}


class CharLSTMPrefill(nn.Module):
    """tokens [batch, prompt], lengths [batch] → logits [batch, vocabulary] after the last real character,
    h0 and c0 [2, batch, 128]."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        assert isinstance(trained, CharLSTM)
        self.embedding, self.head = trained.embedding, trained.head
        self.lower, self.upper = trained.lower, trained.upper

    def forward(self, tokens: Tensor, lengths: Tensor) -> Outputs:
        x = self.embedding(tokens.T)  # [prompt, batch, 128]
        x, low = self.lower(x, lengths)
        _, high = self.upper(x, lengths)
        h, c = (torch.cat(pair) for pair in zip(low, high, strict=True))
        return {"logits": self.head(h[-1]), "h0": h, "c0": c}


RECIPE = LanguageModelRecipe(
    name="shakespeare-char-lstm",
    about="Character LSTM, two layers of 128; writes like Shakespeare, one character a step",
    build=CharLSTM,
    training=Training(
        learning_rate=0.002,
        weight_decay=0.0,
        rows=32,
        epochs=40,
        averaging=0.999,
        word_dropout=0.002,
        clip=5.0,
        declines=True,
    ),
    corpus="tinyshakespeare",
    step=CharLSTMStep,
    prefill=CharLSTMPrefill,
    states={"h": (LAYERS, WIDTH), "c": (LAYERS, WIDTH)},
    limits=("It writes words and lines that look like Shakespeare’s but mean little.",),
)
