"""What proving an exported model comes to: comparisons, each with the largest gap it found.

What is compared is each trade's own; what counts as equal, and what is told when something is not, is here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lockstep_export.errors import ParityError
from lockstep_export.onnx_graph import Arrays

TOLERANCE = 1e-5  # of the largest value where that is above one, else absolute
EXACT = 0.0  # bit for bit
SMALL = 1e-2  # of the largest value of an output: a hundred times what may differ, where all are small
TOLD = 12  # failed comparisons in a report; the others are counted


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

    @property
    def size(self) -> float:
        """The gap, infinite where it is not a number."""
        return self.largest if self.largest == self.largest else np.inf


@dataclass(frozen=True)
class Parity:
    """Every comparison made for one model."""

    model: str
    differences: list[Difference]

    @property
    def worst(self) -> float:
        """The largest gap of all; infinite where a run failed or a shape was wrong."""
        return max(gap.size for gap in self.differences)

    @property
    def failed(self) -> list[Difference]:
        """The comparisons that found more than they allow."""
        return [gap for gap in self.differences if not gap.within]

    def require(self, remedy: str = "") -> None:
        """Raises ParityError with the failed comparisons, and the likely remedy, when there is one."""
        if not self.failed:
            return
        many = f"{len(self.failed)} of {len(self.differences)} comparisons differ by more than they may"
        lines = [f"{self.model}: the exported graph is refused, {many}", *table(self.failed)]
        raise ParityError("\n  ".join(lines) + (f"\n{remedy}" if remedy else ""))


def table(differences: Sequence[Difference]) -> list[str]:
    """The lines of a table of comparisons; of many, the worst in the order in which they were made."""
    worst = sorted(differences, key=lambda gap: gap.size, reverse=True)[:TOLD]
    told = [gap for gap in differences if any(gap is one for one in worst)]
    cells = [("comparison", "output", "rows", "largest", "allowed", "", "at"), *map(_cells, told)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    return lines + ([f"and {len(differences) - len(told)} more"] if len(told) < len(differences) else [])


def _cells(gap: Difference) -> tuple[str, ...]:
    verdict = "ok" if gap.within else "DIFFERS"
    numbers = (str(gap.rows), f"{gap.largest:.1e}", f"{gap.allowed:.0e}")
    return (gap.comparison, gap.output, *numbers, verdict, gap.note)


def gap(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], scale: float | None = None) -> float:
    """The largest difference, as a share of the largest value where that is above one; of whole numbers,
    which have no rounding, as it is. Equal infinities do not differ.

    scale: the largest value of all answers of this output. Where that is tiny (probabilities of many
    words), a difference counts by its share of it too, or zeros would pass for answers.
    """
    if found.shape != expected.shape:
        return np.inf
    if not found.size:
        return 0.0
    if found.dtype.kind != "f":
        return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())
    if not np.array_equal(np.isfinite(found), np.isfinite(expected)):
        return np.inf
    with np.errstate(invalid="ignore"):  # of infinities
        apart = float(np.where(found == expected, 0.0, np.abs(found - expected)).max())
    near = apart / max(1.0, largest(expected))
    return near if not scale else float(np.max([near, SMALL * apart / scale]))


def largest(values: np.ndarray[Any, Any]) -> float:
    """The largest size of a finite value."""
    sizes = np.abs(values[np.isfinite(values)]) if values.dtype.kind == "f" else np.abs(values)
    return float(sizes.max(initial=0))


def scales(answers: Iterable[tuple[str, np.ndarray[Any, Any]]]) -> dict[str, float]:
    """The largest value of each output, of all its (name, values)."""
    found: dict[str, float] = {}
    for name, values in answers:
        found[name] = max(found.get(name, 0.0), largest(values))
    return found


def gaps(
    comparison: str,
    rows: int,
    pairs: Iterable[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]],
    allowed: float = TOLERANCE,
    note: str = "",
) -> list[Difference]:
    """One Difference per output name, the worst of all its (name, found, expected)."""
    pairs = list(pairs)
    scale = scales((name, expected) for name, _, expected in pairs)
    worst: dict[str, float] = {}
    for name, found, expected in pairs:
        worst[name] = float(np.max([worst.get(name, 0.0), gap(found, expected, scale[name])]))
    return [Difference(comparison, name, rows, apart, note, allowed) for name, apart in worst.items()]


def failed_run(rows: int, error: Exception, where: str = "") -> Difference:
    """What ONNX Runtime raises where an axis was frozen has no one type."""
    why = " ".join(str(error).split())[:200]
    return Difference("run", "any", rows, np.inf, f"{where}: {why}" if where else why)


@torch.no_grad()
def answers(module: nn.Module, inputs: dict[str, Tensor]) -> Arrays:
    """What a module gives by name."""
    return {name: tensor.numpy() for name, tensor in module(**inputs).items()}
