"""The model: a GRU over frames, with a score for each key and for the blank after every frame.

    x_t = (frame_t - m) / s              frame_t [36] log powers; m, s over the training data
    h_t = GRU(x_t, h_{t-1})              h [64], formulas in lockstep_export.recurrent
    logits = V h_t + b                   [17]: the blank, then the keys

`TouchTones` reads whole sequences, `TouchTonesStep` one frame of each row; both share their weights.
"""

import torch
from torch import Tensor, nn

from lockstep_export.recurrent import Cell, Packed
from lockstep_zoo.recipe import Outputs
from lockstep_zoo.touchtones.tones import FEATURES, KEYS

HIDDEN = 64
LABELS = ("<blank>", *KEYS)
BLANK = 0


class TouchTones(nn.Module):
    """frames [batch, frames, 36], lengths [batch] → logits [batch, frames, 17]."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(FEATURES))
        self.recurrence = Packed("GRU", FEATURES, HIDDEN)
        self.head = nn.Linear(HIDDEN, len(LABELS))

    def scaled(self, frames: Tensor) -> Tensor:
        """The inputs of the GRU: each feature with mean 0 and deviation 1."""
        return (frames - self.mean) * self.scale

    def forward(self, frames: Tensor, lengths: Tensor) -> Outputs:
        states, _ = self.recurrence(self.scaled(frames).transpose(0, 1), lengths)
        return {"logits": self.head(states).transpose(0, 1)}


class TouchTonesStep(nn.Module):
    """frame [batch, 36], h_in [1, batch, 64] → logits [batch, 17], h_out."""

    def __init__(self, trained: TouchTones) -> None:
        super().__init__()
        self.trained, self.cell = trained, Cell(trained.recurrence)

    def forward(self, frame: Tensor, h_in: Tensor) -> Outputs:
        (state,) = self.cell(self.cell.project(self.trained.scaled(frame)), (h_in[0],))
        return {"logits": self.trained.head(state), "h_out": state[None]}


def read_keys(best: list[int]) -> str:
    """The keys of the best label of each frame: without repetitions, then without blanks."""
    before, found = BLANK, ""
    for label in best:
        if label not in (before, BLANK):
            found += LABELS[label]
        before = label
    return found
