"""What the next run holds. Pure: the waiting parts, the time and the costs in, a `Plan` out.

The most urgent part always goes next, so that nobody is passed over. With it go those of its
neighbours in length that make the run cheapest against running its parts one by one; alone is among
the choices, so by its own costs a plan is never worse than no batching.

Urgent is: waiting beyond `patience_s`; then priority; then the caller's fair turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...model.cost_model import CostModel
    from .request import RequestPart

    Array = np.ndarray[Any, Any]

WINDOW = 128
"""Parts that are weighed against one another: the most urgent ones."""


@dataclass(frozen=True)
class RunLimits:
    """What bounds a run."""

    max_rows: int
    max_padded_elements: int
    max_run_s: float | None = None  # while others want the device
    patience_s: float = 0.25  # who waited longer goes first, whatever the priorities
    batching: bool = True
    fixed: tuple[int, tuple[int, ...]] | None = None  # rows and lengths of every run, where they are fixed


@dataclass(frozen=True)
class RunPlan:
    """One run, decided before it runs."""

    parts: tuple[RequestPart, ...]  # who takes part, in the order of the rows; empty: there is nothing to run
    expired: tuple[RequestPart, ...]  # whose deadline passed while they waited
    dropped: tuple[RequestPart, ...]  # whose caller has left, or whose request has failed already
    rows: int  # of the run
    lengths: tuple[int, ...]  # of the run: the longest of each named length
    size: int  # elements a row, padded
    seconds: float  # what the run should take in the session

    @property
    def leaving(self) -> tuple[RequestPart, ...]:
        """Everybody who leaves the queue."""
        return self.parts + self.expired + self.dropped


def plan(waiting: Sequence[RequestPart], now: float, costs: CostModel, limits: RunLimits) -> RunPlan:
    """Decide on the next run; the order of `waiting` does not matter."""
    live, expired, dropped = _sift(waiting, now)
    if not live:
        return RunPlan((), expired, dropped, 0, (), 0, 0.0)
    chosen = live if len(live) == 1 else _choose(live, now, costs, limits)
    rows = sum(part.rows for part in chosen)
    lengths = tuple(max(column) for column in zip(*(part.lengths for part in chosen), strict=True))
    if limits.fixed and len(lengths) == len(limits.fixed[1]):
        rows, lengths = max(limits.fixed[0], rows), limits.fixed[1]
    size = sum(lengths) or max(part.size for part in chosen)
    return RunPlan(tuple(chosen), expired, dropped, rows, lengths, size, costs.estimate(rows, size))


def _sift(
    waiting: Sequence[RequestPart], now: float
) -> tuple[list[RequestPart], tuple[RequestPart, ...], tuple[RequestPart, ...]]:
    """Who may run, whose deadline has passed, who is not wanted any more."""
    live, expired, dropped = [], [], []
    for part in waiting:
        if part.request.cancelled or part.request.done:
            dropped.append(part)
        elif part.deadline is not None and part.deadline <= now:
            expired.append(part)
        else:
            live.append(part)
    return live, tuple(expired), tuple(dropped)


def _choose(live: list[RequestPart], now: float, costs: CostModel, limits: RunLimits) -> list[RequestPart]:
    def urgency(part: RequestPart) -> tuple[bool, float, float, float]:
        waits = now - part.accepted > limits.patience_s
        return (
            not waits,
            0 if waits else -part.priority,
            part.accepted if waits else part.turn,
            part.accepted,
        )

    first = min(live, key=urgency)
    fellows = [part for part in live if part.group == first.group and part is not first]
    if not limits.batching or not fellows or first.rows == 0:
        return [first]
    if len(fellows) >= WINDOW:
        fellows = sorted(fellows, key=urgency)[: WINDOW - 1]
    together = sorted((first, *fellows), key=attrgetter("size"))
    start, end = _thriftiest_run(together, together.index(first), costs, limits)
    return together[start:end]


def _thriftiest_run(
    together: Sequence[RequestPart], first: int, costs: CostModel, limits: RunLimits
) -> tuple[int, int]:
    """[start, end) around `together[first]`: of all runs of neighbours in length that hold it, the one
    that costs least against its parts run one by one. Alone costs 1, and alone is always allowed.

    Cell [i, j] is the run from the i-th part at or before `first` to the j-th at or after it.
    """
    before, after = together[first::-1], together[first + 1 :]
    solo = costs.estimates(_column(together, "rows"), _column(together, "size"))
    rows = _grow(_column(before, "rows"), _column(after, "rows"))
    sizes = _longest(before, after)
    price = costs.estimates(rows, sizes)
    account = price / _grow(solo[first::-1], solo[first + 1 :])
    too_much = (rows > limits.max_rows) | (rows * sizes > limits.max_padded_elements)
    if limits.max_run_s is not None:
        too_much |= price > limits.max_run_s
    account[too_much] = np.inf
    account[0, 0] = 1.0
    i, j = divmod(int(account.argmin()), account.shape[1])
    return first - i, first + j + 1


def _column(parts: Sequence[RequestPart], name: str) -> Array:
    return np.fromiter(map(attrgetter(name), parts), float, len(parts))


def _grow(before: Array, after: Array) -> Array:
    """[i, j] -> the sum over the run, of values of `before` (nearest first, `first` included) and `after`."""
    return np.cumsum(before)[:, None] + np.concatenate(([0.0], np.cumsum(after)))


def _longest(before: Sequence[RequestPart], after: Sequence[RequestPart]) -> Array:
    """[i, j] -> elements a row in the run: each named length at its longest, summed."""
    parts, count = (*before, *after), len(before)
    columns = [*zip(*(part.lengths for part in parts), strict=True)] or [tuple(p.size for p in parts)]
    total: Array = np.zeros((count, len(after) + 1))
    for column in columns:
        left = np.maximum.accumulate(np.array(column[:count], float))
        right = np.maximum.accumulate(np.array([column[0], *column[count:]], float))
        total += np.maximum(left[:, None], right)
    return total
