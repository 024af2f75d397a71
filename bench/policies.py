"""Which parts to run together: cost and tail of several policies, simulated in a closed loop of 64 callers.

measured runs of a model → `CostModel` → simulated callers with real lengths → rate, median, p99 by policy

Only the durations of runs are measured, so the figures do not depend on what else the machine does meanwhile.
What is possible is the least time for all requests, if all are known in advance.
"""

from __future__ import annotations

import heapq
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from lockstep_server.engine.oneshot import planner
from lockstep_server.engine.oneshot.request import QueuedRequest, RequestPart
from lockstep_server.messages import Infer
from lockstep_server.model.cost_model import CostModel
from lockstep_server.model.spec import RequestSize

from . import bare, lengths
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Choose = Callable[[list[RequestPart], float, CostModel], list[RequestPart]]

CALLERS, REQUESTS, WARM_UP = 64, 6000, 500
_LIMITS = planner.RunLimits(max_rows=64, max_padded_elements=16384)
_RUN_S, _ROW_S = 4e-4, 2e-5
"""What a run costs outside the session, and each of its rows."""

_RETURN_S = 8e-4
"""From an answer to the caller's next request."""


def policies(models: Path, rounds: int) -> Iterator[Result]:
    for model in ("sentiment-bilstm", "sentiment-transformer", "bench-encoder"):
        costs = _measure(str(models / model / "1" / "model.onnx"), rounds)
        drawn = lengths.sst2(REQUESTS)
        best = REQUESTS / _least_s(costs, drawn)
        for name, choose in _POLICIES.items():
            rate, median_ms, p99_ms = simulate(costs, drawn, choose)
            yield Result(
                f"{model}, {name}: rate, against all known in advance", rate, "sequences/s", best, None
            )
            target = 2.0 if name == _CHOSEN else None
            yield Result(
                f"{model}, {name}: p99, against the median", p99_ms, "ms", median_ms, target, at_most=True
            )


def simulate(costs: CostModel, drawn: Sequence[int], choose: Choose) -> tuple[float, float, float]:
    """Callers that send a request of the next length as soon as they have an answer. Requests per second;
    median and p99 in milliseconds."""
    arrivals = [(1e-5 * caller, caller) for caller in range(CALLERS)]
    now, sent, waiting, latencies = 0.0, 0, list[RequestPart](), list[float]()
    while len(latencies) < len(drawn):
        while arrivals and arrivals[0][0] <= now and sent < len(drawn):
            accepted, _ = heapq.heappop(arrivals)
            waiting.append(_part(sent, drawn[sent], accepted))
            sent += 1
        if not waiting:
            now = arrivals[0][0]
            continue
        run = choose(waiting, now, costs)
        now += _time_s(costs, len(run), max(part.size for part in run))
        gone = set(run)
        waiting = [part for part in waiting if part not in gone]
        for index, part in enumerate(run):
            latencies.append(now - part.accepted)
            heapq.heappush(arrivals, (now + _RETURN_S * (1 + index / CALLERS), len(latencies)))
    steady = latencies[WARM_UP:]
    return len(drawn) / now, statistics.median(steady) * 1e3, float(np.quantile(steady, 0.99)) * 1e3


def _part(number: int, length: int, accepted: float) -> RequestPart:
    size = RequestSize(1, (length,), length)
    infer = Infer(key=number, model="", version=1, inputs={}, size=size, accepted=accepted)
    return RequestPart(QueuedRequest(infer), 0, {}, 1, (length,), length, None, start_tag=float(number))


def _time_s(costs: CostModel, rows: int, length: int) -> float:
    return costs.estimate(rows, length) + _RUN_S + _ROW_S * rows


def _thrift(age_weight: float) -> Choose:
    """The server's planner, with another weight for age."""

    def choose(waiting: list[RequestPart], now: float, costs: CostModel) -> list[RequestPart]:
        kept, planner.AGE_WEIGHT = planner.AGE_WEIGHT, age_weight
        try:
            return list(planner.plan(waiting, now, costs, _LIMITS).parts)
        finally:
            planner.AGE_WEIGHT = kept

    return choose


def _oldest(share: float) -> Choose:
    """The server's planner, for the oldest share of what waits."""

    def choose(waiting: list[RequestPart], now: float, costs: CostModel) -> list[RequestPart]:
        most = max(round(share * len(waiting)), 1)
        oldest = sorted(waiting, key=lambda part: part.start_tag)[:most]
        return list(planner.plan(oldest, now, costs, _LIMITS).parts)

    return choose


def _arrival_order(rows: int) -> Choose:
    return lambda waiting, _, __: sorted(waiting, key=lambda part: part.start_tag)[:rows]


def _least_s(costs: CostModel, drawn: Sequence[int]) -> float:
    """The least time for all requests: the best partition of the sorted lengths."""
    ordered = sorted(drawn)
    least = [0.0]
    for end in range(1, len(ordered) + 1):
        longest = ordered[end - 1]
        most = min(end, _LIMITS.max_rows, max(_LIMITS.max_padded_elements // longest, 1))
        least.append(min(least[end - rows] + _time_s(costs, rows, longest) for rows in range(1, most + 1)))
    return least[-1]


def _measure(file: str, rounds: int) -> CostModel:
    model = bare.session(file)
    outputs = [model.get_outputs()[0].name]
    cells = []
    for rows in (1, 4, 16, 64):
        for length in (4, 16, 48):
            feed, taken = bare.feeds(model, [length] * rows, seed=rows), []
            for _ in range(3 * rounds):
                begun = time.perf_counter()
                model.run(outputs, feed)
                taken.append(time.perf_counter() - begun)
            cells.append((rows, length, min(taken)))
    return CostModel.fit(cells)


_CHOSEN = "thrift with age"
_POLICIES: dict[str, Choose] = {
    "arrival order, one by one": _arrival_order(1),
    "arrival order, 8 rows": _arrival_order(8),
    "thrift": _thrift(0.0),
    _CHOSEN: _thrift(planner.AGE_WEIGHT),
    "thrift with much age": _thrift(0.8),
    "thrift with age, of the older half": _oldest(0.5),
}
