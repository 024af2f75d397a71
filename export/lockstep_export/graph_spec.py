"""The description of a graph for the tracer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class GraphSpec:
    """A module, an example of its inputs, and the names and axes of its inputs and outputs.

    The module returns a dict, or tensors in the order of `outputs`. It is called with keyword arguments, or
    with positional ones if `positional`.
    """

    file: str
    module: nn.Module
    inputs: dict[str, Tensor]
    axes: dict[str, tuple[str, ...]]  # of each input: a name for an axis that varies, "" for a fixed one
    outputs: tuple[str, ...]
    output_axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # where known
    positional: bool = False
