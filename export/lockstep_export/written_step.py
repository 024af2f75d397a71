"""Wraps a step written by its author: separates states from inputs and outputs and checks both."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from lockstep_export.checks import check_module
from lockstep_export.contract import InputContract
from lockstep_export.errors import DescriptionError
from lockstep_export.graph_module import ModuleOutput, by_name
from lockstep_export.step_module import StepModule, StepOutput, StepState


class WrittenStep(StepModule):
    """The module with its states separated; `contract` has the other inputs only."""

    def __init__(
        self,
        module: nn.Module,
        contract: InputContract,
        states: tuple[StepState, ...],
        outputs: tuple[ModuleOutput, ...],
    ) -> None:
        super().__init__()
        carried = {state.input for state in states}
        self.module, self.order = module, contract
        self.contract = replace(
            contract, inputs=tuple(input_ for input_ in contract.inputs if input_.name not in carried)
        )
        self.inputs, self.states = self.contract.inputs, states
        next_states = {state.output for state in states}
        self.axes = {output.name: output.axes.batch for output in outputs}
        self.outputs = tuple(
            StepOutput(output.name, len(output.shape)) for output in outputs if output.name not in next_states
        )

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        elements = {
            input_.name: tensor.movedim(0, input_.axes.batch)
            for input_, tensor in zip(self.inputs, tensors, strict=False)
        }
        states = dict(zip((state.input for state in self.states), tensors[len(self.inputs) :], strict=True))
        named = elements | states
        inputs = {input_.name: named[input_.name] for input_ in self.order.inputs}
        returned = self.module(**inputs) if self.order.by_name else self.module(*inputs.values())
        found = by_name(returned, self.order)
        front = (found[output.name].movedim(self.axes[output.name], 0) for output in self.outputs)
        return (*front, *(found[state.output] for state in self.states))


def written_step(
    module: nn.Module, contract: InputContract, states: Mapping[str, str], initial: Mapping[str, float]
) -> WrittenStep:
    """`module` as a step with the given states.

    Raises:
        DescriptionError: a state does not exist, or its next value has another shape.
        ModuleError: as `check_module`.
    """
    inputs = {input_.name: input_ for input_ in contract.inputs}
    for name in (*states, *initial):
        if name not in inputs:
            raise DescriptionError(f"states: unknown input {name!r}; available: {', '.join(inputs)}")
    for input_ in contract.inputs:
        if input_.axes.lengths:
            raise DescriptionError(
                f"axes of {input_.name!r}: {str(input_.axes)!r} has an axis that varies; a step takes one"
                " element and states of fixed size. (For a cache that grows, write the manifest:"
                " docs/manifest.md.)"
            )
        if input_.generated:
            raise DescriptionError(f"{input_.name!r}: a step has no padding; omit lengths= and mask=")
    if not states:
        raise DescriptionError('states: empty; name the states: states={"h": "h_next"}')
    if len(states) == len(inputs):
        raise DescriptionError("states: every input is a state; a step also needs an element as input")
    outputs = check_module(module, contract)
    carried = tuple(
        _state(name, after, contract, {output.name: output for output in outputs}, initial)
        for name, after in states.items()
    )
    return WrittenStep(module, contract, carried, outputs)


def _state(
    name: str,
    after: str,
    contract: InputContract,
    outputs: Mapping[str, ModuleOutput],
    initial: Mapping[str, float],
) -> StepState:
    input_ = next(input_ for input_ in contract.inputs if input_.name == name)
    after = after + "_out" if after + "_out" in outputs else after
    if after not in outputs:
        raise DescriptionError(
            f"states: unknown output {after!r} for {name!r}; available: {', '.join(outputs)}"
        )
    next_, batch = outputs[after], input_.axes.batch
    fixed = [size for axis, size in enumerate(input_.example.shape) if axis != batch]
    fixed_after = [size for axis, size in enumerate(next_.shape) if axis != next_.axes.batch]
    if next_.axes.batch != batch or fixed != fixed_after:
        raise DescriptionError(
            f"states: {name!r} {list(input_.example.shape)} becomes {after!r} {list(next_.shape)}; a state"
            " must have the same shape and batch axis in every step"
        )
    return StepState(
        name, name, after, batch, tuple(input_.example.shape), input_.example.dtype, initial.get(name, 0.0)
    )
