"""A step-wise face from a module that reads whole sequences, without a second definition of it.

The module's own forward runs on one element. Its nn.RNN, nn.GRU and nn.LSTM are replaced, in a copy, by
cells that start from given states and keep the ones that they end with: these become inputs and outputs of
the graph. That this is the same as reading the whole sequence is not believed but proven, beginning by
beginning (walking.py): it is where nothing else in the module looks past one element.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export.axes import Axes
from lockstep_export.contract import InputContract, ModuleInput
from lockstep_export.errors import DescriptionError, ModuleError
from lockstep_export.graph_module import GraphModule, ModuleOutput
from lockstep_export.packing import Ragged, packed_as_they_are
from lockstep_export.recurrent import Cell, States
from lockstep_export.recurrent_nodes import Twin, recurrent, single
from lockstep_export.step_module import StepModule, StepOutput, StepState

OTHERWISE = (
    "export the one-shot face alone with export_oneshot (Follow then reads each prefix again), or write the"
    " step yourself: export_stepwise(step, ..., states={...})"
)


class ReluCell(Cell):
    """The cell of nn.RNN(nonlinearity="relu")."""

    def forward(self, projected: Tensor, states: States) -> States:
        return (torch.relu(projected + functional.linear(states[0], self.r, self.b.chunk(2)[1])),)


class DerivedModule(Twin):
    """One nn.RNN, nn.GRU or nn.LSTM of any number of layers, on one element of each row.

    `before` [layers, batch, hidden] is what it starts from and `after` what it has come to; the states that
    the module's own code gives it are only looked at.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__(layer)
        self.cells = nn.ModuleList(_cell(layer, index) for index in range(layer.num_layers))
        self.before: States = ()
        self.after: States = ()
        self.given: Any = None
        self.calls = 0

    def forward(self, x: Tensor | Ragged, hx: Any = None) -> tuple[Tensor | Ragged, Any]:
        self.calls, self.given = self.calls + 1, hx
        time = 1 if self.batch_first else 0
        element = x.x.squeeze(0) if isinstance(x, Ragged) else x.squeeze(time)  # [batch, inputs]
        ends = []
        for index, cell in enumerate(self.cells):
            assert isinstance(cell, Cell)
            ends.append(cell(cell.project(element), tuple(state[index] for state in self.before)))
            element = ends[-1][0]
        self.after = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
        last = self.after if self.lstm else self.after[0]
        given = Ragged(element[None], x.lengths) if isinstance(x, Ragged) else element.unsqueeze(time)
        return given, last


class DerivedStep(StepModule):
    """The module's own forward, one element at a time."""

    def __init__(
        self,
        face: GraphModule,
        layers: Sequence[tuple[str, DerivedModule]],
        inputs: tuple[ModuleInput, ...],
        time: str,
    ) -> None:
        super().__init__()
        self.face, self.inputs, self.time = face, inputs, time
        self.outputs = tuple(_step_output(one, time) for one in face.outputs)
        self.layers = [layer for _, layer in layers]
        self.states = _all_states(layers)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        elements = dict(zip((one.name for one in self.inputs), tensors, strict=False))
        states = list(tensors[len(self.inputs) :])
        for layer in self.layers:
            count = 2 if layer.lstm else 1
            layer.before, states = tuple(states[:count]), states[count:]
        with packed_as_they_are(self.face.module):
            given = self.face(*(self._whole(one, elements) for one in self.face.contract.inputs))
        cut = (
            tensor if one.follows is None else tensor.select(one.follows, 0)
            for one, tensor in zip(self.outputs, given, strict=True)
        )
        return (*cut, *(state for layer in self.layers for state in layer.after))

    def _whole(self, one: ModuleInput, elements: dict[str, Tensor]) -> Tensor:
        """What the module is given for an input: a sequence of one element."""
        if one.filled is None:
            tensor = elements[one.name]
            return tensor.unsqueeze(one.axes.in_front.index(self.time)) if self._varies(one) else tensor
        rows = next(iter(elements.values())).shape[0]
        sizes = (rows,) if one.filled.kind == "lengths" else (rows, 1)
        return torch.full(sizes, int(one.filled.real), dtype=torch.int64).to(one.example.dtype)

    def _varies(self, one: ModuleInput) -> bool:
        return self.time in one.axes.names


def derive(module: nn.Module, contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> DerivedStep:
    """The step-wise face of `module`.

    Raises:
        DescriptionError, ModuleError: it has none that could be derived, and what to do instead.
    """
    check_derivable(module, contract)
    (time,) = contract.longest
    twin, layers = copy.deepcopy(module), []
    for name, layer in recurrent(module):
        layers.append((name, DerivedModule(layer)))
        if not name:
            raise ModuleError(
                "the module is a bare recurrent layer; wrap it in a module that names its outputs"
            )
        twin.set_submodule(name, layers[-1][1])
    inputs = tuple(_element(one, time) for one in contract.given)
    derived = DerivedStep(GraphModule(twin, contract, outputs), layers, inputs, time)
    _check_layers(derived, layers)
    derived.states = _all_states(layers)  # now that it is known what they start from
    return derived


def check_derivable(module: nn.Module, contract: InputContract) -> None:
    """All that can be told without a run.

    Raises:
        DescriptionError, ModuleError: as `derive`.
    """
    layers = recurrent(module)
    if not layers:
        raise ModuleError(
            f"{type(module).__name__} has no nn.RNN, nn.GRU or nn.LSTM whose state could be carried from step"
            f" to step: {OTHERWISE}"
        )
    for name, layer in layers:
        if layer.bidirectional:
            raise ModuleError(
                f"{name!r} is bidirectional: its backward direction starts at the end of a sequence, which"
                f" a step has not seen. No step-wise face is possible: {OTHERWISE.split(', or')[0]}"
            )
        if layer.proj_size:
            raise ModuleError(
                f"{name!r} has proj_size, for which ONNX has no operator: project with nn.Linear"
            )
    if len(contract.longest) != 1:
        names = ", ".join(contract.longest) or "none"
        raise DescriptionError(
            f"axes: the named lengths are {names}; a module that steps reads along one, as in"
            ' axes={"tokens": "batch words"}'
        )


def _cell(layer: nn.RNNBase, index: int) -> Cell:
    alone = single(layer, index)
    return ReluCell(alone) if layer.mode == "RNN_RELU" else Cell(alone)


def _all_states(layers: Sequence[tuple[str, DerivedModule]]) -> tuple[StepState, ...]:
    """The states of all layers; those of an only one are h and c, and others bear their layer's name."""
    return tuple(
        StepState(part, f"{part}_in", f"{part}_out", 1, shape, initial=start)
        for name, layer in layers
        for part, shape, start in _parts("" if len(layers) == 1 else name.replace(".", "_") + "_", layer)
    )


def _parts(prefix: str, layer: DerivedModule) -> list[tuple[str, tuple[int, ...], float]]:
    shape = (len(layer.cells), 1, layer.hidden_size)
    return [(prefix + part, shape, start) for part, start in zip("hc", _starts(layer), strict=False)]


def _starts(layer: DerivedModule) -> list[float]:
    """What each state starts as, by what the module's code gave the layer."""
    count = 2 if layer.lstm else 1
    if layer.given is None:
        return [0.0] * count
    given = layer.given if isinstance(layer.given, tuple | list) else (layer.given,)
    return [float(tensor.flatten()[0]) for tensor in given]


def _element(one: ModuleInput, time: str) -> ModuleInput:
    names = one.axes.names
    if time not in names:
        return one
    axis = names.index(time)
    axes = Axes((*names[:axis], *names[axis + 1 :]))
    return ModuleInput(one.name, one.example.select(axis, 0), axes, one.pad, one.ids)


def _step_output(one: ModuleOutput, time: str) -> StepOutput:
    axes = one.axes.in_front
    if axes.count(time) > 1:
        raise DescriptionError(
            f"{one.name!r} has an axis of elements for each element: a step has none; leave it out with"
            " outputs=(...)"
        )
    follows = axes.index(time) if time in axes else None
    return StepOutput(one.name, len(axes) - (follows is not None), follows)


def _check_layers(derived: DerivedStep, layers: Sequence[tuple[str, DerivedModule]]) -> None:
    """Each layer runs once, from a start that is one number."""
    rows = 2
    inputs = {one.name: _repeated(one, rows) for one in derived.inputs}
    try:
        derived.answer(inputs | derived.start(rows))
    except Exception as error:  # a module may raise whatever it likes
        why = " ".join(str(error).split())[:200]
        raise ModuleError(f"the module cannot be run on one element: {why}: {OTHERWISE}") from error
    for name, layer in layers:
        if layer.calls != 1:
            raise ModuleError(
                f"{name!r} runs {layer.calls} times in one forward: its state after one element is not one"
                f" state: {OTHERWISE}"
            )
        given = layer.given if isinstance(layer.given, tuple | list) else (layer.given,)
        if any(tensor is not None and tensor.unique().numel() > 1 for tensor in given):
            raise ModuleError(
                f"{name!r} starts from a state that the module computes or has learnt; a served state starts"
                f" as one number: {OTHERWISE}"
            )


def _repeated(one: ModuleInput, rows: int) -> Tensor:
    element = one.example.movedim(one.axes.batch, 0)[:1]
    return element.expand(rows, *element.shape[1:]).contiguous()
