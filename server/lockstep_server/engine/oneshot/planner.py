"""Chooses the parts of the next run.

queued parts + time + `CostModel` + `RunLimits` → `plan` → `RunPlan`. Pure.

The run always includes the most urgent part, so that none starves. It adds parts of similar length whenever
that is faster than running them one by one; running the urgent part by itself is one of the choices, so the
estimated time is never worse than without batching.

The order of urgency is that of `fair_queueing.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...fair_queueing import by_urgency

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...model.cost_model import CostModel
    from .request import RequestPart

    Array = np.ndarray[Any, Any]

_ROWS, _LENGTHS, _SIZE = attrgetter("rows"), attrgetter("lengths"), attrgetter("size")
_ACCEPTED = attrgetter("accepted")

_WORTH = 0.02
"""A run that takes twice as long as another must save this share of the device's time: its callers wait."""

_CAUTION = 1.1
"""Runs that must end by a deadline are expected to take so many times their estimate."""

AGE_WEIGHT = 0.2
"""What has just arrived counts for so much less than the oldest when the gain of a run is computed. Otherwise
parts of unusual lengths are passed over until they are the most urgent ones (`make bench ONLY=policies`)."""

_FEW = 12
"""So many parts are planned faster without NumPy."""

WINDOW = 128
"""The number of parts considered for a run: the most urgent ones."""


@dataclass(frozen=True)
class RunLimits:
    """The limits of a run. A part that exceeds them runs by itself."""

    max_rows: int
    max_padded_elements: int
    max_run_s: float | None = None  # None: no other model uses the device
    patience_s: float = 0.25  # parts that have waited longer precede all priorities
    batching: bool = True
    fixed_shape: tuple[int, tuple[int, ...]] | None = None  # rows and lengths of every run

    def bounded(self, max_run_s: float) -> RunLimits:
        """The same limits while other models use the device."""
        known = self._bounded.get(max_run_s)
        if known is None:
            known = self._bounded[max_run_s] = replace(self, max_run_s=max_run_s)
        return known

    @cached_property
    def _bounded(self) -> dict[float, RunLimits]:
        return {}


class RunPlan(NamedTuple):
    """One run, and the parts to remove from the queue without a run."""

    parts: tuple[RequestPart, ...]  # in the order of the rows; empty: nothing to run
    expired: tuple[RequestPart, ...]  # their deadline passed in the queue, or would pass during a run
    dropped: tuple[RequestPart, ...]  # their request was cancelled or has failed already
    rows: int
    lengths: tuple[int, ...]  # the longest of each named length
    size: int  # padded elements per row

    @property
    def removed(self) -> tuple[RequestPart, ...]:
        """All parts to remove from the queue."""
        return self.parts + self.expired + self.dropped


def plan(waiting: Sequence[RequestPart], now: float, costs: CostModel, limits: RunLimits) -> RunPlan:
    """Plan the next run. The order of `waiting` does not matter."""
    if len(waiting) == 1 and limits.fixed_shape is None:
        return _plan_one(waiting[0], now)
    live, expired, dropped = _partition(waiting, now)
    live, hopeless = _in_time(live, now, costs)
    expired += hopeless
    if not live:
        return RunPlan((), expired, dropped, 0, (), 0)
    chosen = live if len(live) == 1 else _choose(live, now, costs, limits)
    rows = sum(map(_ROWS, chosen))
    lengths = tuple(map(max, zip(*map(_LENGTHS, chosen), strict=True)))
    if limits.fixed_shape and len(lengths) == len(limits.fixed_shape[1]):
        rows, lengths = max(limits.fixed_shape[0], rows), limits.fixed_shape[1]
    size = sum(lengths) or max(map(_SIZE, chosen))
    return RunPlan(tuple(chosen), expired, dropped, rows, lengths, size)


def _plan_one(part: RequestPart, now: float) -> RunPlan:
    """As `plan`, for a part that is the only one."""
    if part.request.cancelled or part.request.done:
        return RunPlan((), (), (part,), 0, (), 0)
    if part.deadline is not None and part.deadline <= now:
        return RunPlan((), (part,), (), 0, (), 0)
    return RunPlan((part,), (), (), part.rows, part.lengths, part.size)


def _partition(
    waiting: Sequence[RequestPart], now: float
) -> tuple[list[RequestPart], tuple[RequestPart, ...], tuple[RequestPart, ...]]:
    """The parts that may run, those whose deadline has passed, and those to drop."""
    live = [
        part
        for part in waiting
        if not (part.request.cancelled or part.request.done)
        and (part.deadline is None or part.deadline > now)
    ]
    if len(live) == len(waiting):
        return live, (), ()
    expired, dropped = [], []
    for part in waiting:
        if part.request.cancelled or part.request.done:
            dropped.append(part)
        elif part.deadline is not None and part.deadline <= now:
            expired.append(part)
    return live, tuple(expired), tuple(dropped)


def _in_time(
    live: list[RequestPart], now: float, costs: CostModel
) -> tuple[list[RequestPart], tuple[RequestPart, ...]]:
    """The parts that can be answered before their calls end, and those that cannot, even alone.

    If none can, the part that has the most time left is tried: the costs may be wrong, and a run corrects
    them.
    """
    hopeless = [
        part
        for part in live
        if part.due is not None and now + _run_s(costs.estimate(part.rows, part.size), costs) > part.due
    ]
    if not hopeless:
        return live, ()
    if len(hopeless) == len(live):
        hopeless.remove(max(hopeless, key=lambda part: part.due or 0.0))
    gone = set(hopeless)
    return [part for part in live if part not in gone], tuple(hopeless)


def _run_s(seconds: Any, costs: CostModel) -> Any:
    """How long a run may take, all in all, that is estimated to take so long in the session."""
    return _CAUTION * seconds + costs.overhead_s


def _choose(live: list[RequestPart], now: float, costs: CostModel, limits: RunLimits) -> list[RequestPart]:
    urgency = by_urgency(now, limits.patience_s, live)
    urgent = min(live, key=urgency)
    others = [part for part in live if part.group == urgent.group and part is not urgent]
    if not limits.batching or not others or urgent.rows == 0:
        return [urgent]
    if len(others) >= WINDOW:
        others = sorted(others, key=urgency)[: WINDOW - 1]
    candidates = sorted((urgent, *others), key=_SIZE)
    start, end = _fastest_range(candidates, candidates.index(urgent), now, costs, limits)
    return candidates[start:end]


def _fastest_range(
    candidates: Sequence[RequestPart], urgent: int, now: float, costs: CostModel, limits: RunLimits
) -> tuple[int, int]:
    """The range [start, end) of `candidates`, sorted by size, that gains most from one common run.

    Of all ranges that include `urgent`, fit the limits and end before any of their calls does, it has the
    smallest ratio of the run's time to the time of its parts run one by one (younger ones count less), unless
    a run of half the time is nearly as good. The ratio of `urgent` by itself is 1, which is always allowed.
    """
    if len(candidates) <= _FEW:
        best = best_of_few(*few_ranges(candidates, urgent, now, costs, limits))
    else:
        best = best_of_many(*many_ranges(candidates, urgent, now, costs, limits))
    i, j = divmod(best, len(candidates) - urgent)
    return urgent - i, urgent + j + 1


def best_of_few(ratios: list[float], seconds: list[float]) -> int:
    """The index of the range to run; the first range is the urgent part by itself."""
    ratios[0] = 1.0
    smallest = min(ratios)
    best = ratios.index(smallest)
    limit = smallest * (1 + _WORTH)
    shortest = min((at for at, ratio in enumerate(ratios) if ratio <= limit), key=seconds.__getitem__)
    return shortest if seconds[shortest] <= seconds[best] / 2 else best


def best_of_many(ratios: Array, seconds: Array) -> int:
    """As `best_of_few`."""
    ratios[0] = 1.0
    best = int(ratios.argmin())
    near = np.flatnonzero(ratios <= ratios[best] * (1 + _WORTH))
    shortest = int(near[seconds[near].argmin()])
    return shortest if seconds[shortest] <= seconds[best] / 2 else best


def few_ranges(
    candidates: Sequence[RequestPart], urgent: int, now: float, costs: CostModel, limits: RunLimits
) -> tuple[list[float], list[float]]:
    """As `many_ranges`, one by one: NumPy takes ten times as long for a range of a few parts."""
    overhead_s, ratios, seconds = costs.overhead_s, list[float](), list[float]()
    claims = _few_claims(candidates, now)
    alone_s = [
        (costs.estimate(part.rows, part.size) + overhead_s) * claim
        for part, claim in zip(candidates, claims, strict=True)
    ]
    of_parts = [
        (part.rows, part.lengths or (part.size,), math.inf if part.due is None else part.due, one_s)
        for part, one_s in zip(candidates, alone_s, strict=True)
    ]
    left: tuple[int, tuple[int, ...], float, float] = (0, (0,) * len(of_parts[0][1]), math.inf, 0.0)
    for first in range(urgent, -1, -1):
        left = joined = _joined(left, of_parts[first])
        for last in range(urgent, len(candidates)):
            if last > urgent:
                joined = _joined(joined, of_parts[last])
            rows, lengths, due, parts_s = joined
            size = sum(lengths)
            run_s = costs.estimate(rows, size) + overhead_s
            fits = (
                rows <= limits.max_rows
                and rows * size <= limits.max_padded_elements
                and (limits.max_run_s is None or run_s <= limits.max_run_s)
                and _run_s(run_s, costs) <= due - now
            )
            ratios.append(run_s / parts_s if fits else math.inf)
            seconds.append(run_s)
    return ratios, seconds


def _few_claims(parts: Sequence[RequestPart], now: float) -> list[float]:
    """As `_claims`."""
    ages = [max(now - part.accepted, 0.0) for part in parts]
    oldest = max(*ages, 1e-9)
    return [1 - AGE_WEIGHT * (1 - age / oldest) for age in ages]


def _joined(
    one: tuple[int, tuple[int, ...], float, float], other: tuple[int, tuple[int, ...], float, float]
) -> tuple[int, tuple[int, ...], float, float]:
    """The rows, the longest of each length, the first time that a call ends, and the seconds one by one."""
    return (
        one[0] + other[0],
        tuple(map(max, one[1], other[1])),
        one[2] if one[2] < other[2] else other[2],
        one[3] + other[3],
    )


def many_ranges(
    candidates: Sequence[RequestPart], urgent: int, now: float, costs: CostModel, limits: RunLimits
) -> tuple[Array, Array]:
    """The ratio of each range that includes `urgent`, infinite if it may not run, and the seconds of its run.

    Cell [i, j] of the arrays within is the range from `urgent - i` to `urgent + j`, both included; those
    returned have the cells row by row.
    """
    parts, count = (*candidates[urgent::-1], *candidates[urgent + 1 :]), urgent + 1
    rows_of = np.fromiter(map(_ROWS, parts), np.intp, len(parts))
    sizes = np.fromiter(map(_SIZE, parts), np.intp, len(parts))
    at_size = costs.at(sizes)
    unbatched_s = costs.estimates_at(rows_of, at_size)
    unbatched_s *= _claims(parts, now)
    rows = _range_sums(rows_of, count)
    if len(parts[0].lengths) > 1:
        sizes = _range_sizes(parts, count)
        at_size = costs.at(sizes)
    else:  # that of the last part, as they are in order of size
        ends = np.arange(count - 1, len(parts))
        ends[0] = 0
        sizes, at_size = sizes.take(ends)[None], at_size.take(ends)
    batched_s = costs.estimates_at(rows, at_size)
    ratio = batched_s / _range_sums(unbatched_s, count)
    most_rows = rows[-1, -1]
    if most_rows > limits.max_rows:
        ratio[rows > limits.max_rows] = np.inf
    if most_rows * sizes[-1, -1] > limits.max_padded_elements:
        ratio[rows * sizes > limits.max_padded_elements] = np.inf
    if limits.max_run_s is not None:
        ratio[batched_s > limits.max_run_s] = np.inf
    due = [part.due for part in parts]
    if due.count(None) < len(due):
        ratio[_run_s(batched_s, costs) > _range_due(due, count) - now] = np.inf
    return ratio.ravel(), batched_s.ravel()


def _claims(parts: Sequence[RequestPart], now: float) -> Array:
    """How much each part counts: the oldest 1, others less by their age."""
    claims: Array = np.maximum(now - np.fromiter(map(_ACCEPTED, parts), float, len(parts)), 0.0)
    claims *= AGE_WEIGHT / max(claims.max(), 1e-9)
    claims += 1 - AGE_WEIGHT
    return claims


def _range_sums(values: Array, count: int) -> Array:
    """[i, j] -> the sum over the range. `values` starts with the urgent part and goes down in size for
    `count` parts, and then up."""
    upwards = values[count - 1 :].cumsum()
    upwards -= values[count - 1]
    sums: Array = values[:count].cumsum()[:, None] + upwards
    return sums


def _range_due(due: Sequence[float | None], count: int) -> Array:
    """[i, j] -> when the first call of the range ends."""
    ends = [math.inf if one is None else one for one in due]
    left = np.minimum.accumulate(np.array(ends[:count]))
    right = np.minimum.accumulate(np.array([ends[0], *ends[count:]]))
    return np.minimum(left[:, None], right)


def _range_sizes(parts: Sequence[RequestPart], count: int) -> Array:
    """[i, j] -> padded elements per row: the maximum of each named length over the range, summed."""
    total: Array = np.zeros((count, len(parts) + 1 - count), np.intp)
    for column in zip(*map(_LENGTHS, parts), strict=True):
        left = np.maximum.accumulate(np.array(column[:count]))
        right = np.maximum.accumulate(np.array([column[0], *column[count:]]))
        total += np.maximum(left[:, None], right)
    return total
