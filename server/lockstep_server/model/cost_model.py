"""What a run costs: (rows, length) -> seconds, for one model on one device.

Six cells measured alone are fitted by non-negative least squares to

    seconds = a + b·rows + c·length + d·rows·length + e·rows·length²

a recurrent model pays `c` for each step whatever its rows, a Transformer `e` for attention. Real
runs then correct the fit where they happen: a table of ratios, one for each doubling of rows and
of length.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Array = np.ndarray[Any, Any]

_ROW_BUCKETS, _LENGTH_BUCKETS = 12, 20
_LEARNING_RATE = 0.1
_FURTHEST = 4.0  # a single run never moves a ratio as if it had been further off than this
_LEAST_S = 1e-7


class CostModel:
    """Estimates, learns, and travels as plain data. Not locked: one writer, and readers that may
    see a ratio one run late."""

    def __init__(self, weights: Iterable[float] = (2e-4, 0, 0, 1e-5, 0), overhead_s: float = 1.5e-4) -> None:
        self.weights = [float(weight) for weight in weights]
        self.overhead_s = overhead_s  # of planning, padding and answering, for each run
        self.ratios = np.ones((_ROW_BUCKETS, _LENGTH_BUCKETS))

    @classmethod
    def fit(cls, cells: Iterable[tuple[int, int, float]]) -> CostModel:
        """From measured (rows, length, seconds). Errors count relative to the cell's own time."""
        rows, lengths, seconds = (np.array(column, float) for column in zip(*cells, strict=True))
        features = np.stack(_features(rows, lengths), axis=1) / seconds[:, None]
        return cls(_non_negative(features, np.ones(len(seconds))))

    def estimate(self, rows: float, length: float) -> float:
        """Seconds that a run of `rows` x `length` takes in the session."""
        a, b, c, d, e = self.weights
        seconds = a + b * rows + length * (c + rows * (d + e * length))
        ratio: float = self.ratios.item(_bucket(rows, _ROW_BUCKETS), _bucket(length, _LENGTH_BUCKETS))
        return max(seconds * ratio, _LEAST_S)

    def estimates(self, rows: Array, lengths: Array) -> Array:
        """`estimate` for arrays that broadcast, plus the overhead that each run adds."""
        a, b, c, d, e = self.weights
        seconds = a + b * rows + lengths * (c + rows * (d + e * lengths))
        ratios = self.ratios[_buckets(rows, _ROW_BUCKETS), _buckets(lengths, _LENGTH_BUCKETS)]
        return np.maximum(seconds * ratios, _LEAST_S) + self.overhead_s

    def per_row(self, length: float, max_rows: int) -> float:
        """Seconds that a row of `length` takes where enough of its like wait: the best over row counts."""
        candidates = [1 << k for k in range(max_rows.bit_length()) if 1 << k <= max_rows]
        return min((self.estimate(rows, length) + self.overhead_s) / rows for rows in candidates)

    def learn(self, rows: float, length: float, seconds: float) -> None:
        """Take in what a real run took."""
        a, b, c, d, e = self.weights
        fitted = max(a + b * rows + length * (c + rows * (d + e * length)), _LEAST_S)
        cell = _bucket(rows, _ROW_BUCKETS), _bucket(length, _LENGTH_BUCKETS)
        seen = min(max(seconds / fitted, self.ratios[cell] / _FURTHEST), self.ratios[cell] * _FURTHEST)
        self.ratios[cell] += _LEARNING_RATE * (seen - self.ratios[cell])

    def learn_overhead(self, seconds: float) -> None:
        self.overhead_s += _LEARNING_RATE * (min(seconds, _FURTHEST * self.overhead_s) - self.overhead_s)

    def to_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "overhead_s": self.overhead_s}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CostModel:
        return cls(data["weights"], data["overhead_s"])


def _features(rows: Array, lengths: Array) -> list[Array]:
    return [np.ones_like(rows), rows, lengths, rows * lengths, rows * lengths * lengths]


def _non_negative(features: Array, target: Array) -> Array:
    """Least squares with weights of 0 or more: drop the most negative weight and fit again.

    Columns are scaled to one norm first, so that a tiny and a huge feature weigh alike.
    """
    scale = np.linalg.norm(features, axis=0)
    kept = list(range(features.shape[1]))
    weights = np.zeros(features.shape[1])
    while kept:
        solved = np.linalg.lstsq(features[:, kept] / scale[kept], target, rcond=None)[0]
        if solved.min() >= 0:
            weights[kept] = solved / scale[kept]
            break
        kept.pop(int(solved.argmin()))
    return weights


def _bucket(value: float, buckets: int) -> int:
    return min(max(round(math.log2(value)), 0), buckets - 1) if value > 1 else 0


def _buckets(values: Array, buckets: int) -> Array:
    return np.clip(np.rint(np.log2(np.maximum(values, 1))), 0, buckets - 1).astype(np.intp)
