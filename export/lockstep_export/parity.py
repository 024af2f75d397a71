"""Comparisons of results, each with the largest difference found.

Callers decide what is compared; this module decides what counts as equal and formats the failures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lockstep_export.errors import ParityError
from lockstep_export.onnx_graph import Arrays

TOLERANCE = 1e-5  # absolute, or divided by the largest value where that is above 1
EXACT = 0.0  # bit for bit
SMALL = 1e-2  # weight of the difference relative to an output's largest value, for outputs that are all tiny
SHOWN = 12  # failed comparisons shown in a report; the others are counted


@dataclass(frozen=True)
class Difference:
    """The largest difference that one comparison found for one output, in units of its tolerance scale."""

    comparison: str
    output: str
    rows: int
    largest: float
    note: str = ""
    allowed: float = TOLERANCE

    @property
    def within(self) -> bool:
        """False for a difference above `allowed`, and for NaN."""
        return self.largest <= self.allowed

    @property
    def size(self) -> float:
        """The difference; infinite for NaN."""
        return self.largest if self.largest == self.largest else np.inf


@dataclass(frozen=True)
class Parity:
    """All comparisons of one model."""

    model: str
    differences: list[Difference]

    @property
    def worst(self) -> float:
        """The largest difference; infinite if a run failed or a shape was wrong."""
        return max(difference.size for difference in self.differences)

    @property
    def failed(self) -> list[Difference]:
        """The comparisons above their tolerance."""
        return [difference for difference in self.differences if not difference.within]

    def require(self, remedy: str = "") -> None:
        """Raises ParityError with the failed comparisons and the remedy, if any failed."""
        if not self.failed:
            return
        many = f"{len(self.failed)} of {len(self.differences)} comparisons exceed their tolerance"
        lines = [f"{self.model}: the exported graph is rejected, {many}", *table(self.failed)]
        raise ParityError("\n  ".join(lines) + (f"\n{remedy}" if remedy else ""))


def table(differences: Sequence[Difference]) -> list[str]:
    """The comparisons as table lines: the worst `SHOWN`, in the order in which they were made."""
    worst = sorted(differences, key=lambda difference: difference.size, reverse=True)[:SHOWN]
    shown = [difference for difference in differences if any(difference is one for one in worst)]
    cells = [("comparison", "output", "rows", "largest", "allowed", "", "at"), *map(_cells, shown)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    return lines + ([f"and {len(differences) - len(shown)} more"] if len(shown) < len(differences) else [])


def _cells(difference: Difference) -> tuple[str, ...]:
    verdict = "ok" if difference.within else "DIFFERS"
    numbers = (str(difference.rows), f"{difference.largest:.1e}", f"{difference.allowed:.0e}")
    return (difference.comparison, difference.output, *numbers, verdict, difference.note)


def gap(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], scale: float | None = None) -> float:
    """The largest difference, divided by the largest value where that is above 1; for integers, the plain
    difference. Equal infinities do not differ.

    scale: the largest value of all results of this output. If that is tiny (probabilities over many words),
    the difference relative to it counts too; otherwise zeros would pass for results.
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
        difference = float(np.where(found == expected, 0.0, np.abs(found - expected)).max())
    relative = difference / max(1.0, largest(expected))
    return relative if not scale else float(np.max([relative, SMALL * difference / scale]))


def largest(values: np.ndarray[Any, Any]) -> float:
    """The largest size of a finite value."""
    sizes = np.abs(values[np.isfinite(values)]) if values.dtype.kind == "f" else np.abs(values)
    return float(sizes.max(initial=0))


def scales(answers: Iterable[tuple[str, np.ndarray[Any, Any]]]) -> dict[str, float]:
    """The largest value of each output, over all its (name, values)."""
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
    """One Difference per output, the worst of all its (name, found, expected)."""
    pairs = list(pairs)
    scale = scales((name, expected) for name, _, expected in pairs)
    worst: dict[str, float] = {}
    for name, found, expected in pairs:
        worst[name] = float(np.max([worst.get(name, 0.0), gap(found, expected, scale[name])]))
    return [
        Difference(comparison, name, rows, difference, note, allowed) for name, difference in worst.items()
    ]


def failed_run(rows: int, error: Exception, where: str = "") -> Difference:
    """A run that raised; with a frozen axis ONNX Runtime raises various types."""
    why = " ".join(str(error).split())[:200]
    return Difference("run", "any", rows, np.inf, f"{where}: {why}" if where else why)


@torch.no_grad()
def answers(module: nn.Module, inputs: dict[str, Tensor]) -> Arrays:
    """Runs a module; its outputs by name."""
    return {name: tensor.numpy() for name, tensor in module(**inputs).items()}
