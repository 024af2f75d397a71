"""The door: what cannot be answered in time is refused at once, with a reason and a time to come back.

The wait is estimated from what this side has accepted and not seen end, priced by the model's
costs, and corrected by how long accepted requests really waited.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..errors import overloaded
from ..model.cost_model import CostModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ..messages import Event, Run
    from ..model.spec import ModelSpec

_LEARNING_RATE = 0.05
_RUNS_A_PRICE = 64
"""Prices are made again from what was learned after this many runs."""

_ON_ITS_WAY_S = 0.02
"""How much sooner a caller may see its deadline pass."""

_LEAST_TOLD_S = 0.005
"""Estimates below this say nothing of the pace."""

_TOKEN_CHARACTERS = 4
"""Characters a token, for pricing a text before it is tokenized."""

_MOST_TOKEN_CHARACTERS = 8
"""A text that needs more to fit its model is taken for one that its engine will refuse."""


class AdmissionController:
    """What one model version has accepted and not ended, in seconds of its device."""

    def __init__(self, spec: ModelSpec, costs: Mapping[str, Any]) -> None:
        self._costs = CostModel.from_dict(costs) if costs else CostModel()
        self._max_rows = spec.manifest.batching.max_rows if spec.batched else 1
        self._max_elements = spec.manifest.batching.max_padded_elements
        self._instances = spec.instances
        lengths = spec.manifest.lengths.values()
        self._longest = sum(length.max for length in lengths) or sys.maxsize
        self.max_queue_s = spec.manifest.batching.max_queue_ms / 1000
        self._prices: dict[int, float] = {}
        self._runs = 0
        self.waiting_s = 0.0
        self.requests = 0
        self.pace = 1.0  # real seconds for one estimated: other models on the device, padding, noise

    def price(self, rows: int, size: int) -> float:
        """Seconds of the device that `rows` of `size` elements should take, among enough others."""
        bucket = 1 << max(size - 1, 0).bit_length()
        price = self._prices.get(bucket)
        if price is None:
            rows_fit = min(self._max_rows, max(self._max_elements // bucket, 1))
            price = self._prices[bucket] = self._costs.per_row(bucket, rows_fit) / bucket
        return price * rows * size

    def price_text(self, text: str) -> float:
        """The same of a text whose tokens are not known yet: a guess, and no more than the model reads.

        What is surely longer is no run: it is refused once it is tokenized, and must not have the others
        in its company refused.
        """
        if len(text) > self._longest * _MOST_TOKEN_CHARACTERS:
            return 0.0
        return self.price(1, min(len(text) // _TOKEN_CHARACTERS + 1, self._longest))

    def fits(self, rows: int, length: int) -> bool:
        """A run of this shape may be planned."""
        return rows == 1 or (rows <= self._max_rows and rows * length <= self._max_elements)

    def run_s(self, rows: int, length: int) -> float:
        """Seconds that a run of `rows` x `length` takes in the session."""
        return self._costs.estimate(rows, length)

    def estimated_wait_s(self) -> float:
        return self.waiting_s / self._instances * self.pace

    def enter(self, seconds: float, now: float, deadline: float | None) -> float:
        """Accept work of `seconds`; the seconds of the device that lie before it, for `learn_wait`.

        Raises:
            ServingError: OVERLOADED, the wait would be too long for the model's limit or the deadline.
        """
        before_s = self.waiting_s / self._instances
        if self.requests:
            self._check(before_s * self.pace, seconds * self.pace, now, deadline)
        self.waiting_s += seconds
        self.requests += 1
        return before_s

    def _check(self, wait: float, run: float, now: float, deadline: float | None) -> None:
        if wait > self.max_queue_s:
            over = wait - self.max_queue_s
            raise overloaded(
                f"the wait would be {wait * 1000:.0f} ms, the limit is {self.max_queue_s * 1000:.0f} ms;"
                f" come back in {max(over, 0.05):.2f} s",
                max(over, 0.05),
            )
        if deadline is not None and now + wait + run > deadline:
            raise overloaded(
                f"the wait would be {wait * 1000:.0f} ms, longer than the request's own deadline allows",
                max(wait, 0.05),
            )

    def leave(self, seconds: float) -> None:
        self.requests -= 1
        self.waiting_s = self.waiting_s - seconds if self.requests else 0.0

    def learn_wait(self, before_s: float, event: Event) -> None:
        """Hold what lay before a request when it was accepted against how long it really waited."""
        if before_s > _LEAST_TOLD_S and event.error is None:
            seen = min(max(event.timings.queue_s / before_s, 0.25), 16.0)
            self.pace += _LEARNING_RATE * (seen - self.pace)

    def learn_run(self, run: Run) -> None:
        if run.compute_s:
            self._costs.learn(run.rows, run.length, run.compute_s)
            self._runs += 1
            if self._runs % _RUNS_A_PRICE == 0:
                self._prices.clear()


def is_past(remaining_s: float | None) -> bool:
    """A call that has been cancelled was cancelled by its deadline: here, or at its caller, whose clock
    began sooner."""
    return remaining_s is not None and remaining_s < _ON_ITS_WAY_S


def deadline_of(now: float, remaining_s: float | None, queue_timeout_s: float) -> float | None:
    """When a request may last start: the call's deadline, or the wait that the caller allows."""
    ends = [now + limit for limit in (remaining_s, queue_timeout_s or None) if limit is not None]
    return min(ends) if ends else None
