"""How many servers a load needs, from what runs of its model cost: `lockstep capacity`.

costs of a running server (`describe`) → `one_shot` or `streaming` → what one server carries → servers

The latency of a rate is what a lone request takes beside its run, the wait for the front end, the run that
is under way, and a run with all that arrived meanwhile. The figures are those of a plan: a load test
(`lockstep load search`) has the last word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lockstep_client.metrics_text import Scrape
    from lockstep_client.operations import ModelForm, RunCost

SHARE = 0.7
"""The share of what a server can do at most that a plan gives it."""

FRONT_END_S = 0.001
"""CPU time of a unary call in a front end, in seconds."""

HANDOVER_S = 0.0015
"""What a lone call takes beside front end and run: in the client, on the wire, between the processes."""

HOURS_OF_MONTH = 730

_VARIATION = 0.5
"""The square of the coefficient of variation of the time that a call takes in a front end: answers of a run
come together."""

_TAIL = 0.01
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


@dataclass(frozen=True)
class Memory:
    """Of one server, in bytes, as measured."""

    processes: float
    """Resident, of front ends and engine, with all models that it serves and the states of its streams."""
    state: float
    """Of one live stream of the model; 0: none was live."""
    streams: float
    """That were live."""

    def with_streams(self, streams: float) -> float:
        """With as many live streams."""
        return self.processes + max(streams - self.streams, 0.0) * self.state


def memory(scrape: Scrape, model: str) -> Memory:
    """The memory of the server whose metrics these are.

    Raises:
        ValueError: they are not those of a server.
    """
    processes = scrape.total("process_resident_memory_bytes")
    if not processes:
        raise ValueError("--metrics: the page has no process_resident_memory_bytes; give that of the server")
    live = sum(scrape.total("lockstep_sequences", model=model, state=state) for state in ("running", "idle"))
    states = scrape.total("lockstep_state_bytes", model=model)
    engine = scrape.total("lockstep_engine_process_resident_memory_bytes")
    return Memory(processes + engine, states / live if live else 0.0, live)


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
    if (alone := HANDOVER_S + FRONT_END_S + cost(1.0)) > bound_s:
        raise ValueError(f"a lone request may take {alone * 1e3:.3g} ms: choose a larger --p99")
    fastest = max((2**power for power in range(most.bit_length())), key=lambda rows: rows / cost(rows))
    limits = {"runs": SHARE * fastest / cost(fastest), "front end": SHARE * front_ends / FRONT_END_S}
    limit = min(limits, key=lambda name: limits[name])
    rate = limits[limit]
    if latency(cost, rate, most, front_ends) > bound_s:
        limit, low = "latency", 0.0
        for _ in range(_STEPS):
            middle = (low + rate) / 2
            if latency(cost, middle, most, front_ends) > bound_s:
                rate = middle
            else:
                low = middle
        rate = low or rate
    return Capacity(rate, _rows(cost, rate, most), latency(cost, rate, most, front_ends), limit)


def latency(cost: Callable[[float], float], rate: float, most: int, front_ends: int = 1) -> float:
    """The 99th percentile of the answers at a rate of requests to one server, in seconds."""
    return HANDOVER_S + _front_end_s(rate / front_ends) + _engine_s(cost, rate, most)


def _front_end_s(rate: float) -> float:
    """The 99th percentile of a call's time in a front end."""
    return FRONT_END_S + _wait_s(rate * FRONT_END_S, FRONT_END_S, (1 + _VARIATION) / 2)


def _engine_s(cost: Callable[[float], float], rate: float, most: int) -> float:
    """The 99th percentile of queue and run: what is left of the run under way, and the next, which takes the
    request with all that arrived during that one, in several runs if they are too many for one. If full runs
    are short of what arrives for a time, requests wait for more of them."""
    under_way = cost(_rows(cost, rate, most))
    arrived = _poisson_99(rate * under_way)
    runs, rest = divmod(arrived + 1, most)
    next_s = runs * cost(most) + (cost(rest) if rest else 0.0)
    queued_s = _wait_s(rate * cost(most) / most, cost(most), 1 / most / 2) + cost(1.0)
    return max(under_way + next_s if arrived else cost(1.0), queued_s)


def _wait_s(busy: float, each_s: float, variation: float) -> float:
    """The 99th percentile of the wait for a server that is busy for a share of the time. Waits are
    exponential, with the mean of Kingman's formula; `variation` is its mean of the squared coefficients of
    variation."""
    if busy <= _TAIL:
        return 0.0
    busy = min(busy, 0.999)
    return each_s * variation / (1 - busy) * math.log(busy / _TAIL)


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


def _poisson_99(mean: float) -> int:
    """The 99th percentile of a Poisson distribution."""
    if mean > 500:
        return math.ceil(mean + 2.33 * math.sqrt(mean))
    count, term = 0, math.exp(-mean)
    below = term
    while below < 1 - _TAIL:
        count += 1
        term *= mean / count
        below += term
    return count


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
