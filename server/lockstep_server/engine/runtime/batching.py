"""Whether the requests of a model may share a run, and the check of every run that they may.

run → `check_rows` of each output → `RowMismatch` → `Batching.withdraw` → each request runs alone
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import messages
from ...errors import ErrorCode, ServingError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from ...model.spec import ModelSpec

    Array = np.ndarray[Any, Any]


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

    def withdraw(self, mismatch: RowMismatch) -> None:
        """Run each request alone from now on."""
        if self.allowed:
            self.allowed, self.max_rows = False, 1
            self.report(mismatch.message)
