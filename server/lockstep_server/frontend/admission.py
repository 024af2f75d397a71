"""Admission control: refuse a request at once if it cannot be answered in time, with a retry delay.

accepted requests not yet ended -> their device seconds by the model's costs -> the estimated wait,
corrected by how long earlier requests really waited -> accept or refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import overloaded
from ..model.cost_model import CostModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ..messages import Event
    from ..model.spec import ModelSpec

_LEARNING_RATE = 0.05
_DEADLINE_SKEW_S = 0.02
"""A client's deadline may pass this much before the server's: its clock started before the call arrived."""

_MIN_ESTIMATE_S = 0.005
"""Estimates below this are too small to learn the pace from."""


class AdmissionController:
    """Accepted and unfinished work of one model version, in device seconds."""

    def __init__(self, spec: ModelSpec, costs: Mapping[str, Any]) -> None:
        self._costs = CostModel.from_dict(costs) if costs else CostModel()
        self._max_rows = spec.manifest.batching.max_rows if spec.batched else 1
        self._max_elements = spec.manifest.batching.max_padded_elements
        self._instances = spec.instances
        self.max_queue_s = spec.manifest.batching.max_queue_ms / 1000
        self._prices: dict[int, float] = {}
        self.waiting_s = 0.0
        self.requests = 0
        self.pace = 1.0  # real seconds per estimated one: other models on the device, padding, noise

    def batching_off(self) -> None:
        """Each request runs alone from now on, and is priced so."""
        self._max_rows = 1
        self._prices.clear()

    def price(self, rows: int, size: int) -> float:
        """Device seconds for `rows` rows of `size` elements each, as a share of a full batch."""
        bucket = 1 << max(size - 1, 0).bit_length()
        price = self._prices.get(bucket)
        if price is None:
            rows_fit = min(self._max_rows, max(self._max_elements // bucket, 1))
            price = self._prices[bucket] = self._costs.per_row(bucket, rows_fit) / bucket
        return price * rows * size

    def fits(self, rows: int, length: int) -> bool:
        """Whether the planner may run a batch of `rows` x `length`."""
        return rows == 1 or (rows <= self._max_rows and rows * length <= self._max_elements)

    def run_s(self, rows: int, length: int) -> float:
        """Estimated seconds in the session for a run of `rows` x `length`."""
        return self._costs.estimate(rows, length)

    def estimated_wait_s(self) -> float:
        return self.waiting_s / self._instances * self.pace

    def enter(self, seconds: float, now: float, deadline: float | None) -> float:
        """Accept `seconds` of work. Returns the device seconds queued before it, for `learn_wait`.

        Raises:
            ServingError: OVERLOADED, the estimated wait exceeds the model's limit or the deadline.
        """
        before_s = self.waiting_s / self._instances
        if self.requests:
            self._check(before_s * self.pace, seconds * self.pace, now, deadline)
        self.waiting_s += seconds
        self.requests += 1
        return before_s

    def _check(self, wait: float, run: float, now: float, deadline: float | None) -> None:
        if wait > self.max_queue_s:
            retry_after_s = max(wait - self.max_queue_s, 0.05)
            raise overloaded(
                f"the estimated wait of {wait * 1000:.0f} ms exceeds the limit of"
                f" {self.max_queue_s * 1000:.0f} ms (max_queue_ms); retry after {retry_after_s:.2f} s",
                retry_after_s,
            )
        if deadline is not None and now + wait + run > deadline:
            retry_after_s = max(wait, 0.05)
            raise overloaded(
                f"the estimated wait of {wait * 1000:.0f} ms and a run of {run * 1000:.0f} ms end after the"
                f" request's deadline; allow more time, or retry after {retry_after_s:.2f} s",
                retry_after_s,
            )

    def leave(self, seconds: float) -> None:
        self.requests -= 1
        self.waiting_s = self.waiting_s - seconds if self.requests else 0.0

    def learn_wait(self, before_s: float, event: Event) -> None:
        """Adjust the pace by how long a request waited, compared with the device seconds queued before it."""
        if before_s > _MIN_ESTIMATE_S and event.error is None:
            seen = min(max(event.timings.queue_s / before_s, 0.25), 16.0)
            self.pace += _LEARNING_RATE * (seen - self.pace)

    def set_costs(self, costs: Mapping[str, Any]) -> None:
        """Take over what the engine has learned."""
        self._costs = CostModel.from_dict(costs)
        self._prices.clear()


def is_past(remaining_s: float | None) -> bool:
    """Whether a cancelled call ended by its deadline: here, or at the client, whose clock started earlier."""
    return remaining_s is not None and remaining_s < _DEADLINE_SKEW_S


def deadline_of(now: float, remaining_s: float | None, queue_timeout_s: float) -> float | None:
    """The latest time at which a request may start: the earlier of the call's deadline and its queue timeout.

    Of `time.monotonic()`, in seconds. `queue_timeout_s` 0 means no queue timeout.
    """
    ends = [now + limit for limit in (remaining_s, queue_timeout_s or None) if limit is not None]
    return min(ends) if ends else None
