"""Whether the requests of a model may share a run, and the checks that they may.

every run → `check_rows` of each output → `RowMismatch` → `Batching.withdraw` → each request runs alone
an answer from a shared run, and the answer to the same request alone → `compare` → `Comparison`
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ... import messages
from ...errors import ErrorCode, ServingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec

    Array = np.ndarray[Any, Any]


_ROUNDING = 8.0
"""A difference may be so many times that among copies of one request, and still be rounding."""


class RowMismatch(ServingError):
    """A run returned more or fewer rows than it was given: whose they are cannot be known."""


def check_rows(name: str, output: Array, axis: int, rows: int) -> None:
    """
    Raises:
        RowMismatch: the output does not have `rows` rows on its batch axis.
    """
    if axis < output.ndim and output.shape[axis] == rows:
        return
    shape = list(output.shape)
    raise RowMismatch(
        ErrorCode.FAILED,
        f"output {name!r} has shape {shape} for {rows} rows; axis {axis} must have one element per row",
    )


class Comparison(NamedTuple):
    """How an answer differs from the expected one."""

    output: str  # the one that differs most, in terms of its tolerance
    apart: float  # its largest difference, relative to max(1, |value|)
    within: bool  # every output is within its tolerance
    identical: bool  # every output is bit-identical

    def amount(self) -> str:
        """The difference in words, after "differs"."""
        return "in shape, or in which values are finite" if self.apart == math.inf else f"by {self.apart:.2g}"


def compare(spec: ModelSpec, expected: Arrays, answer: Arrays) -> Comparison:
    """Compare two answers to the same request, output by output."""
    found = Comparison("", 0.0, within=True, identical=True)
    most = 0.0  # times the tolerance
    for name, array in expected.items():
        apart, identical = difference(array, answer[name])
        allowed = tolerance(spec, array)
        times = apart / allowed if allowed else math.inf if apart else 0.0
        worse, most = times > most, max(most, times)
        found = Comparison(
            name if worse else found.output,
            apart if worse else found.apart,
            within=found.within and apart <= allowed,
            identical=found.identical and identical,
        )
    return found


def difference(one: Array, other: Array) -> tuple[float, bool]:
    """The largest difference relative to max(1, |value|), and whether the arrays are bit-identical."""
    if one.shape != other.shape:
        return math.inf, False
    if one.dtype.kind not in "fV":
        equal = bool(np.array_equal(one, other))
        return (0.0 if equal else math.inf), equal
    if np.array_equal(one, other, equal_nan=True):
        return 0.0, True
    a, b = one.astype(np.float64), other.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return math.inf, False
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(np.abs(a - b) / np.maximum(1.0, np.abs(a)), initial=0.0)), False


def tolerance(spec: ModelSpec, array: Array) -> float:
    """The largest `difference` that counts as rounding."""
    if spec.manifest.tolerance is not None:
        return spec.manifest.tolerance
    return 1e-4 if array.dtype.itemsize >= 4 else 2e-2


def is_rounding(found: Comparison, expected: Arrays, copies: Callable[[], list[Arrays]]) -> bool:
    """Whether an answer differs no more than those of a run of nothing but copies of its request do.

    Where a model's intermediate values are large, so are the rounding errors that depend on a run's size.
    A model that mixes rows gives a copy among copies the right answer.

    Args:
        copies: runs the request as often as fits the run that is in doubt; returns the answers.
    """
    if not math.isfinite(found.apart):
        return False
    apart = [difference(expected[found.output], answer[found.output])[0] for answer in copies()]
    largest = max(apart, default=0.0)
    return math.isfinite(largest) and found.apart <= _ROUNDING * largest


@dataclass
class Batching:
    """Batching of one model. Once withdrawn, it is off until the model is loaded again.

    Args:
        max_rows: the most rows of a run.
        report: is called with the reason when batching is withdrawn.
    """

    max_rows: int
    report: Callable[[str], None] = lambda _: None
    allowed: bool = True

    @classmethod
    def of(
        cls, spec: ModelSpec, report: Callable[[messages.EngineUpdate], None], *, allowed: bool
    ) -> Batching:
        """The batching of a model. Its withdrawal is reported to the front end."""

        def withdrawn(reason: str) -> None:
            report(messages.BatchingOff(spec.name, spec.version, reason))

        return cls(spec.manifest.batching.max_rows if allowed else 1, withdrawn, allowed)

    def withdraw(self, reason: str) -> None:
        """Run each request alone from now on."""
        if self.allowed:
            self.allowed, self.max_rows = False, 1
            self.report(reason)
