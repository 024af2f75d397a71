"""Promise 1, checked when a model loads: batched and padded equals solo, row by row.

random requests -> each alone, unpadded -> all together through the engine's own padding -> compare.
A model that fails is served one request a run, and says so.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ServingError
from ...messages import Submit
from ...model import datatypes
from ...model.cost_model import CostModel
from ...model.sizes import RequestSize, measure_request
from ...model.spec import batchable
from ..oneshot.request import QueuedRequest, RequestPart
from ..runtime import padding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
"""Requests (rows, length) that share a run: even and ragged lengths, the shortest there is, several rows."""

_CELLS = ((1, 4), (1, 32), (1, 96), (4, 16), (16, 8), (16, 32))
"""(rows, length) that are measured; those beyond a model's own bounds are left out."""

_USUAL = 32
"""Elements of a row: what most sentences stay within."""

_CELL_RUNS, _CELL_BUDGET_S = 5, 0.15
_FREE_AXIS = 3
"""The size of an axis that the graph leaves open and the manifest does not name."""


@dataclass(frozen=True)
class SelfTestResult:
    """What the self-test found."""

    batched: bool
    deterministic: bool = False
    furthest: float = 0.0  # largest difference, relative to max(1, |value|)
    reason: str = ""  # why not batched; empty where there is nothing to tell

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(session: OnnxSession, spec: ModelSpec, seed: int = 0) -> SelfTestResult:
    """Run the self-test. Never raises for what the model does."""
    if not batchable(spec):
        return SelfTestResult(batched=False, reason=_why_not_batchable(spec))
    try:
        return _compare_all(session, spec, np.random.default_rng(seed))
    except Exception as error:  # whatever the graph may do with random input
        return SelfTestResult(batched=False, reason=f"the self-test could not run: {line(error)}")


def measure_costs(
    session: OnnxSession, spec: ModelSpec, device_scheduler: DeviceScheduler, account: DeviceAccount
) -> CostModel:
    """The model's costs from about six cells, each measured alone at the gate.

    A model that takes no random input gets the default costs, and learns from real runs.
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


def usual_run_s(spec: ModelSpec, costs: CostModel) -> float:
    """Seconds of a run of one row, as long as sentences are."""
    try:
        size = _draw_part(spec, 1, _USUAL, np.random.default_rng(1)).size
    except Exception:  # it takes no random input
        size = _USUAL
    return costs.estimate(1, size)


# --- comparing --------------------------------------------------------------------------------------


def _compare_all(session: OnnxSession, spec: ModelSpec, rng: np.random.Generator) -> SelfTestResult:
    furthest, same_bits = 0.0, True
    for batch in _BATCHES:
        parts = [_draw_part(spec, rows, length, rng) for rows, length in batch]
        solo = [_answers(session, spec, [part])[0] for part in parts]
        together = _answers(session, spec, parts)
        for alone, shared, part in zip(solo, together, parts, strict=True):
            for name in alone:
                apart, same = difference(alone[name], shared[name])
                furthest, same_bits = max(furthest, apart), same_bits and same
                if apart > tolerance(spec, alone[name]):
                    return SelfTestResult(
                        batched=False, furthest=furthest, reason=_told(name, apart, part, parts)
                    )
    return SelfTestResult(batched=True, deterministic=same_bits, furthest=furthest)


def _answers(session: OnnxSession, spec: ModelSpec, parts: Sequence[RequestPart]) -> list[Arrays]:
    rows = sum(part.rows for part in parts)
    lengths = tuple(max(column) for column in zip(*(part.lengths for part in parts), strict=True))
    outputs = session.run(padding.stack(spec, parts, rows, lengths))
    batched = dict(zip(session.output_names, outputs, strict=True))
    _check_rows(spec, batched, rows)
    return padding.cut(replace(spec, batched=True), batched, parts, lengths)


def _check_rows(spec: ModelSpec, outputs: Mapping[str, Array], rows: int) -> None:
    for tensor in spec.outputs:
        shape, axis = outputs[tensor.name].shape, tensor.spec.batch_axis or 0
        if axis >= len(shape) or shape[axis] != rows:
            raise ValueError(f"output {tensor.name!r} has shape {list(shape)} for {rows} rows")


def difference(one: Array, other: Array) -> tuple[float, bool]:
    """The largest difference relative to max(1, |value|), and whether the bits are the same."""
    if one.shape != other.shape:
        return math.inf, False
    if one.dtype.kind not in "fV":
        same = bool(np.array_equal(one, other))
        return (0.0 if same else math.inf), same
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


def _told(name: str, difference: float, part: RequestPart, parts: Sequence[RequestPart]) -> str:
    even = len({other.lengths for other in parts}) == 1
    cause = (
        "its rows are not independent"
        if even
        else "padding changes its answers (or its rows do one another's)"
    )
    return (
        f"{cause}: output {name!r} of a request of {part.rows} rows differs by {difference:.2g}"
        f" in a run of {sum(other.rows for other in parts)}; it is served one request a run"
    )


def _why_not_batchable(spec: ModelSpec) -> str:
    without = [t.name for t in (*spec.inputs, *spec.outputs) if t.spec.batch_axis is None]
    if not spec.manifest.from_file:
        return "axis 0 is not one symbol on every tensor; a model.toml that names the batch axes helps"
    return f"no batch_axis in the manifest for {', '.join(without)}; it is served one request a run"


@dataclass(frozen=True)
class NotBatchable:
    """A graph that takes ids, asked for one row of them."""

    spec: ModelSpec
    session: OnnxSession

    def answer(self, ids: Sequence[int]) -> Arrays:
        name = self.spec.text_input
        tensor = self.spec.input(name)
        assert tensor is not None
        inputs = {name: np.array([ids], datatypes.NUMPY[tensor.datatype])}
        found = measure_request(self.spec, inputs)
        submit = Submit(0, self.spec.name, self.spec.version, inputs)
        part = RequestPart(QueuedRequest(submit, found), 0, inputs, 1, found.lengths, found.size, None)
        return _answers(self.session, self.spec, [part])[0]


# --- drawing ----------------------------------------------------------------------------------------


def _draw_part(spec: ModelSpec, rows: int, length: int, rng: np.random.Generator) -> RequestPart:
    lengths = tuple(min(length + k, spec.max) for k, spec in enumerate(spec.manifest.lengths.values()))
    inputs = {
        tensor.name: draw(spec, tensor, rows, lengths, rng)
        for tensor in spec.inputs
        if not tensor.spec.generated and not tensor.optional
    }
    size = sum(lengths) or max((array.size // rows for array in inputs.values()), default=1)
    measure_request = RequestSize(rows, lengths, size)
    request = QueuedRequest(Submit(0, spec.name, spec.version, inputs), measure_request)
    return RequestPart(request, 0, inputs, rows, measure_request.lengths, max(size, 1), None)


def draw(
    spec: ModelSpec, tensor: ModelTensor, rows: int, lengths: tuple[int, ...], rng: np.random.Generator
) -> Array:
    """A random array that fits `tensor`: ids inside its range, other numbers around 0."""
    named = dict(zip(spec.length_names, lengths, strict=True))
    shape = []
    for axis, size in enumerate(tensor.shape):
        if axis == tensor.spec.batch_axis:
            shape.append(rows)
        elif axis in tensor.spec.lengths:
            shape.append(named[tensor.spec.lengths[axis]])
        else:
            shape.append(size if isinstance(size, int) else _FREE_AXIS)
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


# --- measuring --------------------------------------------------------------------------------------


def _cells(spec: ModelSpec) -> list[tuple[int, int]]:
    bounds, lengths = spec.manifest.batching, spec.manifest.lengths
    longest = min((length.max for length in lengths.values()), default=1)
    most = bounds.max_rows if spec.batched else 1
    cells = {(min(rows, most), min(length, longest)) for rows, length in _CELLS}
    cells = {(r, length) for r, length in cells if r == 1 or r * length <= bounds.max_padded_elements}
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
    """The least of a few runs: what the device needs when nothing is in its way."""
    part = _draw_part(spec, rows, length, rng)
    feeds = padding.stack(spec, [part], rows, part.lengths)
    least, begun = math.inf, time.monotonic()
    for run in range(_CELL_RUNS + 1):
        with device_scheduler.exclusive(account):
            started = time.perf_counter()
            session.run(feeds)
            took = time.perf_counter() - started
        if run:  # the first is a warm-up
            least = min(least, took)
        if run and time.monotonic() - begun > _CELL_BUDGET_S:
            break
    return rows, part.size, least


def line(error: Exception) -> str:
    text = error.message if isinstance(error, ServingError) else str(error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
