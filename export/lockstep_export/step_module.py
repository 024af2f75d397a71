"""The interface of a step-wise module, written by its author or derived: elements, states, outputs.

It takes `inputs`, then `states`, in their order, and returns `outputs`, then states.
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
    """A tensor that is carried from step to step, with the axes of the module."""

    name: str
    input: str
    output: str
    batch_axis: int
    shape: tuple[int, ...]  # with any number of rows
    dtype: torch.dtype = torch.float32
    initial: float = 0.0

    @property
    def axes(self) -> tuple[str, ...]:
        """The batch axis is named, all others are fixed."""
        return tuple(BATCH if axis == self.batch_axis else "" for axis in range(len(self.shape)))

    def start(self, rows: int) -> Tensor:
        """The initial state of `rows` rows."""
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
    """An output of a step: batch axis first, all other axes fixed. `follows` is the axis of the one-shot
    output along which its elements lie; None if the one-shot output has no such axis."""

    name: str
    rank: int
    follows: int | None = None


class StepModule(nn.Module, ABC):
    """Base class of modules that take one element at a time."""

    inputs: tuple[ModuleInput, ...]  # of one element
    states: tuple[StepState, ...]
    outputs: tuple[StepOutput, ...]

    @abstractmethod
    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Elements and states → outputs and states; elements and outputs have the batch axis first."""

    @torch.no_grad()
    def answer(self, inputs: Mapping[str, Tensor]) -> Arrays:
        """Runs one step; outputs and states by name."""
        input_names = [*(input_.name for input_ in self.inputs), *(state.input for state in self.states)]
        output_names = [*(output.name for output in self.outputs), *(state.output for state in self.states)]
        tensors = self(*(inputs[name] for name in input_names))
        return {name: tensor.numpy() for name, tensor in zip(output_names, tensors, strict=True)}

    def graph_spec(self, example: Mapping[str, Tensor]) -> GraphSpec:
        """The step graph; `example` holds one element of several rows, and states."""
        axes = {input_.name: (BATCH, *[""] * (example[input_.name].dim() - 1)) for input_ in self.inputs}
        outputs = {output.name: (BATCH, *[""] * (output.rank - 1)) for output in self.outputs}
        states = {state.input: state.axes for state in self.states}
        next_states = {state.output: state.axes for state in self.states}
        return GraphSpec(
            STEP,
            self,
            dict(example),
            axes | states,
            (*outputs, *next_states),
            outputs | next_states,
            positional=True,
        )

    def start(self, rows: int) -> dict[str, Tensor]:
        """The initial states of `rows` rows."""
        return {state.input: state.start(rows) for state in self.states}

    def table(self, options: ExportOptions) -> Table:
        """[stepwise]"""
        task = options.task
        most: Table = {"max_tokens": task.max_tokens} if isinstance(task, Generate) else {}
        return {
            "graph": STEP,
            **most,
            "inputs": {input_.name: manifest.tensor(**_ids(input_)) for input_ in self.inputs},
            "outputs": {output.name: manifest.tensor() for output in self.outputs},
            "state": [state.table() for state in self.states],
        }


def _ids(input_: ModuleInput) -> Table:
    return {} if input_.ids is None else {"range": [0, input_.ids]}
