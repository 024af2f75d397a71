"""Derives the step-wise form of a module that reads whole sequences, without a second definition of it.

The module's own forward runs on one element. In a copy, its nn.RNN, nn.GRU and nn.LSTM layers are replaced by
cells that start from given states and keep their final ones, which become inputs and outputs of the graph.
The result equals the whole sequence only if no other part of the module looks past one element;
step_proof.py verifies this prefix by prefix.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export.axes import BATCH, Axes, ModuleOutput
from lockstep_export.contract import InputContract, ModuleInput
from lockstep_export.errors import DescriptionError, ModuleError
from lockstep_export.graph_module import GraphModule
from lockstep_export.packing import Ragged, without_packing
from lockstep_export.recurrent import Cell, States
from lockstep_export.recurrent_nodes import RecurrentReplacement, recurrent_layers, single_layer
from lockstep_export.step_module import StepModule, StepOutput, StepState

ALTERNATIVES = (
    "export only the one-shot form with export_oneshot (Follow then recomputes each prefix), or write the"
    " step yourself: export_stepwise(step, ..., states={...})"
)


class ReluCell(Cell):
    """The cell of nn.RNN(nonlinearity="relu")."""

    def forward(self, projected: Tensor, states: States) -> States:
        return (torch.relu(projected + functional.linear(states[0], self.r, self.b.chunk(2)[1])),)


class StepRecurrentLayer(RecurrentReplacement):
    """One nn.RNN, nn.GRU or nn.LSTM with any number of layers, on one element of each row.

    `before` [layers, batch, hidden] is the state it starts from and `after` the state it ends with; the
    initial states that the module's own code passes are only recorded.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__(layer)
        self.cells = nn.ModuleList(_cell(layer, index) for index in range(layer.num_layers))
        self.before: States = ()
        self.after: States = ()
        self.passed_states: Any = None
        self.calls = 0

    def forward(self, x: Tensor | Ragged, hx: Any = None) -> tuple[Tensor | Ragged, Any]:
        self.calls, self.passed_states = self.calls + 1, hx
        time = 1 if self.batch_first else 0
        element = x.x.squeeze(0) if isinstance(x, Ragged) else x.squeeze(time)  # [batch, inputs]
        ends = []
        for index, cell in enumerate(self.cells):
            assert isinstance(cell, Cell)
            ends.append(cell(cell.project(element), tuple(state[index] for state in self.before)))
            element = ends[-1][0]
        self.after = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
        last = self.after if self.lstm else self.after[0]
        output = Ragged(element[None], x.lengths) if isinstance(x, Ragged) else element.unsqueeze(time)
        return output, last


class DerivedStep(StepModule):
    """The module's own forward, one element at a time."""

    disagreement = "its own forward, one element at a time, gives different results"
    remedy = (
        "Beside its recurrent layers, something in the module looks at more than one element: attention, a"
        " mean or maximum over time, a convolution, positions. A step has only its element and the previous"
        f" states; {ALTERNATIVES}"
    )

    def __init__(
        self,
        graph_module: GraphModule,
        layers: Sequence[tuple[str, StepRecurrentLayer]],
        inputs: tuple[ModuleInput, ...],
        time: str,
    ) -> None:
        super().__init__()
        self.graph_module, self.inputs, self.time = graph_module, inputs, time
        self.outputs = tuple(_step_output(output, time) for output in graph_module.outputs)
        self.layers = [layer for _, layer in layers]
        self.states, self.max_lengths = _all_states(layers), {}
        self.element_contract = replace(graph_module.contract, inputs=inputs, max_lengths={})

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        elements = dict(zip((input_.name for input_ in self.inputs), tensors, strict=False))
        states = list(tensors[len(self.inputs) :])
        for layer in self.layers:
            count = 2 if layer.lstm else 1
            layer.before, states = tuple(states[:count]), states[count:]
        with without_packing(self.graph_module.module):
            outputs = self.graph_module(
                *(self._whole(input_, elements) for input_ in self.graph_module.contract.inputs)
            )
        cut = (
            tensor if output.follows is None else tensor.select(output.follows, 0)
            for output, tensor in zip(self.outputs, outputs, strict=True)
        )
        return (*cut, *(state for layer in self.layers for state in layer.after))

    def _whole(self, input_: ModuleInput, elements: dict[str, Tensor]) -> Tensor:
        """One element as a sequence of length 1; inputs that the server generates are filled in."""
        if input_.generated is None:
            tensor = elements[input_.name]
            return (
                tensor.unsqueeze(input_.axes.graph_axes.index(self.time)) if self._varies(input_) else tensor
            )
        rows = next(iter(elements.values())).shape[0]
        sizes = (rows,) if input_.generated.kind == "lengths" else (rows, 1)
        return torch.full(sizes, int(input_.generated.real), dtype=torch.int64).to(input_.example.dtype)

    def _varies(self, input_: ModuleInput) -> bool:
        return self.time in input_.axes.names


def derive(module: nn.Module, contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> DerivedStep:
    """The step-wise form of `module`.

    Raises:
        DescriptionError, ModuleError: it cannot be derived; the message names an alternative.
    """
    check_derivable(module, contract)
    (time,) = contract.max_lengths
    copied, layers = copy.deepcopy(module), []
    for name, layer in recurrent_layers(module):
        layers.append((name, StepRecurrentLayer(layer)))
        if not name:
            raise ModuleError("the module is a bare recurrent layer; wrap it in a module with named outputs")
        copied.set_submodule(name, layers[-1][1])
    inputs = tuple(_element(input_, time) for input_ in contract.client_inputs)
    derived = DerivedStep(GraphModule(copied, contract, outputs), layers, inputs, time)
    _check_layers(derived, layers)
    derived.states = _all_states(layers)  # again: the run has recorded the initial values
    return derived


def check_derivable(module: nn.Module, contract: InputContract) -> None:
    """The checks that need no run.

    Raises:
        DescriptionError, ModuleError: as `derive`.
    """
    layers = recurrent_layers(module)
    if not layers:
        raise ModuleError(
            f"{type(module).__name__} has no nn.RNN, nn.GRU or nn.LSTM whose state could be carried from step"
            f" to step; {ALTERNATIVES}"
        )
    for name, layer in layers:
        if layer.bidirectional:
            raise ModuleError(
                f"{name!r} is bidirectional: its backward direction starts at the end of the sequence, which"
                f" a step has not seen. It has no step-wise form; {ALTERNATIVES.split(', or')[0]}"
            )
        if layer.proj_size:
            raise ModuleError(
                f"{name!r} has proj_size, for which ONNX has no operator; project with nn.Linear"
            )
    if len(contract.max_lengths) != 1:
        names = ", ".join(contract.max_lengths) or "none"
        raise DescriptionError(
            f"axes: the named lengths are {names}; a module that steps needs exactly one, as in"
            ' axes={"tokens": "batch words"}'
        )


def _cell(layer: nn.RNNBase, index: int) -> Cell:
    packed = single_layer(layer, index)
    return ReluCell(packed) if layer.mode == "RNN_RELU" else Cell(packed)


def _all_states(layers: Sequence[tuple[str, StepRecurrentLayer]]) -> tuple[StepState, ...]:
    """The states of all layers: h and c for a single layer, else prefixed with the layer's name."""
    return tuple(
        StepState(part, f"{part}_in", f"{part}_out", ("", BATCH, ""), shape, initial=start)
        for name, layer in layers
        for part, shape, start in _parts("" if len(layers) == 1 else name.replace(".", "_") + "_", layer)
    )


def _parts(prefix: str, layer: StepRecurrentLayer) -> list[tuple[str, tuple[int, ...], float]]:
    shape = (len(layer.cells), 1, layer.hidden_size)
    return [(prefix + part, shape, start) for part, start in zip("hc", _starts(layer), strict=False)]


def _starts(layer: StepRecurrentLayer) -> list[float]:
    """The initial value of each state, as passed to the layer by the module's code."""
    count = 2 if layer.lstm else 1
    if layer.passed_states is None:
        return [0.0] * count
    states = layer.passed_states if isinstance(layer.passed_states, tuple | list) else (layer.passed_states,)
    return [float(tensor.flatten()[0]) for tensor in states]


def _element(input_: ModuleInput, time: str) -> ModuleInput:
    names = input_.axes.names
    if time not in names:
        return input_
    axis = names.index(time)
    axes = Axes((*names[:axis], *names[axis + 1 :]))
    return ModuleInput(input_.name, input_.example.select(axis, 0), axes, input_.pad, input_.ids)


def _step_output(output: ModuleOutput, time: str) -> StepOutput:
    axes = output.graph_axes
    if axes.count(time) > 1:
        raise DescriptionError(
            f"{output.name!r} has two axes of elements, so that it has none in a step; drop it with"
            " outputs=(...)"
        )
    follows = axes.index(time) if time in axes else None
    return StepOutput(output.name, tuple(name for name in axes if name != time), follows)


def _check_layers(derived: DerivedStep, layers: Sequence[tuple[str, StepRecurrentLayer]]) -> None:
    """Each layer runs once and starts from a constant."""
    rows = 2
    inputs = {input_.name: _repeated(input_, rows) for input_ in derived.inputs}
    try:
        derived.answer(inputs | derived.start(rows))
    except Exception as error:  # a module may raise anything
        why = " ".join(str(error).split())[:200]
        raise ModuleError(f"the module fails on one element: {why}; {ALTERNATIVES}") from error
    for name, layer in layers:
        if layer.calls != 1:
            raise ModuleError(
                f"{name!r} runs {layer.calls} times in one forward, so that one state is not enough;"
                f" {ALTERNATIVES}"
            )
        states = (
            layer.passed_states if isinstance(layer.passed_states, tuple | list) else (layer.passed_states,)
        )
        if any(tensor is not None and tensor.unique().numel() > 1 for tensor in states):
            raise ModuleError(
                f"{name!r} starts from a computed or learnt state; the server can start a state only from a"
                f" constant; {ALTERNATIVES}"
            )


def _repeated(input_: ModuleInput, rows: int) -> Tensor:
    element = input_.example.movedim(input_.axes.batch, 0)[:1]
    return element.expand(rows, *element.shape[1:]).contiguous()
