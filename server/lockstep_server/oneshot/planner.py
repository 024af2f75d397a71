"""What the next run holds. Pure: the waiting parts, the time and the costs in, a `Plan` out.

Parts that fit together are sorted by length and cut into the runs that cost least in all, single
runs among the choices: by its own costs a plan is never worse than no batching. Of those runs the
one that holds the most urgent part goes next, so that grouping by length passes nobody over.

Urgent is: waiting beyond `patience_s`; then priority; then the caller's fair turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..models.costs import CostModel
    from .request import Part

    Array = np.ndarray[Any, Any]

WINDOW = 128
"""Parts that are weighed against one another: the most urgent ones."""


@dataclass(frozen=True)
class Limits:
    """What bounds a run."""

    max_rows: int
    max_padded_elements: int
    max_run_s: float | None = None  # while others want the device
    patience_s: float = 0.25  # who waited longer goes first, whatever the priorities
    batching: bool = True
    fixed: tuple[int, tuple[int, ...]] | None = None  # rows and lengths of every run, where they are fixed


@dataclass(frozen=True)
class Plan:
    """One run, decided before it runs."""

    parts: tuple[Part, ...]  # who takes part, in the order of the rows; empty: there is nothing to run
    expired: tuple[Part, ...]  # whose deadline passed while they waited
    dropped: tuple[Part, ...]  # whose caller has left, or whose request has failed already
    rows: int  # of the run
    lengths: tuple[int, ...]  # of the run: the longest of each named length
    size: int  # elements a row, padded
    seconds: float  # what the run should take in the session

    @property
    def leaving(self) -> tuple[Part, ...]:
        """Everybody who leaves the queue."""
        return self.parts + self.expired + self.dropped


def plan(waiting: Sequence[Part], now: float, costs: CostModel, limits: Limits) -> Plan:
    """Decide on the next run; the order of `waiting` does not matter."""
    dropped = tuple(part for part in waiting if part.request.cancelled or part.request.done)
    live = [part for part in waiting if not (part.request.cancelled or part.request.done)]
    expired = tuple(part for part in live if part.deadline is not None and part.deadline <= now)
    live = [part for part in live if part.deadline is None or part.deadline > now]
    if not live:
        return Plan((), expired, dropped, 0, (), 0, 0.0)
    chosen = live if len(live) == 1 else _choose(live, now, costs, limits)
    rows = sum(part.rows for part in chosen)
    lengths = tuple(max(column) for column in zip(*(part.lengths for part in chosen), strict=True))
    if limits.fixed and len(lengths) == len(limits.fixed[1]):
        rows, lengths = max(limits.fixed[0], rows), limits.fixed[1]
    size = sum(lengths) or max(part.size for part in chosen)
    return Plan(tuple(chosen), expired, dropped, rows, lengths, size, costs.estimate(rows, size))


def _choose(live: list[Part], now: float, costs: CostModel, limits: Limits) -> list[Part]:
    def urgency(part: Part) -> tuple[bool, float, float, float]:
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
    together = sorted((first, *fellows), key=lambda part: part.size)
    start, end = _cheapest_run_with(together.index(first), together, costs, limits)
    return together[start:end]


def _cheapest_run_with(
    position: int, together: Sequence[Part], costs: CostModel, limits: Limits
) -> tuple[int, int]:
    """The run [start, end) with `together[position]` in the cheapest division of all of them.

    Runs of neighbours in length are enough to look at: a longer part in a run with shorter ones
    changes nothing for the parts longer still. best[j] is the least that the first j parts can cost.
    """
    ends = np.cumsum([part.rows for part in together])
    prices = _prices(ends, _padded_sizes(together), costs, limits)
    count = len(together)
    best, starts = np.zeros(count + 1), np.zeros(count, np.intp)
    for last in range(count):
        totals = best[: last + 1] + prices[: last + 1, last]
        starts[last] = totals.argmin()
        best[last + 1] = totals[starts[last]]
    end = count
    while starts[end - 1] > position:
        end = int(starts[end - 1])
    return int(starts[end - 1]), end


def _padded_sizes(together: Sequence[Part]) -> Array:
    """sizes[i, j]: elements a row in a run of the parts i..j, each named length at its longest."""
    if len(together[0].lengths) <= 1:
        return np.array([[part.size for part in together]], float)
    upper = np.triu(np.ones((len(together), len(together))))
    columns = zip(*(part.lengths for part in together), strict=True)
    longest: Array = sum(np.maximum.accumulate(np.array(column) * upper, axis=1) for column in columns)  # type: ignore[assignment]
    return longest


def _prices(ends: Array, sizes: Array, costs: CostModel, limits: Limits) -> Array:
    """prices[i, j]: what a run of the parts i..j costs; infinite where it may not be, alone always may."""
    begins = np.concatenate(([0], ends[:-1]))
    rows = np.maximum(ends[None, :] - begins[:, None], 1)
    prices = costs.estimates(rows, sizes)
    too_much = (rows > limits.max_rows) | (rows * sizes > limits.max_padded_elements)
    if limits.max_run_s is not None:
        too_much |= prices > limits.max_run_s
    np.fill_diagonal(too_much, False)
    return np.where(too_much, np.inf, prices)
