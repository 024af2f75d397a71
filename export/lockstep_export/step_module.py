"""The interface of a step-wise module, written by its author or derived: elements, states, outputs.

It takes `inputs` and `states`, in the order of `input_names`, and returns `outputs`, then the states that
change.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lockstep_export import manifest
from lockstep_export.axes import BATCH
from lockstep_export.contract import InputContract, ModuleInput
from lockstep_export.graph_spec import GraphSpec
from lockstep_export.manifest import Table
from lockstep_export.model_toml import input_table, length_axes
from lockstep_export.onnx_graph import Arrays
from lockstep_export.options import ExportOptions
from lockstep_export.samples import fill
from lockstep_export.tasks import Generate, Translate

STEP = "step.onnx"
EXAMPLE_ROWS, EXAMPLE_LENGTH = 3, 7

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class StepState:
    """A tensor that is carried from step to step, with the axes of the module."""

    name: str
    input: str
    output: str  # "" if it is carried unchanged
    axes: tuple[str, ...]  # BATCH, at most one named length, "" for the fixed ones
    shape: tuple[int, ...]  # with any number of rows and elements
    dtype: torch.dtype = torch.float32
    initial: float = 0.0
    prefill: str = ""
    grows: bool = False
    element_only: bool = False  # the output is the new element of a cache, without those before it

    @property
    def batch_axis(self) -> int:
        """The index of the batch axis."""
        return self.axes.index(BATCH)

    @property
    def length(self) -> str:
        """The named length along which its size differs between rows; "" if it is fixed."""
        return next((name for name in self.axes if name not in ("", BATCH)), "")

    @property
    def length_axis(self) -> int:
        """The index of the axis that varies."""
        return self.axes.index(self.length)

    @property
    def output_axes(self) -> tuple[str, ...]:
        """The axes of the output; that of a cache has one element more, or one alone."""
        longer = "" if self.element_only else f"{self.length}_and_one"
        return tuple(longer if self.grows and name == self.length else name for name in self.axes)

    def start(self, rows: int, elements: int = 0) -> Tensor:
        """The initial state of `rows` rows."""
        known = {BATCH: rows, self.length: elements} if self.length else {BATCH: rows}
        sizes = [known.get(name, size) for name, size in zip(self.axes, self.shape, strict=True)]
        return torch.full(sizes, self.initial, dtype=self.dtype)

    def stack(self, rows: Sequence[Tensor], longest: Mapping[str, int]) -> Tensor:
        """The states of several rows in one tensor, padded with zeros."""
        if self.length:
            rows = [self._padded(row, longest[self.length]) for row in rows]
        return torch.cat(list(rows), dim=self.batch_axis)

    def _padded(self, row: Tensor, elements: int) -> Tensor:
        padding = list(row.shape)
        padding[self.length_axis] = elements - padding[self.length_axis]
        return torch.cat((row, row.new_zeros(padding)), dim=self.length_axis)

    def table(self) -> Table:
        """[[stepwise.state]]"""
        lengths = {"lengths": {self.length_axis: self.length}} if self.length else {}
        return {
            "name": self.name,
            "input": self.input,
            **({"output": self.output} if self.output else {}),
            **({"prefill": self.prefill} if self.prefill else {}),
            **({"initial": self.initial} if self.initial else {}),
            "batch_axis": self.batch_axis,
            **lengths,
            **({"grows": True} if self.grows else {}),
        }


@dataclass(frozen=True)
class StepOutput:
    """An output of a step, with its axes in the graph: batch axis first. `follows` is the axis of the
    one-shot output along which its elements lie; None if the one-shot output has no such axis."""

    name: str
    axes: tuple[str, ...]
    follows: int | None = None


@dataclass(frozen=True)
class StepRow:
    """One step of one row: its element, by input, and its states before it, by state input."""

    element: Tensors
    states: Tensors


class StepModule(nn.Module, ABC):
    """Base class of modules that take one element at a time."""

    inputs: tuple[ModuleInput, ...]  # of one element, and those that the server generates
    states: tuple[StepState, ...]
    outputs: tuple[StepOutput, ...]
    max_lengths: Mapping[str, int]  # of the states
    element_contract: InputContract  # of one element, without states
    disagreement: str  # what is wrong if a step and another form of the model disagree, and the remedy
    remedy: str

    @abstractmethod
    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Elements and states → outputs and states; elements and outputs have the batch axis first."""

    @property
    def input_names(self) -> list[str]:
        """The elements, then the states."""
        return [*(input_.name for input_ in self.inputs), *(state.input for state in self.states)]

    @property
    def changing(self) -> tuple[StepState, ...]:
        """The states that a step replaces."""
        return tuple(state for state in self.states if state.output)

    @property
    def growing(self) -> set[str]:
        """The named lengths that each step extends by one."""
        return {state.length for state in self.states if state.grows}

    @torch.no_grad()
    def answer(self, inputs: Mapping[str, Tensor]) -> Arrays:
        """Runs one step; outputs and states by name."""
        output_names = [*(output.name for output in self.outputs), *(state.output for state in self.changing)]
        tensors = self(*(inputs[name] for name in self.input_names))
        return {name: tensor.numpy() for name, tensor in zip(output_names, tensors, strict=True)}

    def batch(self, rows: Sequence[StepRow], extra: int = 0, shortest: int = 1) -> Tensors:
        """The inputs of one step of `rows`: states padded to the longest, and at least to `shortest`, as the
        server does: an empty cache has room for an element."""
        lengths = [self.lengths(row.states) for row in rows]
        longest = {
            name: min(max(shortest, max(sizes[name] for sizes in lengths) + extra), most)
            for name, most in self.max_lengths.items()
        }
        found = {}
        for input_ in self.inputs:
            if input_.generated is None:
                found[input_.name] = torch.cat([row.element[input_.name] for row in rows])
            else:
                counts = torch.tensor([sizes[input_.generated.of] for sizes in lengths])
                found[input_.name] = fill(input_, counts, longest)
        for state in self.states:
            found[state.input] = state.stack([row.states[state.input] for row in rows], longest)
        return found

    def lengths(self, states: Mapping[str, Tensor]) -> dict[str, int]:
        """The named lengths of one row."""
        return {
            state.length: states[state.input].shape[state.length_axis]
            for state in self.states
            if state.length
        }

    def cut(self, outputs: Arrays, index: int, row: StepRow) -> Arrays:
        """One row of a step's results, without padding; a cache with its new element at the end."""
        sizes, found = self.lengths(row.states), {}
        for output in self.outputs:
            part = outputs[output.name].take([index], axis=0)
            for axis, name in enumerate(output.axes):
                part = part.take(range(sizes[name]), axis=axis) if name in sizes else part
            found[output.name] = part
        for state in self.changing:
            part = outputs[state.output].take([index], axis=state.batch_axis)
            if state.element_only:
                part = np.concatenate([row.states[state.input].numpy(), part], axis=state.length_axis)
            elif state.length:
                kept = [
                    *range(sizes[state.length]),
                    *([part.shape[state.length_axis] - 1] if state.grows else []),
                ]
                part = part.take(kept, axis=state.length_axis)
            found[state.output] = part
        return found

    def next_states(self, row: StepRow, results: Arrays) -> Tensors:
        """The states of one row after a step with these results."""
        changed = {state.input: torch.from_numpy(results[state.output]) for state in self.changing}
        return row.states | changed

    def graph_spec(self) -> GraphSpec:
        """The step graph."""
        example = self.batch([self._example_row() for _ in range(EXAMPLE_ROWS)])
        axes = {input_.name: input_.axes.graph_axes for input_ in self.inputs}
        outputs = {output.name: output.axes for output in self.outputs}
        states = {state.input: state.axes for state in self.states}
        next_states = {state.output: state.output_axes for state in self.changing}
        return GraphSpec(
            STEP,
            self,
            {name: example[name] for name in self.input_names},
            axes | states,
            (*outputs, *next_states),
            outputs | next_states,
            positional=True,
        )

    def _example_row(self) -> StepRow:
        element = {
            input_.name: input_.example.movedim(input_.axes.batch, 0)[:1]
            for input_ in self.inputs
            if input_.generated is None
        }
        return StepRow(element, {state.input: state.start(1, EXAMPLE_LENGTH) for state in self.states})

    def start(self, rows: int = 1) -> Tensors:
        """The initial states of `rows` rows."""
        return {state.input: state.start(rows) for state in self.states}

    def table(self, options: ExportOptions) -> Table:
        """[stepwise]"""
        task = options.task
        max_tokens = task.max_tokens if isinstance(task, Generate | Translate) else None
        most: Table = {} if max_tokens is None else {"max_tokens": max_tokens}
        return {
            "graph": STEP,
            **most,
            "inputs": {input_.name: input_table(input_) for input_ in self.inputs},
            "outputs": {output.name: manifest.tensor(*length_axes(output.axes)) for output in self.outputs},
            "state": [state.table() for state in self.states],
        }
