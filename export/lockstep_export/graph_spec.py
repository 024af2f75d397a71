"""A graph that is to be traced: all that the tracer knows of a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class GraphSpec:
    """A module that gives tensors, by name or in the order of `outputs`, and an example of what it takes.

    It takes its inputs by name, or where `positional` says so in their order.
    """

    file: str
    module: nn.Module
    inputs: dict[str, Tensor]
    axes: dict[str, tuple[str, ...]]  # of each input: a name for an axis of any size, "" for a fixed one
    outputs: tuple[str, ...]
    output_axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # where they are known
    positional: bool = False
