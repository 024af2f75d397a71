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

from .errors import ServingError
from .models import datatypes, padding
from .models.card import batchable
from .models.costs import CostModel
from .models.measure import Measure, measure
from .oneshot.request import Part, Request
from .port import Submit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .models.card import Card, TensorCard
    from .models.datatypes import Arrays
    from .models.gate import Gate, Share
    from .models.session import Session

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
class Verdict:
    """What the self-test found."""

    batched: bool
    deterministic: bool = False
    furthest: float = 0.0  # largest difference, relative to max(1, |value|)
    reason: str = ""  # why not batched; empty where there is nothing to tell

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(session: Session, card: Card, seed: int = 0) -> Verdict:
    """Run the self-test. Never raises for what the model does."""
    if not batchable(card):
        return Verdict(batched=False, reason=_why_not_batchable(card))
    try:
        return _compare_all(session, card, np.random.default_rng(seed))
    except Exception as error:  # whatever the graph may do with random input
        return Verdict(batched=False, reason=f"the self-test could not run: {line(error)}")


def measure_costs(session: Session, card: Card, gate: Gate, share: Share) -> CostModel:
    """The model's costs from about six cells, each measured alone at the gate.

    A model that takes no random input gets the default costs, and learns from real runs.
    """
    rng = np.random.default_rng(1)
    try:
        cells = [
            _measure_cell(session, card, rows, length, rng, gate, share) for rows, length in _cells(card)
        ]
    except Exception:
        return CostModel()
    return CostModel.fit(cells)


def usual_run_s(card: Card, costs: CostModel) -> float:
    """Seconds of a run of one row, as long as sentences are."""
    try:
        size = _draw_part(card, 1, _USUAL, np.random.default_rng(1)).size
    except Exception:  # it takes no random input
        size = _USUAL
    return costs.estimate(1, size)


# --- comparing --------------------------------------------------------------------------------------


def _compare_all(session: Session, card: Card, rng: np.random.Generator) -> Verdict:
    furthest, same_bits = 0.0, True
    for batch in _BATCHES:
        parts = [_draw_part(card, rows, length, rng) for rows, length in batch]
        solo = [_answers(session, card, [part])[0] for part in parts]
        together = _answers(session, card, parts)
        for alone, shared, part in zip(solo, together, parts, strict=True):
            for name in alone:
                apart, same = difference(alone[name], shared[name])
                furthest, same_bits = max(furthest, apart), same_bits and same
                if apart > tolerance(card, alone[name]):
                    return Verdict(batched=False, furthest=furthest, reason=_told(name, apart, part, parts))
    return Verdict(batched=True, deterministic=same_bits, furthest=furthest)


def _answers(session: Session, card: Card, parts: Sequence[Part]) -> list[Arrays]:
    rows = sum(part.rows for part in parts)
    lengths = tuple(max(column) for column in zip(*(part.lengths for part in parts), strict=True))
    outputs = session.run(padding.stack(card, parts, rows, lengths))
    batched = dict(zip(session.output_names, outputs, strict=True))
    _check_rows(card, batched, rows)
    return padding.cut(replace(card, batched=True), batched, parts, lengths)


def _check_rows(card: Card, outputs: Mapping[str, Array], rows: int) -> None:
    for tensor in card.outputs:
        shape, axis = outputs[tensor.name].shape, tensor.words.batch_axis or 0
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


def tolerance(card: Card, array: Array) -> float:
    if card.manifest.tolerance is not None:
        return card.manifest.tolerance
    return 1e-4 if array.dtype.itemsize >= 4 else 2e-2


def _told(name: str, difference: float, part: Part, parts: Sequence[Part]) -> str:
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


def _why_not_batchable(card: Card) -> str:
    without = [t.name for t in (*card.inputs, *card.outputs) if t.words.batch_axis is None]
    if not card.manifest.written:
        return "axis 0 is not one symbol on every tensor; a model.toml that names the batch axes helps"
    return f"no batch_axis in the manifest for {', '.join(without)}; it is served one request a run"


@dataclass(frozen=True)
class ServedAlone:
    """A graph that takes ids, asked for one row of them."""

    card: Card
    session: Session

    def answer(self, ids: Sequence[int]) -> Arrays:
        name = self.card.text_input
        tensor = self.card.input(name)
        assert tensor is not None
        inputs = {name: np.array([ids], datatypes.NUMPY[tensor.datatype])}
        found = measure(self.card, inputs)
        submit = Submit(0, self.card.name, self.card.version, inputs)
        part = Part(Request(submit, found), 0, inputs, 1, found.lengths, found.size, None)
        return _answers(self.session, self.card, [part])[0]


# --- drawing ----------------------------------------------------------------------------------------


def _draw_part(card: Card, rows: int, length: int, rng: np.random.Generator) -> Part:
    lengths = tuple(min(length + k, spec.max) for k, spec in enumerate(card.manifest.lengths.values()))
    inputs = {
        tensor.name: draw(card, tensor, rows, lengths, rng)
        for tensor in card.inputs
        if not tensor.words.generated and not tensor.optional
    }
    size = sum(lengths) or max((array.size // rows for array in inputs.values()), default=1)
    measure = Measure(rows, lengths, size)
    request = Request(Submit(0, card.name, card.version, inputs), measure)
    return Part(request, 0, inputs, rows, measure.lengths, max(size, 1), None)


def draw(
    card: Card, tensor: TensorCard, rows: int, lengths: tuple[int, ...], rng: np.random.Generator
) -> Array:
    """A random array that fits `tensor`: ids inside its range, other numbers around 0."""
    named = dict(zip(card.length_names, lengths, strict=True))
    shape = []
    for axis, size in enumerate(tensor.shape):
        if axis == tensor.words.batch_axis:
            shape.append(rows)
        elif axis in tensor.words.lengths:
            shape.append(named[tensor.words.lengths[axis]])
        else:
            shape.append(size if isinstance(size, int) else _FREE_AXIS)
    return _draw(tensor, shape, rng)


def _draw(tensor: TensorCard, shape: list[int], rng: np.random.Generator) -> Array:
    dtype = datatypes.NUMPY[tensor.datatype]
    if tensor.datatype == "BYTES":
        return rng.choice(np.array(["a", "b c", "d"], dtype=object), shape)
    if tensor.datatype == "BOOL":
        return rng.random(shape) < 0.5
    if tensor.datatype in datatypes.INTEGERS:
        first, end = tensor.words.range or (0, 2)
        return rng.integers(first, end, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


# --- measuring --------------------------------------------------------------------------------------


def _cells(card: Card) -> list[tuple[int, int]]:
    bounds, lengths = card.manifest.batching, card.manifest.lengths
    longest = min((length.max for length in lengths.values()), default=1)
    most = bounds.max_rows if card.batched else 1
    cells = {(min(rows, most), min(length, longest)) for rows, length in _CELLS}
    cells = {(r, length) for r, length in cells if r == 1 or r * length <= bounds.max_padded_elements}
    return sorted(cells)


def _measure_cell(
    session: Session, card: Card, rows: int, length: int, rng: np.random.Generator, gate: Gate, share: Share
) -> tuple[int, int, float]:
    """The least of a few runs: what the device needs when nothing is in its way."""
    part = _draw_part(card, rows, length, rng)
    feeds = padding.stack(card, [part], rows, part.lengths)
    least, begun = math.inf, time.monotonic()
    for run in range(_CELL_RUNS + 1):
        with gate.alone(share):
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
