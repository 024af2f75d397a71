"""The common part of the recurrent word language models: left to right, predicts the next word.

    tokens → embedding → recurrence → the transposed embedding → logits

`WordLanguageModel` takes whole texts, `WordLanguageModelPrefill` a prompt and `WordLanguageModelStep` one
word of each row; all share the weights of the trained module.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export.recurrent import Cell, Kind, Packed, States
from lockstep_zoo.captions.tokenizer import UNKNOWN_ID
from lockstep_zoo.recipe import Outputs

WIDTH, DROPOUT = 160, 0.25
UNWRITABLE = -50.0  # bias of the unknown word: it may be read but is never generated


class WordLanguageModel(nn.Module):
    """tokens [batch, words], lengths [batch], states [1, batch, 160]
    → logits [words, batch, vocabulary] after each of them, the last real states."""

    def __init__(self, kind: Kind, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.recurrence = Packed(kind, WIDTH, WIDTH)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.dropout = nn.Dropout(DROPOUT)
        nn.init.normal_(self.embedding.weight, std=WIDTH**-0.5)
        with torch.no_grad():
            self.bias[UNKNOWN_ID] = UNWRITABLE

    def forward(self, tokens: Tensor, lengths: Tensor, states: States = ()) -> tuple[Tensor, States]:
        embedded = self.dropout(self.embedding(tokens.T))  # [words, batch, 160]
        x, ends = self.recurrence(embedded, lengths, states)
        return self.score(self.dropout(x)), ends

    def score(self, x: Tensor) -> Tensor:
        """[..., 160] → logits [..., vocabulary]."""
        return functional.linear(x, self.embedding.weight, self.bias)


class WordLanguageModelStep(nn.Module):
    """token [batch], h_in (and of an LSTM c_in) [1, batch, 160]
    → logits [batch, vocabulary], h_out (and c_out)."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        assert isinstance(trained, WordLanguageModel)
        self.trained, self.cell = trained, Cell(trained.recurrence)

    def forward(self, token: Tensor, h_in: Tensor, c_in: Tensor | None = None) -> Outputs:
        before = (h_in[0],) if c_in is None else (h_in[0], c_in[0])
        after = self.cell(self.cell.project(self.trained.embedding(token)), before)
        states = {f"{name}_out": state[None] for name, state in zip("hc", after, strict=False)}
        return {"logits": self.trained.score(after[0]), **states}


class WordLanguageModelPrefill(nn.Module):
    """tokens [batch, prompt], lengths [batch] → logits [batch, vocabulary] after the last real word,
    h0 (and of an LSTM c0) [1, batch, 160]."""

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        assert isinstance(trained, WordLanguageModel)
        self.trained, self.recurrence = trained, trained.recurrence

    def forward(self, tokens: Tensor, lengths: Tensor) -> Outputs:
        _, ends = self.recurrence(self.trained.embedding(tokens.T), lengths)
        states = {f"{name}0": state for name, state in zip("hc", ends, strict=False)}
        return {"logits": self.trained.score(ends[0][0]), **states}
