"""What proving an exported model comes to: comparisons, each with the largest gap it found.

What is compared is each trade's own; what counts as equal, and what is told when something is not, is here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lockstep_export.errors import ParityError
from lockstep_export.graph import Arrays

TOLERANCE = 1e-5  # of the largest value where that is above one, else absolute
EXACT = 0.0  # bit for bit


@dataclass(frozen=True)
class Difference:
    """The largest gap found by one comparison for one output, as a share of the tolerance's unit."""

    comparison: str
    output: str
    rows: int
    largest: float
    note: str = ""
    allowed: float = TOLERANCE

    @property
    def within(self) -> bool:
        """False for a gap above what is allowed, and for anything that is not a number."""
        return self.largest <= self.allowed

    def __str__(self) -> str:
        verdict = "ok" if self.within else "DIFFERS"
        text = f"{self.comparison:<10} {self.output:<10} rows {self.rows:>3}  {self.largest:.1e}  {verdict}"
        return f"{text}  {self.note}".rstrip()


@dataclass(frozen=True)
class Parity:
    """Every comparison made for one model."""

    model: str
    differences: list[Difference]

    @property
    def worst(self) -> float:
        """The largest gap of all; infinite where a run failed or a shape was wrong."""
        return max((gap.largest if gap.largest == gap.largest else np.inf) for gap in self.differences)

    def require(self) -> None:
        """Raises ParityError with the failed comparisons when there is one."""
        failed = [str(gap) for gap in self.differences if not gap.within]
        if failed:
            many = f"{len(failed)} of {len(self.differences)} comparisons differ by more than they may"
            raise ParityError("\n  ".join([f"{self.model}: the exported graph is refused, {many}", *failed]))


def gap(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """The largest difference, as a share of the largest value where that is above one."""
    if found.shape != expected.shape:
        return np.inf
    if not found.size:
        return 0.0
    return float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))


def gaps(
    comparison: str,
    rows: int,
    pairs: Iterable[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]],
    allowed: float = TOLERANCE,
) -> list[Difference]:
    """One Difference per output name, the worst of all its (name, found, expected)."""
    worst: dict[str, float] = {}
    for name, found, expected in pairs:
        worst[name] = float(np.max([worst.get(name, 0.0), gap(found, expected)]))
    return [Difference(comparison, name, rows, largest, "", allowed) for name, largest in worst.items()]


def failed_run(rows: int, error: Exception) -> Difference:
    """What ONNX Runtime raises where an axis was frozen has no one type."""
    return Difference("run", "any", rows, np.inf, " ".join(str(error).split())[:200])


@torch.no_grad()
def answers(module: nn.Module, inputs: dict[str, Tensor]) -> Arrays:
    """What a module gives by name."""
    return {name: tensor.numpy() for name, tensor in module(**inputs).items()}
