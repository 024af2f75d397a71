"""How many servers a load needs, from what runs of its model cost: `lockstep capacity`.

costs of a running server (`describe`) → `one_shot` or `streaming` → what one server carries → servers

A request waits for the run that is under way and then takes part in the next one, so the latency that a rate
brings follows from the rows that arrive during a run. The figures are those of a plan: a load test
(`lockstep load search`) has the last word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lockstep_client.operations import ModelForm, RunCost

SHARE = 0.7
"""The share of what a server can do at most that a plan gives it."""

FRONT_END_S = 0.001
"""CPU time of a unary call in a front end, in seconds."""

_STEPS = 40


@dataclass(frozen=True)
class Capacity:
    """What one server carries."""

    amount: float
    """Requests per second, or streams at a time."""
    rows: float
    """Of an average run, or step."""
    latency_s: float
    """The 99th percentile of the answer, or the time between two tokens of a stream."""
    limit: str
    """What limits it: "latency", "runs", "front end" or "slots"."""

    def servers(self, wanted: float, spare: int = 1) -> int:
        """Servers for a load, and spare ones, so that one may fail or restart."""
        return math.ceil(wanted / self.amount) + spare


def run_cost(costs: Sequence[RunCost], length: int) -> Callable[[float], float]:
    """The seconds of a run by its rows, for requests of one length. Between sizes of known costs it is
    interpolated; beyond the largest it goes on as between the last two.

    Raises:
        ValueError: no costs are known.
    """
    if not costs:
        raise ValueError("the server has no costs of this model; it may not be batched, or not have run yet")
    nearest = min({cost.length for cost in costs}, key=lambda known: (abs(known - length), known))
    scale = length / nearest if nearest and length else 1.0
    known = sorted({cost.rows: cost.seconds * scale for cost in costs if cost.length == nearest}.items())

    def seconds(rows: float) -> float:
        if len(known) == 1 or rows <= known[0][0]:
            return known[0][1] * max(1.0, rows / known[0][0])
        upper = next((place for place, (size, _) in enumerate(known) if size >= rows), len(known) - 1)
        (few, less), (many, more) = known[upper - 1], known[upper]
        return less + (more - less) * (rows - few) / (many - few)

    return seconds


def one_shot(form: ModelForm, length: int, bound_s: float, front_ends: int = 1) -> Capacity:
    """The highest rate of one-shot requests, of one row each, whose 99th percentile is at most `bound_s`.

    Raises:
        ValueError: no costs are known, or a lone request takes longer than `bound_s`.
    """
    cost, most = run_cost(form.costs, length), max(form.max_rows, 1)
    if (alone := _latency(cost, 1.0)) > bound_s:
        raise ValueError(f"a lone request may take {alone * 1e3:.3g} ms: choose a larger --p99")
    fastest = max((2**power for power in range(most.bit_length())), key=lambda rows: rows / cost(rows))
    limits = {"runs": SHARE * fastest / cost(fastest), "front end": SHARE * front_ends / FRONT_END_S}
    limit = min(limits, key=lambda name: limits[name])
    rate = limits[limit]
    if _latency(cost, _rows(cost, rate, most)) > bound_s:
        limit, low = "latency", 0.0
        for _ in range(_STEPS):
            middle = (low + rate) / 2
            if _latency(cost, _rows(cost, middle, most)) > bound_s:
                rate = middle
            else:
                low = middle
        rate = low or rate
    rows = _rows(cost, rate, most)
    return Capacity(rate, rows, _latency(cost, rows), limit)


def _rows(cost: Callable[[float], float], rate: float, most: int) -> float:
    """The rows of a run at a rate: as many as arrive while a run takes as long as that."""
    low, high = 1.0, float(most)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if rate * cost(middle) > middle:
            low = middle
        else:
            high = middle
    return high


def _latency(cost: Callable[[float], float], rows: float) -> float:
    """The 99th percentile: the run under way, one with as many rows as arrive in the worst of 100, and the
    front end for all of them."""
    crowded = rows + 2.33 * math.sqrt(rows)
    return cost(rows) + cost(crowded) + crowded * FRONT_END_S


def streaming(form: ModelForm, bound_s: float) -> Capacity:
    """The most streams whose steps take at most `bound_s`: the time between two tokens.

    Raises:
        ValueError: no costs are known, or a lone stream takes longer than `bound_s`.
    """
    cost = run_cost(form.costs, 0)
    if cost(1) > bound_s:
        raise ValueError(f"a step of a lone stream takes {cost(1) * 1e3:.3g} ms: choose a larger --p99")
    low, high = 1, max(form.max_sequences, 1)
    if cost(high) <= bound_s:
        return Capacity(high, high, cost(high), "slots")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= bound_s else (low, middle)
    return Capacity(low, low, cost(low), "latency")
