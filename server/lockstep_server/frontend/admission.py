"""Admission control: refuse a request at once if it cannot be answered in time, with a retry delay.

accepted requests not yet ended -> their device seconds by the model's costs -> the estimated wait,
corrected by how long earlier requests really waited -> accept or refuse.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..durations import LONGEST_S
from ..errors import overloaded
from ..fair_queueing import QueuedWork
from ..model.cost_model import CostModel, representative

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ..messages import Event
    from ..model.spec import ModelSpec, RequestSize
    from .shared_usage import SharedUsage

log = logging.getLogger(__name__)

_PACE_S = 0.5
"""The pace follows what was seen in about this time."""

_MIN_PACE, _MAX_PACE = 0.25, 16.0
_STALL = 4.0
"""A period counts as at most so many times slower than before: the machine may have stalled."""

_BURST_S, _NOTHING_SERVED_S = 0.001, 0.25
_SHARED_S = 0.2
"""The pace is learned from periods of at least this length if there are several front ends."""

_DEADLINE_SKEW_S = 0.02
"""A client's deadline may pass this much before the server's: its clock started before the call arrived."""

_MUCH, _WRONG_FOR_S = 4, 60
"""Waits that differ from their estimates by this factor, for this long, are logged."""

_MOST_UNKNOWN = 16
"""Requests of a size that was never measured that may wait at once, if their estimates are long."""

_MOST_SIZES = 4096

_MIN_ESTIMATE_S = 0.005
"""Estimates below this are too small to learn the pace from."""


@dataclass(slots=True, eq=False)
class CallShare:
    """What one call of several requests has in the queue."""

    requests: int = 0
    waiting_s: float = 0.0  # device seconds
    is_message: bool = True  # its requests came in one message, which a quota lets pass as a whole
    passed_quota: bool = False


class _Drain:
    """How fast queued work is served: real seconds per estimated one, while enough of it is queued.

    What leaves at the same time ran together. Work that is cancelled, or whose deadline passes, drains
    nothing, so that the pace rises where nothing is answered in time.

    `least_s`: periods are no shorter, as what is served elsewhere is known later.
    """

    def __init__(self, least_s: float = 0.0) -> None:
        self._least_s = least_s
        self.pace = 1.0
        self._since: float | None = None  # begin of the current period; None: little is queued
        self._burst = 0.0  # when work was last served in it
        self._drained_s = 0.0  # estimated seconds served in it

    def watch(self, queued_s: float, now: float) -> None:
        """Begin or end a period by the device seconds that are queued, and learn if nothing is served."""
        if queued_s < _MIN_ESTIMATE_S:
            if self._since is not None and self._is_over(self._since):
                self._learn(self._burst)
            self._since = None
        elif self._since is None:
            self._since, self._burst, self._drained_s = now, now, 0.0
        elif now - self._burst > _NOTHING_SERVED_S:
            self._learn(now)

    def served(self, seconds: float, now: float) -> None:
        if self._since is None:
            return
        if now - self._burst > _BURST_S and self._is_over(self._since):
            self._learn(self._burst)
        self._drained_s += seconds
        self._burst = now

    def _is_over(self, since: float) -> bool:
        """Whether a period of enough work ends with the last burst."""
        return self._drained_s >= _MIN_ESTIMATE_S and self._burst - since >= self._least_s

    def _learn(self, until: float) -> None:
        assert self._since is not None
        took = until - self._since
        seen = took / max(self._drained_s, _MIN_ESTIMATE_S)
        seen = min(max(seen, _MIN_PACE), _MAX_PACE, _STALL * self.pace)
        self.pace += (1 - math.exp(-took / _PACE_S)) * (seen - self.pace)
        self._since, self._burst, self._drained_s = until, max(until, self._burst), 0.0


class AdmissionController:
    """Accepted and unfinished work of one model version, in device seconds.

    If there are several front ends, `shared_usage` sends them the changes, and adds theirs.
    """

    def __init__(
        self, spec: ModelSpec, costs: Mapping[str, Any], shared_usage: SharedUsage | None = None
    ) -> None:
        self.shared_usage = shared_usage
        self._costs = CostModel.from_dict(costs) if costs else CostModel()
        self._spec = spec
        self._instances = spec.instances
        self.max_queue_s = spec.manifest.batching.max_queue_ms / 1000
        self._prices: dict[int, float] = {}
        self._demands: dict[RequestSize, tuple[float, float]] = {}  # of sizes that came lately
        self.waiting_s = 0.0
        self.requests = 0
        self._queued = QueuedWork()
        self._drain = _Drain(_SHARED_S if shared_usage is not None else 0.0)
        self._wrong_since: float | None = None  # when waits began to differ much from the estimates

    def batching_off(self) -> None:
        """Each request runs alone from now on, and is priced so."""
        self._spec = replace(self._spec, batched=False)
        self._forget_prices()

    def price(self, rows: int, size: int) -> float:
        """Device seconds for `rows` rows of `size` elements each, as a share of a full batch."""
        typical = representative(size)
        price = self._prices.get(typical)
        if price is None:
            per_row = self._costs.per_row(typical, self._spec.most_rows(typical))
            if not self._costs.is_known(typical):  # a guess, which must not refuse the first who ask
                per_row = min(per_row, self.max_queue_s * self._instances / _MOST_UNKNOWN)
            price = self._prices[typical] = per_row / typical
        return price * rows * size

    def demand(self, size: RequestSize) -> tuple[float, float]:
        """A one-shot request's price, and the estimated seconds of its own run."""
        demand = self._demands.get(size)
        if demand is None:
            if len(self._demands) >= _MOST_SIZES:
                self._demands.clear()
            demand = self.price(size.rows, size.size), self.run_s(size.rows, size.size)
            self._demands[size] = demand
        return demand

    def fits(self, rows: int, length: int) -> bool:
        """Whether the planner may run a batch of `rows` x `length`."""
        return rows == 1 or rows <= self._spec.most_rows(length)

    def run_s(self, rows: int, length: int) -> float:
        """Estimated seconds in the session for a run of `rows` x `length`."""
        return self._costs.estimate(rows, length)

    @property
    def pace(self) -> float:
        """Real seconds per estimated one: other models on the device, padding, noise."""
        return self._drain.pace

    def estimated_wait_s(self) -> float:
        return self.waiting_s / self._instances * self._drain.pace

    def refuse_if_full(
        self, now: float, deadline: float | None, call: CallShare | None = None, caller: str = ""
    ) -> None:
        """Refuse a request of any size that `enter` would refuse, before its tensors or text are looked at.

        Raises:
            ServingError: as `enter`.
        """
        if call is None and deadline is None and self.estimated_wait_s() <= self.max_queue_s:
            return  # it would not wait longer than for all that is queued
        of_call = (call.requests, call.waiting_s) if call is not None else (0, 0.0)
        if self.requests > of_call[0]:
            wait_s = max(self._queued.ahead(caller, 0.0, apart=of_call[1]), 0.0) / self._instances * self.pace
            self._check(wait_s, 0.0, now, deadline)

    def enter(
        self,
        seconds: float,
        now: float,
        deadline: float | None,
        call: CallShare | None = None,
        run_s: float = 0.0,
        caller: str = "",
    ) -> float:
        """Accept `seconds` of work. Returns the device seconds that are served before it, for `compare_wait`.

        Args:
            caller: who sent it. The engine serves callers in turn, so of another caller's work only as much
                is served before as this caller has waiting.
            call: the call that the work is a part of, if it has other parts. They are not counted: a call
                is never refused for its own size.
            run_s: estimated seconds of a run of this work alone.

        Raises:
            ServingError: OVERLOADED, the estimated wait exceeds the model's limit or the deadline.
        """
        queued, instances = self._queued, self._instances
        if self.requests:
            before_s = others_s = queued.ahead(caller, seconds)
            if call is not None:
                others_s = queued.ahead(caller, seconds, apart=call.waiting_s)
            if call is None or self.requests > call.requests:
                wait_s, pace = max(others_s, 0.0) / instances, self._drain.pace
                self._check(wait_s * pace, max(seconds * pace, run_s), now, deadline)
            before_s /= instances
        else:
            before_s = 0.0
        queued.add(caller, seconds)
        self.waiting_s += seconds
        self.requests += 1
        self._drain.watch(self.waiting_s / instances, now)
        if call is not None:
            call.requests, call.waiting_s = call.requests + 1, call.waiting_s + seconds
        if self.shared_usage is not None and seconds:
            self._share(self.shared_usage, caller, 1, seconds)
        return before_s

    def _share(self, shared_usage: SharedUsage, caller: str, requests: int, seconds: float) -> None:
        share = abs(seconds) / self._instances / max(self.max_queue_s, _MIN_ESTIMATE_S)
        shared_usage.change(self._spec.name, self._spec.version, caller, requests, seconds, share)

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

    def leave(
        self, seconds: float, now: float, call: CallShare | None = None, *, served: bool, caller: str = ""
    ) -> None:
        """Remove the work of a request that has ended; `served`: it ran."""
        self._queued.remove(caller, seconds)
        self.requests -= 1
        self.waiting_s = self.waiting_s - seconds if self.requests else 0.0
        if served:
            self._drain.served(seconds / self._instances, now)
        self._drain.watch(self.waiting_s / self._instances, now)
        if call is not None:
            call.requests, call.waiting_s = call.requests - 1, call.waiting_s - seconds
        if self.shared_usage is not None and seconds:
            self._share(self.shared_usage, caller, -1, -seconds)
            if served:
                self.shared_usage.serve(self._spec.name, self._spec.version, seconds)

    def add_queued(self, caller: str, requests: int, seconds: float, now: float) -> None:
        """Count requests that another front end has accepted, or that have ended there."""
        self._queued.change(caller, requests, seconds)
        self.requests += requests
        self.waiting_s = self.waiting_s + seconds if self.requests else 0.0
        self._drain.watch(self.waiting_s / self._instances, now)

    def add_served(self, seconds: float, now: float) -> None:
        """Count device seconds of another front end's requests that ran."""
        self._drain.served(seconds / self._instances, now)

    def compare_wait(self, before_s: float, event: Event, now: float) -> None:
        """Log if waits have differed from their estimates by more than `_MUCH` for a minute.

        Args:
            before_s: device seconds that were queued before the request.
        """
        if before_s <= _MIN_ESTIMATE_S or event.error is not None:
            return
        waited_s, estimated_s = event.timings.queue_s, before_s * self.pace
        if 1 / _MUCH <= waited_s / estimated_s <= _MUCH:
            self._wrong_since = None
        elif self._wrong_since is None:
            self._wrong_since = now
        elif now - self._wrong_since >= _WRONG_FOR_S:
            self._wrong_since = now
            log.warning(
                "model %s/%d: for %d s, waits have differed from their estimates by more than a factor of %d;"
                " the last request waited %.0f ms, the estimate was %.0f ms",
                self._spec.name, self._spec.version, _WRONG_FOR_S, _MUCH, waited_s * 1000, estimated_s * 1000,
            )  # fmt: skip

    def set_costs(self, costs: Mapping[str, Any]) -> None:
        """Take over what the engine has learned."""
        self._costs = CostModel.from_dict(costs)
        self._forget_prices()

    def _forget_prices(self) -> None:
        self._prices.clear()
        self._demands.clear()


def is_past(remaining_s: float | None) -> bool:
    """Whether a cancelled call ended by its deadline: here, or at the client, whose clock started earlier."""
    return remaining_s is not None and remaining_s < _DEADLINE_SKEW_S


def deadline_of(now: float, remaining_s: float | None, queue_timeout_s: float) -> float | None:
    """The latest time at which a request may start: the earlier of the call's deadline and its queue timeout.

    Of `time.monotonic()`, in seconds. `queue_timeout_s` 0 means no queue timeout. A limit of more than a year
    counts as a year.
    """
    limit = queue_timeout_s or None
    if remaining_s is not None and (limit is None or remaining_s < limit):
        limit = remaining_s
    if limit is None:
        return None
    return now + (limit if limit < LONGEST_S else LONGEST_S)
