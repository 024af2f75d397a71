"""Measures the runs of a one-shot model when it is loaded, for its cost model.

(rows, length) cells → random requests → the fastest of a few runs on the idle device → `CostModel.fit`
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from ...model.cost_model import CostModel
from ..runtime import padding
from .selftest import Request, draw_request, run_alone, settled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...model.spec import ModelSpec
    from ..runtime.device_scheduler import DeviceAccount, DeviceScheduler
    from ..runtime.session import OnnxSession
    from .drawing import Drawing

_CELLS = ((1, 4), (1, 32), (1, 96), (4, 16), (16, 8), (16, 32))
"""The (rows, length) cells to measure, each reduced to the model's limits."""

_LONG = (400, 1600, 6400, 25_600, 102_400)
"""Lengths of one row to measure after those, until a run takes longer than `_LONG_RUN_S`."""

_TYPICAL_LENGTH = 32
"""Elements of a row: most sentences are shorter."""

_CELL_RUNS, _CELL_BUDGET_S, _LONG_RUN_S = 5, 0.15, 0.03


def measure_costs(
    session: OnnxSession, spec: ModelSpec, device_scheduler: DeviceScheduler, account: DeviceAccount
) -> CostModel:
    """Measure about ten cells, each while no other model runs, and fit the cost model.

    A model whose sizes cannot vary gets a cost that depends on its rows only. A model that fails on random
    input gets the default costs, which real runs correct.
    """
    cells: list[tuple[int, int, float]] = []
    try:
        for request in _requests(session, spec):
            cells.append(_measure(session, spec, request, device_scheduler, account))
            if cells[-1][1] >= _LONG[0] and cells[-1][2] > _LONG_RUN_S:
                break
    except Exception:  # the graph may fail on random input
        return CostModel()
    return CostModel.fit(cells)


def warm_up(session: OnnxSession, spec: ModelSpec) -> None:
    """Run every size that `measure_costs` does once, so that no caller pays for the first run of a size.

    Never raises because of the model.
    """
    with suppress(Exception):  # the graph may fail on random input
        for request in _requests(session, spec):
            begun = time.perf_counter()
            run_alone(session, spec, request)
            if time.perf_counter() - begun > _LONG_RUN_S and max(request.lengths, default=0) >= _LONG[0]:
                break


def typical_run_s(spec: ModelSpec, costs: CostModel) -> float:
    """Estimated seconds of a run with one row of typical length."""
    lengths = [min(_TYPICAL_LENGTH, section.max) for section in spec.manifest.lengths.values()]
    return costs.estimate(1, sum(lengths) or _TYPICAL_LENGTH)


def _requests(session: OnnxSession, spec: ModelSpec) -> Iterator[Request]:
    """A random request for each cell, the long ones last."""
    drawing = settled(session, spec, np.random.default_rng(1))
    by_size = drawing.has_free_axes and not spec.manifest.lengths

    def run() -> None:
        run_alone(session, spec, draw_request(drawing, 1, (7,)))

    measured = set()  # rows at a size that the graph does not let vary
    for rows, length in _cells(spec, drawing):
        if length >= _LONG[0] and not by_size and not drawing.fits(rows, drawing.lengths(length)):
            break  # longer ones neither
        if not by_size or drawing.grow(length, run):
            yield draw_request(drawing, rows, (length,))
        elif rows not in measured:
            measured.add(rows)
            yield draw_request(drawing, rows, (length,))


def _cells(spec: ModelSpec, drawing: Drawing) -> Iterator[tuple[int, int]]:
    longest = [section.max for section in spec.manifest.lengths.values()]
    bound = min(longest, default=_LONG[-1] if drawing.has_free_axes else 1)
    max_rows = spec.manifest.batching.max_rows if spec.batched else 1
    cells = {(min(rows, max_rows), min(length, bound)) for rows, length in _CELLS}
    yield from sorted((rows, n) for rows, n in cells if rows == 1 or rows <= spec.most_rows(n))
    long = [length for length in _LONG if length < bound]
    yield from ((1, length) for length in (*long, *([bound] if longest and bound > _CELLS[2][1] else [])))


def _measure(
    session: OnnxSession,
    spec: ModelSpec,
    request: Request,
    device_scheduler: DeviceScheduler,
    account: DeviceAccount,
) -> tuple[int, int, float]:
    """Rows, elements per row, and the shortest duration of a few runs on the idle device."""
    inputs = padding.stack(spec, [request], request.rows, request.lengths)
    size = sum(request.lengths) or max((array.size // request.rows for array in inputs.values()), default=1)
    shortest, begun = math.inf, time.monotonic()
    for run in range(_CELL_RUNS + 1):
        with device_scheduler.exclusive(account):
            started = time.perf_counter()
            session.run(inputs)
            took = time.perf_counter() - started
        if run:  # the first is a warm-up
            shortest = min(shortest, took)
        if run and time.monotonic() - begun > _CELL_BUDGET_S:
            break
    return request.rows, max(size, 1), shortest
