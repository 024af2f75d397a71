"""A variant beside its original, graph by graph: how far its answers lie, how often they agree, how fast.

Inputs are made up from what the manifest says of them. That two graphs agree on made-up rows is not how
accurate they are on real ones: a data set tells that.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from lockstep_export.onnx_graph import Arrays, OnnxGraph
from lockstep_export.parity import gap

RUNS, ROWS, LENGTH = 15, 16, 24
TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}

Words = Mapping[str, Any]  # what a manifest says of a face


@dataclass(frozen=True)
class Comparison:
    """One graph of a variant beside the same of the original."""

    graph: str
    largest: float  # difference, of the largest value where that is above one
    agreeing: float | None  # share of rows with the same best score; none where there are no scores
    one_row_us: tuple[float, float]  # of the original, of the variant
    many_rows_us: tuple[float, float]


def compare(name: str, original: OnnxGraph, variant: OnnxGraph, words: Words, roles: Words) -> Comparison:
    """Runs both on the same rows; times are the medians of alternating runs."""
    chance = np.random.default_rng(7)
    many, one = (made_up(original, words, rows, chance) for rows in (ROWS, 1))
    expected, found = _run(original, many), _run(variant, many)
    gaps = [gap(found[key].astype(np.float32), expected[key].astype(np.float32)) for key in expected]
    scores = roles.get("scores", "")
    agreeing = _agreeing(expected[scores], found[scores]) if scores in expected else None
    return Comparison(
        name, float(np.max(gaps)), agreeing, _times(original, variant, one), _times(original, variant, many)
    )


def made_up(graph: OnnxGraph, words: Words, rows: int, chance: np.random.Generator) -> Arrays:
    """Rows of one length that fit `words`: ids in their range, masks of all, numbers around 0."""
    said = {**words.get("inputs", {}), **{state["input"]: state for state in words.get("state", [])}}
    feeds = {}
    for tensor in graph.session.get_inputs():
        about = said.get(tensor.name, {})
        shape = [
            size if isinstance(size, int) else rows if axis == about.get("batch_axis", 0) else LENGTH
            for axis, size in enumerate(tensor.shape)
        ]
        feeds[tensor.name] = _values(about, shape, np.dtype(TYPES[tensor.type]), chance)
    return feeds


def _values(about: Words, shape: list[int], dtype: Any, chance: np.random.Generator) -> np.ndarray[Any, Any]:
    if about.get("generated") == "lengths":
        return np.full(shape, LENGTH, dtype)
    if about.get("generated") == "mask":
        return np.full(shape, about.get("real", True), dtype)
    if dtype.kind in "iu":
        first, end = about.get("range", (0, 2))
        return chance.integers(first, end, shape).astype(dtype)
    if dtype.kind == "b":
        return chance.random(shape) < 0.5
    return (0.5 * chance.standard_normal(shape)).astype(dtype)


def _agreeing(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    if expected.shape[-1] == 1:
        return float(((expected > 0) == (found > 0)).mean())
    return float((expected.argmax(-1) == found.argmax(-1)).mean())


def _run(graph: OnnxGraph, feeds: Arrays) -> Arrays:
    return dict(zip(graph.outputs, graph.session.run(graph.outputs, feeds), strict=True))


def _times(original: OnnxGraph, variant: OnnxGraph, feeds: Arrays) -> tuple[float, float]:
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        for graph, times in zip((original, variant), taken, strict=True):
            started = time.perf_counter()
            graph.session.run(graph.outputs, feeds)
            times.append(time.perf_counter() - started)
    return median(taken[0]) * 1e6, median(taken[1]) * 1e6
