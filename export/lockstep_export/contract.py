"""All that is known of what a module takes, as reading.py has put it together."""

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
    """What the server fills an input with: "lengths" or "mask", of a named length."""

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
    filled: GeneratedInput | None = None


@dataclass(frozen=True)
class InputContract:
    """All that is known of what a module takes."""

    inputs: tuple[ModuleInput, ...]
    by_name: bool  # the module takes them as keywords
    longest: Mapping[str, int]  # by named length
    choices: ExportOptions
    outputs: tuple[str, ...] = ()  # names, or a choice of the names that the module gives

    @property
    def given(self) -> tuple[ModuleInput, ...]:
        """What a caller sends: all that the server does not fill in."""
        return tuple(one for one in self.inputs if one.filled is None)

    @property
    def padded(self) -> bool:
        """Whether rows of different lengths may share a run."""
        return bool(self.longest) and self.choices.max_rows > 1


@torch.no_grad()
def call(module: nn.Module, inputs: Mapping[str, Tensor], by_name: bool) -> Any:
    """What the module gives.

    Raises:
        DescriptionError: it does not take these inputs.
    """
    try:
        return module(**inputs) if by_name else module(*inputs.values())
    except Exception as error:  # a module may raise whatever it likes
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        why = " ".join(str(error).split())[:200]
        raise DescriptionError(
            f"{type(module).__name__} fails on {shapes}: {type(error).__name__}: {why}"
        ) from error
