"""Wraps a module the way its graph presents it: tensors in a fixed order, batch axis first, all by name.

The module keeps its own order of axes: GraphModule transposes on the way in and out. Outputs that start
states keep the module's axes, which the states of the step have too.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from lockstep_export.axes import ModuleOutput
from lockstep_export.contract import InputContract
from lockstep_export.errors import DescriptionError
from lockstep_export.onnx_graph import Arrays


class GraphModule(nn.Module):
    """Inputs in the contract's order, batch axis first → outputs in order, batch axis first."""

    def __init__(self, module: nn.Module, contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> None:
        super().__init__()
        self.module, self.contract, self.outputs = module, contract, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = {
            input_.name: tensor.movedim(0, input_.axes.batch)
            for input_, tensor in zip(self.contract.inputs, tensors, strict=True)
        }
        returned = self.module(**inputs) if self.contract.by_name else self.module(*inputs.values())
        named = by_name(returned, self.contract)
        return tuple(
            named[output.name].movedim(output.axes.batch, output.batch_axis) for output in self.outputs
        )

    @torch.no_grad()
    def answer(self, inputs: Mapping[str, Tensor]) -> Arrays:
        """Runs the module; the outputs by name."""
        returned = self(*(inputs[input_.name] for input_ in self.contract.inputs))
        return {output.name: tensor.numpy() for output, tensor in zip(self.outputs, returned, strict=True)}


def by_name(returned: Any, contract: InputContract) -> dict[str, Tensor]:
    """A module's return value by name; an output with the name of an input gets the suffix `_out`.

    Raises:
        DescriptionError: it holds no tensors, or several without names.
    """
    named = (
        _select_by_name(returned, contract)
        if isinstance(returned, Mapping)
        else _name_by_position(returned, contract)
    )
    inputs = [input_.name for input_ in contract.inputs]
    return {name + "_out" if name in inputs else name: tensor for name, tensor in named.items()}


def _select_by_name(returned: Mapping[Any, Any], contract: InputContract) -> dict[str, Tensor]:
    named = {str(name): value for name, value in returned.items() if isinstance(value, Tensor)}
    missing = [name for name in contract.outputs if name not in named]
    if missing or not named:
        lacking = ", ".join(missing) or "at all"
        raise DescriptionError(
            f"outputs: the module returns no tensor {lacking}; it returns {', '.join(returned)}"
        )
    return {name: named[name] for name in contract.outputs} if contract.outputs else named


def _name_by_position(returned: Any, contract: InputContract) -> dict[str, Tensor]:
    tensors = _pytree.tree_leaves(returned)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise DescriptionError(
            f"the module returns a {type(returned).__name__}; return a tensor, a tuple or a dict of tensors"
        )
    names = contract.outputs or ((contract.options.task.main,) if len(tensors) == 1 else ())
    if len(names) != len(tensors):
        raise DescriptionError(
            f"outputs: the module returns {len(tensors)} tensors without names, but {len(names)} names are"
            ' given; name all in their order: outputs=("logits", …)'
        )
    return dict(zip(names, tensors, strict=True))
