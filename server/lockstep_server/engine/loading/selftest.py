"""The self-test of a one-shot model: batched, padded answers must equal unbatched ones, row by row.

random requests → one run each, unpadded → one run together, padded by the engine → compare the answers

A model that fails is served unbatched, with a notice. `measure_costs` measures the runs for the cost model.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ServingError
from ...messages import Infer
from ...model import datatypes
from ...model.cost_model import CostModel
from ...model.spec import RequestSize, batchable, measure_request
from ..oneshot.request import QueuedRequest, RequestPart
from ..runtime import padding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, ModelTensor
    from ..runtime.device_scheduler import DeviceAccount, DeviceScheduler
    from ..runtime.session import OnnxSession

    Array = np.ndarray[Any, Any]

_BATCHES: tuple[tuple[tuple[int, int], ...], ...] = (
    ((1, 7), (1, 7)),
    ((1, 3), (1, 11), (1, 5)),
    ((1, 1), (2, 17), (1, 6), (3, 2), (1, 29)),
    tuple((1, 1 + (5 * i) % 23) for i in range(8)),
)
"""Batches of (rows, length): equal and ragged lengths, length 1, several rows."""

_CELLS = ((1, 4), (1, 32), (1, 96), (4, 16), (16, 8), (16, 32))
"""The (rows, length) cells to measure, each reduced to the model's limits."""

_TYPICAL_LENGTH = 32
"""Elements of a row: most sentences are shorter."""

_CELL_RUNS, _CELL_BUDGET_S = 5, 0.15
_DYNAMIC_AXIS_SIZE = 3
"""The size of a dynamic axis that the manifest does not name."""


@dataclass(frozen=True)
class SelfTestResult:
    """The result of the self-test of a one-shot model."""

    batched: bool  # batched and unbatched answers are equal within the tolerance
    deterministic: bool = False  # they are bit-identical
    max_difference: float = 0.0  # relative to max(1, |value|)
    reason: str = ""  # why not batched; empty if batched


def check(session: OnnxSession, spec: ModelSpec, seed: int = 0) -> SelfTestResult:
    """Run the self-test. Never raises because of the model."""
    if not batchable(spec):
        return SelfTestResult(batched=False, reason=_why_not_batchable(spec))
    try:
        return _compare_all(session, spec, np.random.default_rng(seed))
    except Exception as error:  # the graph may fail on random input
        return SelfTestResult(batched=False, reason=f"the self-test could not run: {first_line(error)}")


def measure_costs(
    session: OnnxSession, spec: ModelSpec, device_scheduler: DeviceScheduler, account: DeviceAccount
) -> CostModel:
    """Measure about six cells, each while no other model runs, and fit the cost model.

    A model that fails on random input gets the default costs, which real runs correct.
    """
    rng = np.random.default_rng(1)
    try:
        cells = [
            _measure_cell(session, spec, rows, length, rng, device_scheduler, account)
            for rows, length in _cells(spec)
        ]
    except Exception:
        return CostModel()
    return CostModel.fit(cells)


def warm_up(session: OnnxSession, spec: ModelSpec) -> None:
    """Run every measured size once, so that the first request of a size does not pay for the first run.

    Never raises because of the model.
    """
    rng = np.random.default_rng(1)
    with suppress(Exception):  # the graph may fail on random input
        for rows, length in _cells(spec):
            part = _draw_part(spec, rows, length, rng)
            session.run(padding.stack(spec, [part], rows, part.lengths))


def typical_run_s(spec: ModelSpec, costs: CostModel) -> float:
    """Estimated seconds of a run with one row of typical length."""
    try:
        size = _draw_part(spec, 1, _TYPICAL_LENGTH, np.random.default_rng(1)).size
    except Exception:  # no random input can be drawn
        size = _TYPICAL_LENGTH
    return costs.estimate(1, size)


# --- comparing --------------------------------------------------------------------------------------


def _compare_all(session: OnnxSession, spec: ModelSpec, rng: np.random.Generator) -> SelfTestResult:
    max_difference, identical = 0.0, True
    for batch in _BATCHES:
        parts = [_draw_part(spec, rows, length, rng) for rows, length in batch]
        unbatched = [_run(session, spec, [part])[0] for part in parts]
        batched = _run(session, spec, parts)
        for expected, answer, part in zip(unbatched, batched, parts, strict=True):
            for name in expected:
                apart, equal = difference(expected[name], answer[name])
                max_difference, identical = max(max_difference, apart), identical and equal
                if apart > tolerance(spec, expected[name]):
                    reason = _why_different(name, apart, part, parts)
                    return SelfTestResult(batched=False, max_difference=max_difference, reason=reason)
    return SelfTestResult(batched=True, deterministic=identical, max_difference=max_difference)


def _run(session: OnnxSession, spec: ModelSpec, parts: Sequence[RequestPart]) -> list[Arrays]:
    """The answer of each part, from one run of all."""
    rows = sum(part.rows for part in parts)
    lengths = tuple(max(column) for column in zip(*(part.lengths for part in parts), strict=True))
    outputs = session.run(padding.stack(spec, parts, rows, lengths))
    by_name = dict(zip(session.output_names, outputs, strict=True))
    return padding.cut(replace(spec, batched=True), by_name, parts, lengths)


def difference(one: Array, other: Array) -> tuple[float, bool]:
    """The largest difference relative to max(1, |value|), and whether the arrays are bit-identical."""
    if one.shape != other.shape:
        return math.inf, False
    if one.dtype.kind not in "fV":
        equal = bool(np.array_equal(one, other))
        return (0.0 if equal else math.inf), equal
    if np.array_equal(one, other, equal_nan=True):
        return 0.0, True
    a, b = one.astype(np.float64), other.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return math.inf, False
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(np.abs(a - b) / np.maximum(1.0, np.abs(a)), initial=0.0)), False


def tolerance(spec: ModelSpec, array: Array) -> float:
    if spec.manifest.tolerance is not None:
        return spec.manifest.tolerance
    return 1e-4 if array.dtype.itemsize >= 4 else 2e-2


def _why_different(name: str, difference: float, part: RequestPart, parts: Sequence[RequestPart]) -> str:
    equal_lengths = len({other.lengths for other in parts}) == 1
    cause = (
        "the rows of a batch are not independent"
        if equal_lengths
        else "padding, or the other rows of a batch, change the answer"
    )
    return (
        f"{cause}: output {name!r} of a request with {part.rows} rows differs by {difference:.2g}"
        f" in a batch of {sum(other.rows for other in parts)} rows"
    )


def _why_not_batchable(spec: ModelSpec) -> str:
    if not spec.manifest.from_file:
        axes = ", ".join(f"{t.name}: {_axis_0(t)}" for t in (*spec.inputs, *spec.outputs))
        return (
            f"axis 0 does not have the same symbol on every tensor ({axes});"
            " add a model.toml that sets batch_axis for each tensor"
        )
    without = [t.name for t in (*spec.inputs, *spec.outputs) if t.spec.batch_axis is None]
    return f"the manifest sets no batch_axis for {', '.join(without)}"


def _axis_0(tensor: ModelTensor) -> str:
    """What the graph calls the tensor's first axis."""
    if not tensor.shape:
        return "no axis"
    return "unnamed" if tensor.shape[0] is None else repr(tensor.shape[0])


def run_ids(spec: ModelSpec, session: OnnxSession, ids: Sequence[int]) -> Arrays:
    """The outputs of a graph for one row of token ids."""
    name = spec.text_input
    tensor = spec.input(name)
    assert tensor is not None
    inputs = {name: np.array([ids], datatypes.NUMPY[tensor.datatype])}
    size = measure_request(spec, inputs)
    request = _queued(spec, inputs, size)
    return _run(session, spec, [RequestPart(request, 0, inputs, 1, size.lengths, size.size, None)])[0]


# --- random inputs ----------------------------------------------------------------------------------


def _draw_part(spec: ModelSpec, rows: int, length: int, rng: np.random.Generator) -> RequestPart:
    named = enumerate(spec.manifest.lengths.values())
    lengths = tuple(min(length + k, section.max) for k, section in named)
    inputs = {
        tensor.name: draw(spec, tensor, rows, lengths, rng)
        for tensor in spec.inputs
        if not tensor.spec.generated and not tensor.optional
    }
    size = sum(lengths) or max((array.size // rows for array in inputs.values()), default=1)
    request = _queued(spec, inputs, RequestSize(rows, lengths, size))
    return RequestPart(request, 0, inputs, rows, lengths, max(size, 1), None)


def _queued(spec: ModelSpec, inputs: Arrays, size: RequestSize) -> QueuedRequest:
    return QueuedRequest(Infer(key=0, model=spec.name, version=spec.version, inputs=inputs, size=size))


def draw(
    spec: ModelSpec, tensor: ModelTensor, rows: int, lengths: tuple[int, ...], rng: np.random.Generator
) -> Array:
    """A random array of the tensor's shape: ids within its range, other numbers around 0."""
    named = dict(zip(spec.length_names, lengths, strict=True))
    shape = []
    for axis, size in enumerate(tensor.shape):
        if axis == tensor.spec.batch_axis:
            shape.append(rows)
        elif axis in tensor.spec.lengths:
            shape.append(named[tensor.spec.lengths[axis]])
        else:
            shape.append(size if isinstance(size, int) else _DYNAMIC_AXIS_SIZE)
    return _draw(tensor, shape, rng)


def _draw(tensor: ModelTensor, shape: list[int], rng: np.random.Generator) -> Array:
    dtype = datatypes.NUMPY[tensor.datatype]
    if tensor.datatype == "BYTES":
        return rng.choice(np.array(["a", "b c", "d"], dtype=object), shape)
    if tensor.datatype == "BOOL":
        return rng.random(shape) < 0.5
    if tensor.datatype in datatypes.INTEGERS:
        first, end = tensor.spec.range or (0, 2)
        return rng.integers(first, end, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


# --- costs ------------------------------------------------------------------------------------------


def _cells(spec: ModelSpec) -> list[tuple[int, int]]:
    limits, lengths = spec.manifest.batching, spec.manifest.lengths
    longest = min((length.max for length in lengths.values()), default=1)
    max_rows = limits.max_rows if spec.batched else 1
    cells = {(min(rows, max_rows), min(length, longest)) for rows, length in _CELLS}
    cells = {(r, length) for r, length in cells if r == 1 or r * length <= limits.max_padded_elements}
    return sorted(cells)


def _measure_cell(
    session: OnnxSession,
    spec: ModelSpec,
    rows: int,
    length: int,
    rng: np.random.Generator,
    device_scheduler: DeviceScheduler,
    account: DeviceAccount,
) -> tuple[int, int, float]:
    """Rows, elements per row, and the shortest duration of a few runs on the idle device."""
    part = _draw_part(spec, rows, length, rng)
    inputs = padding.stack(spec, [part], rows, part.lengths)
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
    return rows, part.size, shortest


def first_line(error: Exception) -> str:

    text = error.message if isinstance(error, ServingError) else str(error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
