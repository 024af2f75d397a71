"""Layers of equal width, so that studies compare kinds of layers and not sizes.

Each takes x [rows, positions, width] and returns a state for each position, with the same shape:

    Recurrent   RNN, GRU or LSTM, one layer, left to right       formulas in lockstep_export.recurrent
    Stacked     three convolutions over 3, 5 and 7 positions, a relu after each: a state sees six
                positions on either side, or with `causal` twelve before it and none after
    Attentive   sinusoidal position encodings, then one Transformer encoder layer of 4 heads
    Pooled      filters of 2, 3 and 4 positions, the maximum of each over all positions (TextCNN): one
                vector for the whole sequence, returned at every position

With `keep`, a recurrent layer starts with its gates set to keep its state: a bias of +keep on an LSTM's
forget gate and of −keep on its input gate, or of +keep on a GRU's update gate, which does both. The gates
then start at σ(5) = 0.993 instead of 0.5. Tallec and Ollivier, *Can recurrent neural networks warp time?*,
2018, set this bias to the logarithm of the wanted memory length; 5 corresponds to 148 positions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export.recurrent import ONNX_GATES, Kind

KERNELS, FILTERS, HEADS, FEED_FORWARD = (3, 5, 7), (2, 3, 4), 4, 4
KEEP = 5.0


class Recurrent(nn.Module):
    """A recurrent layer."""

    def __init__(self, kind: Kind, width: int, keep: float = 0.0) -> None:
        super().__init__()
        self.layer: nn.RNNBase = getattr(nn, kind)(width, width, batch_first=True)
        with torch.no_grad():
            gates = self.layer.get_parameter("bias_ih_l0").chunk(len(ONNX_GATES[kind]))
            if kind != "RNN":
                gates[1].add_(keep)
            if kind == "LSTM":
                gates[0].sub_(keep)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.layer(x)[0]
        return states


class Stacked(nn.Module):
    """Three stacked convolutions."""

    def __init__(self, width: int, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.layers = nn.ModuleList(nn.Conv1d(width, width, kernel) for kernel in KERNELS)

    def forward(self, x: Tensor) -> Tensor:
        states = x.transpose(1, 2)  # [rows, width, positions]
        for layer, kernel in zip(self.layers, KERNELS, strict=True):
            before = kernel - 1 if self.causal else kernel // 2
            states = torch.relu(layer(functional.pad(states, (before, kernel - 1 - before))))
        return states.transpose(1, 2)


class Attentive(nn.Module):
    """One Transformer encoder layer."""

    def __init__(self, width: int, longest: int) -> None:
        super().__init__()
        self.register_buffer("places", sinusoids(longest, width), persistent=False)
        self.layer = nn.TransformerEncoderLayer(width, HEADS, FEED_FORWARD * width, 0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.layer(x + self.places[: x.shape[1]])  # type: ignore[index]
        return states


class Pooled(nn.Module):
    """TextCNN."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(width, width, count, padding=count - 1) for count in FILTERS)
        self.out = nn.Linear(len(FILTERS) * width, width)

    def forward(self, x: Tensor) -> Tensor:
        states = x.transpose(1, 2)  # [rows, width, positions]
        found = torch.cat([torch.relu(layer(states)).amax(dim=2) for layer in self.layers], dim=1)
        vector: Tensor = self.out(found)  # [rows, width]
        return vector[:, None].expand_as(x)


def sinusoids(positions: int, width: int) -> Tensor:
    """The position encodings of Vaswani et al. 2017: [positions, width]."""
    angle = torch.arange(positions)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)
