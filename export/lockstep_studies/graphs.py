"""Exports the layers of a study to ONNX, to time them as a server runs them: one row, any length.

    recurrent layer → one fused node over the whole sequence, or a graph of one step
    any other layer → as PyTorch's tracer writes it

Each graph takes `x` and returns `states`.
"""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from lockstep_export.graph_spec import GraphSpec
from lockstep_export.onnx import export_onnx
from lockstep_export.recurrent import Cell, Kind, OnnxSequence, Packed
from lockstep_studies.encoders import Recurrent

POSITIONS = 7  # length of the example that is traced
FREE = ("", "positions", "")


class FusedLayer(nn.Module):
    """x [1, positions, width] → states [1, positions, width], by one recurrent node."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.node = OnnxSequence(to_packed(layer))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        length = torch.full((1,), x.shape[1])
        return {"states": self.node(x.transpose(0, 1), length)[0].transpose(0, 1)}


class RecurrentStep(nn.Module):
    """x [1, width], h [1, width] → the next h, of an RNN or a GRU."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.cell = Cell(to_packed(layer))

    def forward(self, x: Tensor, h: Tensor) -> dict[str, Tensor]:
        return {"states": self.cell(self.cell.project(x), (h,))[0]}


class WholeLayer(nn.Module):
    """A layer whose output is named `states`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"states": self.layer(x)}


def export_whole(layer: nn.Module, width: int, path: Path) -> None:
    """Writes a graph that takes a whole sequence."""
    module = FusedLayer(layer) if isinstance(layer, Recurrent) else WholeLayer(layer)
    example = {"x": torch.zeros(1, POSITIONS, width)}
    export_onnx([GraphSpec(path.name, module, example, {"x": FREE}, ("states",))], path.parent)


def export_step(layer: Recurrent, width: int, path: Path) -> None:
    """Writes a graph that takes one position."""
    example = {name: torch.zeros(1, width) for name in ("x", "h")}
    axes: dict[str, tuple[str, ...]] = dict.fromkeys(example, ("", ""))
    export_onnx([GraphSpec(path.name, RecurrentStep(layer), example, axes, ("states",))], path.parent)


def to_packed(layer: Recurrent) -> Packed:
    """The same weights in the exporter's layer type."""
    kind, width = cast("Kind", layer.layer.mode.removesuffix("_TANH")), layer.layer.hidden_size
    twin = Packed(kind, width, width)
    twin.layer.load_state_dict(layer.layer.state_dict())
    return twin
