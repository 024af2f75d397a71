"""Wraps a step written by its author: separates states from inputs and outputs and checks both."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lockstep_export.axes import ModuleOutput
from lockstep_export.checks import check_module, find_outputs
from lockstep_export.contract import InputContract, ModuleInput, call
from lockstep_export.declaration import State
from lockstep_export.errors import DescriptionError
from lockstep_export.graph_module import by_name
from lockstep_export.samples import draw, stack
from lockstep_export.step_module import StepModule, StepOutput, StepState

ROWS, ELEMENTS = 2, 5


class NewElements(nn.Module):
    """The module with its growing outputs cut to their new element: what it returns no longer depends on the
    number of elements, so that the checks of any module apply."""

    def __init__(self, module: nn.Module, contract: InputContract, axes: Mapping[str, int]) -> None:
        super().__init__()
        self.module, self.contract, self.axes = module, contract, axes

    def forward(self, *args: Any, **named: Any) -> dict[str, Tensor]:
        found = by_name(self.module(*args, **named), self.contract)
        return {
            name: tensor[(*[slice(None)] * self.axes[name], slice(-1, None))] if name in self.axes else tensor
            for name, tensor in found.items()
        }


class WrittenStep(StepModule):
    """The module with its states separated; `element_contract` has the other inputs only."""

    disagreement = (
        "the step gives other results than the module that reads whole sequences, already in PyTorch"
    )
    remedy = (
        "A step must continue where the whole sequence ended: the same weights, positions counted from the"
        " same element, and a prefill whose states are those after the last real element (not the padding's)"
    )

    def __init__(
        self,
        module: nn.Module,
        contract: InputContract,
        states: tuple[StepState, ...],
        outputs: tuple[ModuleOutput, ...],
    ) -> None:
        super().__init__()
        carried = {state.input for state in states}
        self.module, self.contract = module, contract
        self.inputs = tuple(input_ for input_ in contract.inputs if input_.name not in carried)
        self.element_contract = replace(contract, inputs=self.inputs, max_lengths={})
        self.states, self.max_lengths = states, contract.max_lengths
        next_states = {state.output for state in self.changing}
        self.axes = {output.name: output.axes.batch for output in outputs}
        self.outputs = tuple(
            StepOutput(output.name, output.graph_axes) for output in outputs if output.name not in next_states
        )

    @property
    def input_names(self) -> list[str]:
        """In the order of the module."""
        return [input_.name for input_ in self.contract.inputs]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(self.input_names, tensors, strict=True))
        for input_ in self.inputs:
            inputs[input_.name] = inputs[input_.name].movedim(0, input_.axes.batch)
        returned = self.module(**inputs) if self.contract.by_name else self.module(*inputs.values())
        found = by_name(returned, self.contract)
        front = (found[output.name].movedim(self.axes[output.name], 0) for output in self.outputs)
        return (*front, *(found[state.output] for state in self.changing))

    def check(self) -> None:
        """Raises as `check_module`, for the step with its states as inputs."""
        module, contract = _without_old_elements(self.module, self.contract, self.states)
        check_module(module, contract)
        for state in self.states:
            if state.grows:
                _check_growth(self.module, self.contract, state)


def written_step(module: nn.Module, contract: InputContract, states: Mapping[str, State]) -> WrittenStep:
    """`module` as a step with the given states.

    Raises:
        DescriptionError: a state does not exist, or its next value has another shape.
        ModuleError: as `find_outputs`.
    """
    inputs = {input_.name: input_ for input_ in contract.inputs}
    for name in states:
        if name not in inputs:
            raise DescriptionError(f"states: unknown input {name!r}; available: {', '.join(inputs)}")
    if not states:
        raise DescriptionError('states: empty; name the states: states={"h": "h_next"}')
    if all(name in states or inputs[name].generated for name in inputs):
        raise DescriptionError("states: every input is a state; a step also needs an element as input")
    for input_ in contract.inputs:
        _check_axes(input_, states.get(input_.name))
    examples = {name: input_.example for name, input_ in inputs.items()}
    returned = by_name(call(module, examples, contract.by_name), contract)
    found = tuple(_state(inputs[name], state, returned) for name, state in states.items())
    outputs = find_outputs(*_without_old_elements(module, contract, found))
    for state in found:
        if state.output:
            _check_shape(state, next(output for output in outputs if output.name == state.output))
    return WrittenStep(module, contract, found, outputs)


def _check_axes(input_: ModuleInput, state: State | None) -> None:
    lengths = input_.axes.lengths
    if input_.generated and input_.generated.kind == "lengths" and state is None:
        return
    if state is None and lengths and not input_.generated:
        raise DescriptionError(
            f"axes of {input_.name!r}: {str(input_.axes)!r} has an axis that varies; a step takes one"
            " element. Only a state may vary: one that grows, or one that a prefill starts"
        )
    if state is None:
        return
    if len(lengths) > 1:
        raise DescriptionError(
            f"axes of {input_.name!r}: a state can vary along one axis, not {len(lengths)}"
        )
    if state.grows and not lengths:
        raise DescriptionError(
            f'states: {input_.name!r} grows, but its axes "{input_.axes}" are fixed; name the axis that'
            f' grows: axes={{"{input_.name}": "batch past 64"}}'
        )
    if state.grows and not state.output:
        raise DescriptionError(
            f"states: {input_.name!r} grows, but has no output that returns the longer one"
        )
    if lengths and not state.grows and not state.prefill:
        raise DescriptionError(
            f"states: {input_.name!r} varies along {next(iter(lengths.values()))!r}, and nothing gives it a"
            f' size; start it with a prefill (State(prefill="…")), or let it grow (State("…", grows=True))'
        )


def _output_of(name: str, state: State, returned: Mapping[str, Tensor]) -> str:
    if not state.output:
        return ""
    after = state.output + "_out" if state.output + "_out" in returned else state.output
    if after not in returned:
        raise DescriptionError(
            f"states: unknown output {after!r} for {name!r}; available: {', '.join(sorted(returned))}"
        )
    return after


def _state(input_: ModuleInput, state: State, returned: Mapping[str, Tensor]) -> StepState:
    output = _output_of(input_.name, state, returned)
    axis = next(iter(input_.axes.lengths), 0)
    has_others = input_.example.shape[axis] > 0
    element_only = state.grows and has_others and returned[output].shape[axis : axis + 1] == (1,)
    return StepState(
        state.name or input_.name,
        input_.name,
        output,
        input_.axes.names,
        tuple(input_.example.shape),
        input_.example.dtype,
        state.initial,
        state.prefill,
        state.grows,
        element_only,
    )


def _without_old_elements(
    module: nn.Module, contract: InputContract, states: tuple[StepState, ...]
) -> tuple[nn.Module, InputContract]:
    axes = {state.output: state.length_axis for state in states if state.grows}
    return (
        (NewElements(module, contract, axes), replace(contract, outputs=())) if axes else (module, contract)
    )


def _check_shape(state: StepState, output: ModuleOutput) -> None:
    expected = tuple("" if state.grows and name == state.length else name for name in state.axes)
    fixed = [size for name, size in zip(state.axes, state.shape, strict=True) if not name]
    found = [
        size
        for axis, (name, size) in enumerate(zip(output.axes.names, output.shape, strict=True))
        if not name and not (state.grows and axis == state.length_axis)
    ]
    if output.axes.names != expected or fixed != found:
        raise DescriptionError(
            f"states: {state.input!r} {list(state.shape)} becomes {state.output!r} {list(output.shape)}; a"
            " state must have the same shape and batch axis in every step"
        )


def _check_growth(module: nn.Module, contract: InputContract, state: StepState) -> None:
    """A cache keeps its elements and appends one, or returns the new one alone."""
    rng = torch.Generator().manual_seed(5)
    inputs = stack(
        contract, [draw(contract, dict.fromkeys(contract.max_lengths, ELEMENTS), rng) for _ in range(ROWS)]
    )
    own = {input_.name: inputs[input_.name].movedim(0, input_.axes.batch) for input_ in contract.inputs}
    found = by_name(call(module, own, contract.by_name), contract)[state.output]
    size = found.shape[state.length_axis]
    if size == 1:
        return
    if size != ELEMENTS + 1 or not torch.equal(
        found.narrow(state.length_axis, 0, ELEMENTS), own[state.input]
    ):
        raise DescriptionError(
            f"states: {state.input!r} grows, so that {state.output!r} must be {state.input!r} with one more"
            f" element at its end, torch.cat(({state.input}, new), dim={state.length_axis}), or new alone"
        )
