"""Compares a variant with its original, graph by graph: differences, agreement of the best score, speed.

Inputs are generated from the manifest. Agreement on generated rows does not measure accuracy on real ones:
`quality` does, on a data set.
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

Spec = Mapping[str, Any]  # the manifest, or one of its sections


@dataclass(frozen=True)
class Comparison:
    """One graph of a variant compared with the same graph of the original."""

    graph: str
    largest: float  # difference, divided by the largest value where that is above 1
    agreeing: float | None  # share of rows with the same best score; None for models without scores
    one_row_us: tuple[float, float]  # original, variant
    many_rows_us: tuple[float, float]


def compare(name: str, original: OnnxGraph, variant: OnnxGraph, spec: Spec, roles: Spec) -> Comparison:
    """Runs both graphs on the same rows; times are medians of alternating runs."""
    rng = np.random.default_rng(7)
    many, one = (sample_inputs(original, spec, rows, rng) for rows in (ROWS, 1))
    expected, results = _run(original, many), _run(variant, many)
    gaps = [gap(results[key].astype(np.float32), expected[key].astype(np.float32)) for key in expected]
    scores = roles.get("scores", "")
    agreeing = _agreeing(expected[scores], results[scores]) if scores in expected else None
    return Comparison(
        name, float(np.max(gaps)), agreeing, _times(original, variant, one), _times(original, variant, many)
    )


def sample_inputs(graph: OnnxGraph, spec: Spec, rows: int, rng: np.random.Generator) -> Arrays:
    """Generated inputs of equal length that match `spec`: ids in range, full masks, numbers around 0."""
    specs = {**spec.get("inputs", {}), **{state["input"]: state for state in spec.get("state", [])}}
    feeds = {}
    for tensor in graph.session.get_inputs():
        tensor_spec = specs.get(tensor.name, {})
        shape = [
            size if isinstance(size, int) else rows if axis == tensor_spec.get("batch_axis", 0) else LENGTH
            for axis, size in enumerate(tensor.shape)
        ]
        feeds[tensor.name] = _values(tensor_spec, shape, np.dtype(TYPES[tensor.type]), rng)
    return feeds


def _values(spec: Spec, shape: list[int], dtype: Any, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if spec.get("generated") == "lengths":
        return np.full(shape, LENGTH, dtype)
    if spec.get("generated") == "mask":
        return np.full(shape, spec.get("real", True), dtype)
    if dtype.kind in "iu":
        first, end = spec.get("range", (0, 2))
        return rng.integers(first, end, shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    return (0.5 * rng.standard_normal(shape)).astype(dtype)


def _agreeing(expected: np.ndarray[Any, Any], results: np.ndarray[Any, Any]) -> float:
    if expected.shape[-1] == 1:
        return float(((expected > 0) == (results > 0)).mean())
    return float((expected.argmax(-1) == results.argmax(-1)).mean())


def _run(graph: OnnxGraph, feeds: Arrays) -> Arrays:
    return dict(zip(graph.outputs, graph.session.run(graph.outputs, feeds), strict=True))


def _times(original: OnnxGraph, variant: OnnxGraph, feeds: Arrays) -> tuple[float, float]:
    times_s: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        for graph, times in zip((original, variant), times_s, strict=True):
            started = time.perf_counter()
            graph.session.run(graph.outputs, feeds)
            times.append(time.perf_counter() - started)
    return median(times_s[0]) * 1e6, median(times_s[1]) * 1e6
