"""The inputs of a module as parse_spec.py has collected them from the declaration and the example."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lockstep_export.axes import Axes
from lockstep_export.errors import DescriptionError
from lockstep_export.options import ExportOptions

Example = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


@dataclass(frozen=True)
class GeneratedInput:
    """An input that the server generates: the "lengths" or the "mask" of a named length."""

    kind: str
    of: str
    real: bool = True


@dataclass(frozen=True)
class ModuleInput:
    """One input of a module."""

    name: str
    example: Tensor
    axes: Axes
    pad: float = 0
    ids: int | None = None
    generated: GeneratedInput | None = None


@dataclass(frozen=True)
class InputContract:
    """The inputs of a module, the export options and the outputs to keep."""

    inputs: tuple[ModuleInput, ...]
    by_name: bool  # the module is called with keyword arguments
    max_lengths: Mapping[str, int]  # the largest size of each named length
    options: ExportOptions
    outputs: tuple[str, ...] = ()  # names for the outputs, or the ones to keep of a dict

    @property
    def client_inputs(self) -> tuple[ModuleInput, ...]:
        """The inputs that a client sends: all that the server does not generate."""
        return tuple(input_ for input_ in self.inputs if input_.generated is None)

    @property
    def padded(self) -> bool:
        """Whether rows of different lengths may share a batch."""
        return bool(self.max_lengths) and self.options.max_rows > 1


@torch.no_grad()
def call(module: nn.Module, inputs: Mapping[str, Tensor], by_name: bool) -> Any:
    """The return value of the module.

    Raises:
        DescriptionError: the module raised an exception for these inputs.
    """
    try:
        return module(**inputs) if by_name else module(*inputs.values())
    except Exception as error:  # a module may raise anything
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        why = " ".join(str(error).split())[:200]
        raise DescriptionError(
            f"{type(module).__name__} fails on {shapes}: {type(error).__name__}: {why}"
        ) from error
