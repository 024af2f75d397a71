"""Proof in production: recomputes a share of the answers from shared runs, each alone, and compares them.

a shared run → `Verifier.offer` → now and then, or while the model has nothing to do: each `Recheck` alone
→ `compare` → an answer that depends on the other rows withdraws batching

Answers are sent before they are verified, so that nobody waits for it. Only what is beyond the model's
tolerance, and beyond the rounding errors of a run of equal size, counts as a difference.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .batching import RowMismatch, compare, is_rounding

if TYPE_CHECKING:
    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from .batching import Batching

_EVERY_S = 60.0
"""A model that is never idle verifies a run at least this often."""

_MOST_S = 0.1
"""Seconds that a verification may take while requests wait. At least one answer is verified."""

_STEP_ROWS = 4

IDLE_S = 0.05
"""Seconds without work after which a model verifies its latest shared run."""


@dataclass(frozen=True)
class Recheck:
    """One answer of a shared run, and how to compute it again."""

    answer: Arrays
    alone: Callable[[], list[Arrays]]  # runs the request by itself, and returns its answer
    copies: Callable[[], list[Arrays]]  # runs as many copies of it as fit the shared run
    shapes: str  # of its inputs, for the log


Rechecks = Callable[[], list[Recheck]]
"""Those of one shared run, made when they are needed."""


class Verifier:
    """Verifies the answers of one model.

    Args:
        share: the most time to spend while the model has work, relative to the time of its shared runs.
            0: verify nothing; 1: verify every answer of every shared run.
        batching: nothing is verified once it is withdrawn.
        withdraw: is called with the reason if an answer differs.
        report: is called with the number of answers after each verification.
        lease: a lease of the device, taken for each answer, so that other models wait for one run at most.
    """

    def __init__(
        self,
        share: float,
        batching: Batching,
        withdraw: Callable[[str], None],
        report: Callable[[int], None],
        lease: Callable[[], AbstractContextManager[object]] = nullcontext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share, self._batching, self._withdraw = share, batching, withdraw
        self._report, self._lease, self._clock = report, lease, clock
        self._random = random.Random()
        self._credit_s = 0.0
        self._last = -math.inf
        self._pending: tuple[ModelSpec, Rechecks] | None = None
        self.collected: list[Recheck] = []  # for `verify_collected`

    @property
    def enabled(self) -> bool:
        return self._share > 0 and self._batching.allowed

    @property
    def pending(self) -> bool:
        """Whether `verify_pending` has something to do."""
        return self._pending is not None

    def is_due(self, run_s: float) -> bool:
        """Whether to verify a shared run that takes about `run_s` seconds now, although requests wait."""
        if not self.enabled:
            return False
        self._credit_s = min(self._credit_s + self._share * run_s, _MOST_S)
        return self._share >= 1 or self._credit_s > 0 or self._clock() - self._last >= _EVERY_S

    def most_rows(self, rows: int) -> int:
        """How many of the rows of one step to verify: the states of each are copied before the step."""
        return rows if self._share >= 1 else min(rows, _STEP_ROWS)

    def verify_collected(self, spec: ModelSpec) -> None:
        """Verify the answers in `collected`, and forget them."""
        if self.collected:
            collected, self.collected = self.collected, []
            self.verify(spec, lambda: collected)

    def keep(self, spec: ModelSpec, rechecks: Rechecks) -> None:
        """Keep the answers of the latest shared run, to verify them when the model has nothing to do."""
        if self.enabled:
            self._pending = spec, rechecks

    def verify(self, spec: ModelSpec, rechecks: Rechecks) -> None:
        """Verify answers of one shared run in random order, as many as there is time for."""
        allowed_s = math.inf if self._share >= 1 else _MOST_S
        self._verify(spec, rechecks, lambda spent_s: spent_s < allowed_s)
        self._pending = None

    def verify_pending(self, is_idle: Callable[[], bool]) -> None:
        """Verify what was kept, until there is work again."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._verify(*pending, lambda _: is_idle())

    def _verify(self, spec: ModelSpec, rechecks: Rechecks, may_go_on: Callable[[float], bool]) -> None:
        begun, verified, answers = self._clock(), 0, rechecks()
        self._random.shuffle(answers)
        for recheck in answers:
            if not self.enabled or (verified and not may_go_on(self._clock() - begun)):
                break
            verified += 1
            with self._lease():
                reason = _difference(spec, recheck, len(answers))
            if reason:
                self._withdraw(reason)
        self._last = self._clock()
        self._credit_s -= self._last - begun
        if verified:
            self._report(verified)


def _difference(spec: ModelSpec, recheck: Recheck, answers: int) -> str:
    """How an answer differs from that to the same request alone; empty if it does not."""
    run = f"from a run that gave {answers} answers" if answers > 1 else "from a padded run"
    try:
        (expected,) = recheck.alone()
    except RowMismatch as mismatch:
        return mismatch.message
    except Exception:  # the session is closed, or the graph refuses what it took in a batch
        return ""
    found = compare(spec, expected, recheck.answer)
    if found.within or is_rounding(found, expected, recheck.copies):
        return ""
    return (
        f"an answer {run} differs from that to the same request alone: output {found.output!r}"
        f" {found.amount()}; the request was {recheck.shapes}"
    )


def shapes_of(inputs: Arrays) -> str:
    """The shapes of a request's tensors, for the log."""
    return ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(inputs.items()))
