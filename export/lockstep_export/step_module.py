"""What every step-wise face has, whether its author wrote it or it was derived: elements, states, outputs.

A face takes what its inputs and then its states say, in their order, and gives outputs, then states.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lockstep_export import manifest
from lockstep_export.axes import BATCH
from lockstep_export.contract import ModuleInput
from lockstep_export.graph_spec import GraphSpec
from lockstep_export.manifest import Table
from lockstep_export.onnx_graph import Arrays
from lockstep_export.options import ExportOptions
from lockstep_export.tasks import Generate

STEP = "step.onnx"
EXAMPLE_ROWS = 3


@dataclass(frozen=True)
class StepState:
    """A tensor that is carried from step to step, with the axes of its module."""

    name: str
    input: str
    output: str
    batch_axis: int
    shape: tuple[int, ...]  # of one row or of several
    dtype: torch.dtype = torch.float32
    initial: float = 0.0

    @property
    def axes(self) -> tuple[str, ...]:
        """Its rows are named, all else is fixed."""
        return tuple(BATCH if axis == self.batch_axis else "" for axis in range(len(self.shape)))

    def start(self, rows: int) -> Tensor:
        """What it is before anything was read."""
        sizes = [rows if axis == self.batch_axis else size for axis, size in enumerate(self.shape)]
        return torch.full(sizes, self.initial, dtype=self.dtype)

    def table(self) -> Table:
        """[[stepwise.state]]"""
        start: Table = {"initial": self.initial} if self.initial else {}
        return {
            "name": self.name,
            "input": self.input,
            "output": self.output,
            **start,
            "batch_axis": self.batch_axis,
        }


@dataclass(frozen=True)
class StepOutput:
    """An output of a step: rows in front, all other axes fixed. `follows` is the axis of the one-shot output
    along which its elements lie, where it has one."""

    name: str
    rank: int
    follows: int | None = None


class StepModule(nn.Module, ABC):
    """A module that steps."""

    inputs: tuple[ModuleInput, ...]  # of one element
    states: tuple[StepState, ...]
    outputs: tuple[StepOutput, ...]

    @abstractmethod
    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Elements, rows in front, and states → outputs, rows in front, and states."""

    @torch.no_grad()
    def answer(self, inputs: Mapping[str, Tensor]) -> Arrays:
        """What a step gives, by name."""
        names = [*(one.name for one in self.inputs), *(state.input for state in self.states)]
        given = [*(one.name for one in self.outputs), *(state.output for state in self.states)]
        tensors = self(*(inputs[name] for name in names))
        return {name: tensor.numpy() for name, tensor in zip(given, tensors, strict=True)}

    def graph_spec(self, example: Mapping[str, Tensor]) -> GraphSpec:
        """Its graph; `example` holds an element of a few rows."""
        axes = {one.name: (BATCH, *[""] * (example[one.name].dim() - 1)) for one in self.inputs}
        given = {one.name: (BATCH, *[""] * (one.rank - 1)) for one in self.outputs}
        states = {state.input: state.axes for state in self.states}
        after = {state.output: state.axes for state in self.states}
        return GraphSpec(
            STEP,
            self,
            dict(example),
            axes | states,
            (*given, *after),
            given | after,
            positional=True,
        )

    def start(self, rows: int) -> dict[str, Tensor]:
        """All states before anything was read."""
        return {state.input: state.start(rows) for state in self.states}

    def table(self, choices: ExportOptions) -> Table:
        """[stepwise]"""
        task = choices.task
        most: Table = {"max_tokens": task.max_tokens} if isinstance(task, Generate) else {}
        return {
            "graph": STEP,
            **most,
            "inputs": {one.name: manifest.tensor(**_ids(one)) for one in self.inputs},
            "outputs": {one.name: manifest.tensor() for one in self.outputs},
            "state": [state.table() for state in self.states],
        }


def _ids(one: ModuleInput) -> Table:
    return {} if one.ids is None else {"range": [0, one.ids]}
