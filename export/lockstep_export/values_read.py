"""Which warnings of torch's script tracer are about values of tensors, and which are about sizes.

While it traces, sizes are tensors too, so that it warns of `if x.shape[1] > 0` as of `if x.max() > 0`. In an
ordinary run sizes are numbers: what reads a tensor's value then, on the line of the warning, reads values.
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lockstep_export.graph_spec import GraphSpec

TORCH = str(Path(torch.__file__).parent)
_ALWAYS_VALUES = ("NumPy array", "Python list")  # sizes are never converted to these
_READS = "aten::_local_scalar_dense"

Place = tuple[str, int]
"""A file and a line."""


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the lines outside of torch that turn a tensor into a Python number."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places: set[Place] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.name() == _READS:
            self.places.add(_place())
        return func(*args, **(kwargs or {}))


def frozen_values(
    warned: Sequence[warnings.WarningMessage], graph_spec: GraphSpec
) -> Iterator[tuple[str, str]]:
    """The place and the text of each warning about a value that the graph would keep from the example."""
    if not warned:
        return
    reads = _Reads()
    with torch.no_grad(), reads:
        if graph_spec.positional:
            graph_spec.module(*graph_spec.inputs.values())
        else:
            graph_spec.module(**graph_spec.inputs)
    for warning in warned:
        text = str(warning.message)
        is_value = any(kind in text for kind in _ALWAYS_VALUES)
        if is_value or (warning.filename, warning.lineno) in reads.places:
            yield f"{Path(warning.filename).name}, line {warning.lineno}", text.split(".")[0]


def _place() -> Place:
    """The innermost line outside of torch."""
    frame = sys._getframe(2)
    while TORCH in frame.f_code.co_filename and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
