"""A module as its graph shows it: tensors in a fixed order, rows in front, everything by name.

The module itself keeps its own order of axes: a face turns tensors on the way in and out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from lockstep_export.axes import Axes
from lockstep_export.contract import InputContract
from lockstep_export.errors import DescriptionError
from lockstep_export.onnx_graph import Arrays


@dataclass(frozen=True)
class ModuleOutput:
    """One output of a module: its axes as the module has them, and the sizes of the fixed ones."""

    name: str
    axes: Axes
    shape: tuple[int, ...]

    @property
    def width(self) -> int | None:
        """The last axis, where its size is fixed."""
        return None if self.axes.names[-1] else self.shape[-1]


class GraphModule(nn.Module):
    """Inputs in the contract's order, rows in front → outputs in order, rows in front."""

    def __init__(self, module: nn.Module, contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> None:
        super().__init__()
        self.module, self.contract, self.outputs = module, contract, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = {
            one.name: tensor.movedim(0, one.axes.batch)
            for one, tensor in zip(self.contract.inputs, tensors, strict=True)
        }
        given = self.module(**inputs) if self.contract.by_name else self.module(*inputs.values())
        named = by_name(given, self.contract)
        return tuple(named[one.name].movedim(one.axes.batch, 0) for one in self.outputs)

    @torch.no_grad()
    def answer(self, inputs: Mapping[str, Tensor]) -> Arrays:
        """What the module gives, by name."""
        given = self(*(inputs[one.name] for one in self.contract.inputs))
        return {one.name: tensor.numpy() for one, tensor in zip(self.outputs, given, strict=True)}


def by_name(given: Any, contract: InputContract) -> dict[str, Tensor]:
    """What a module gave, by name; what is called as an input is gets `_out` behind it.

    Raises:
        DescriptionError: it gave no tensors, or several without names.
    """
    named = _chosen(given, contract) if isinstance(given, Mapping) else _counted(given, contract)
    inputs = [one.name for one in contract.inputs]
    return {name + "_out" if name in inputs else name: tensor for name, tensor in named.items()}


def _chosen(given: Mapping[Any, Any], contract: InputContract) -> dict[str, Tensor]:
    named = {str(name): value for name, value in given.items() if isinstance(value, Tensor)}
    missing = [name for name in contract.outputs if name not in named]
    if missing or not named:
        lacking = ", ".join(missing) or "at all"
        raise DescriptionError(f"outputs: the module gives no tensor {lacking}; it gives {', '.join(given)}")
    return {name: named[name] for name in contract.outputs} if contract.outputs else named


def _counted(given: Any, contract: InputContract) -> dict[str, Tensor]:
    tensors = _pytree.tree_leaves(given)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise DescriptionError(
            f"the module gives a {type(given).__name__}; have it give a tensor, a tuple or a dict of tensors"
        )
    names = contract.outputs or ((contract.choices.task.main,) if len(tensors) == 1 else ())
    if len(names) != len(tensors):
        raise DescriptionError(
            f"outputs: the module gives {len(tensors)} tensors without names and there are {len(names)};"
            ' name all in their order: outputs=("logits", …)'
        )
    return dict(zip(names, tensors, strict=True))
