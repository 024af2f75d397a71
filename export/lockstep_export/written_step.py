"""A step that its author wrote: which of its inputs and outputs are states, and that its rows are its own."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from lockstep_export.checks import check_module
from lockstep_export.contract import InputContract
from lockstep_export.errors import DescriptionError
from lockstep_export.graph_module import ModuleOutput, by_name
from lockstep_export.step_module import StepModule, StepOutput, StepState


class WrittenStep(StepModule):
    """The module as it is, its states told apart. `contract` holds all but the states."""

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
            contract, inputs=tuple(one for one in contract.inputs if one.name not in carried)
        )
        self.inputs, self.states = self.contract.inputs, states
        given = {state.output for state in states}
        self.axes = {one.name: one.axes.batch for one in outputs}
        self.outputs = tuple(StepOutput(one.name, len(one.shape)) for one in outputs if one.name not in given)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        elements = {
            one.name: tensor.movedim(0, one.axes.batch)
            for one, tensor in zip(self.inputs, tensors, strict=False)
        }
        states = dict(zip((state.input for state in self.states), tensors[len(self.inputs) :], strict=True))
        named = elements | states
        inputs = {one.name: named[one.name] for one in self.order.inputs}
        given = self.module(**inputs) if self.order.by_name else self.module(*inputs.values())
        found = by_name(given, self.order)
        front = (found[one.name].movedim(self.axes[one.name], 0) for one in self.outputs)
        return (*front, *(found[state.output] for state in self.states))


def written_step(
    module: nn.Module, contract: InputContract, states: Mapping[str, str], initial: Mapping[str, float]
) -> WrittenStep:
    """The step-wise face that `module` is.

    Raises:
        DescriptionError: a state that it does not have, or that comes out otherwise than it goes in.
        ModuleError: as `examine`.
    """
    inputs = {one.name: one for one in contract.inputs}
    for name in (*states, *initial):
        if name not in inputs:
            raise DescriptionError(f"states: the module takes no {name!r}; it takes {', '.join(inputs)}")
    for one in contract.inputs:
        if one.axes.lengths:
            raise DescriptionError(
                f"axes of {one.name!r}: {str(one.axes)!r} varies; a step takes one element, and a state of"
                " fixed size. (A cache that grows is described by hand: docs/manifest.md.)"
            )
        if one.filled:
            raise DescriptionError(f"{one.name!r}: a step has no padding to tell of; leave it out")
    if not states:
        raise DescriptionError('states: name what is carried: states={"h": "h_next"}')
    if len(states) == len(inputs):
        raise DescriptionError("states: every input is a state; a step also takes an element")
    outputs = check_module(module, contract)
    carried = tuple(
        _state(name, after, contract, {one.name: one for one in outputs}, initial)
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
    one = next(one for one in contract.inputs if one.name == name)
    after = after + "_out" if after + "_out" in outputs else after
    if after not in outputs:
        raise DescriptionError(
            f"states: the module gives no {after!r} to follow {name!r}; it gives {', '.join(outputs)}"
        )
    next_, batch = outputs[after], one.axes.batch
    fixed = [size for axis, size in enumerate(one.example.shape) if axis != batch]
    given = [size for axis, size in enumerate(next_.shape) if axis != next_.axes.batch]
    if next_.axes.batch != batch or fixed != given:
        raise DescriptionError(
            f"states: {name!r} {list(one.example.shape)} becomes {after!r} {list(next_.shape)}: what a step"
            " gives must be what the next one takes, axis by axis"
        )
    return StepState(
        name, name, after, batch, tuple(one.example.shape), one.example.dtype, initial.get(name, 0.0)
    )
