"""The duration of a run as a function of its rows and length, for one model on one device.

About six (rows, length, seconds) cells, measured on an idle device → non-negative least squares fit of

    seconds = a + b·rows + c·length + d·rows·length + e·rows·length²

→ `estimate`. `c` is the cost per step of a recurrent model, `e` the cost of attention in a Transformer.
Each real run then corrects the fit near its own size: `ratios` holds one correction factor per doubling
of rows and of length.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Array = np.ndarray[Any, Any]

_WEIGHTS = 5
_ROW_BUCKETS, _LENGTH_BUCKETS = 12, 20
_LEARNING_RATE = 0.1
_MAX_RATIO_CHANGE = 4.0  # a measurement is clipped to this factor around the current estimate
_MIN_S = 1e-7


def moving_average(average: float, value: float, rate: float) -> float:
    """The exponential moving average after one more value, which counts by `rate` (0 to 1)."""
    return average + rate * (value - average)


class CostModel:
    """Estimates the duration of runs and learns from measured ones.

    Not locked: one thread writes; readers may miss the latest update.
    """

    def __init__(self, weights: Iterable[float] = (2e-4, 0, 0, 1e-5, 0), overhead_s: float = 1.5e-4) -> None:
        self.weights = [float(weight) for weight in weights]
        self.overhead_s = overhead_s  # per run: planning, padding and answering
        self.ratios = np.ones((_ROW_BUCKETS, _LENGTH_BUCKETS))

    @classmethod
    def fit(cls, cells: Iterable[tuple[int, int, float]]) -> CostModel:
        """Fit the measured (rows, length, seconds) cells, minimizing the relative error."""
        rows, lengths, seconds = (np.array(column, float) for column in zip(*cells, strict=True))
        features = np.stack(_features(rows, lengths), axis=1) / seconds[:, None]
        return cls(_non_negative(features, np.ones(len(seconds))))

    def estimate(self, rows: float, length: float) -> float:
        """Estimated seconds in the session of a run of `rows` x `length`."""
        a, b, c, d, e = self.weights
        seconds = a + b * rows + length * (c + rows * (d + e * length))
        ratio: float = self.ratios.item(_bucket(rows, _ROW_BUCKETS), _bucket(length, _LENGTH_BUCKETS))
        return max(seconds * ratio, _MIN_S)

    def estimates(self, rows: Array, lengths: Array) -> Array:
        """`estimate` plus `overhead_s`, for arrays that broadcast."""
        a, b, c, d, e = self.weights
        seconds = a + b * rows + lengths * (c + rows * (d + e * lengths))
        ratios = self.ratios[_buckets(rows, _ROW_BUCKETS), _buckets(lengths, _LENGTH_BUCKETS)]
        return np.maximum(seconds * ratios, _MIN_S) + self.overhead_s

    def per_row(self, length: float, max_rows: int) -> float:
        """Estimated seconds per row of `length` at the best batch size, if enough such rows are queued."""
        candidates = [1 << k for k in range(max_rows.bit_length()) if 1 << k <= max_rows]
        return min((self.estimate(rows, length) + self.overhead_s) / rows for rows in candidates)

    def learn(self, rows: float, length: float, seconds: float) -> None:
        """Correct the estimates near this size by the measured duration of a run."""
        a, b, c, d, e = self.weights
        fitted = max(a + b * rows + length * (c + rows * (d + e * length)), _MIN_S)
        cell = _bucket(rows, _ROW_BUCKETS), _bucket(length, _LENGTH_BUCKETS)
        ratio = self.ratios[cell]
        measured = min(max(seconds / fitted, ratio / _MAX_RATIO_CHANGE), ratio * _MAX_RATIO_CHANGE)
        self.ratios[cell] = moving_average(ratio, measured, _LEARNING_RATE)

    def learn_overhead(self, seconds: float) -> None:
        measured = min(seconds, _MAX_RATIO_CHANGE * self.overhead_s)
        self.overhead_s = moving_average(self.overhead_s, measured, _LEARNING_RATE)

    def to_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "overhead_s": self.overhead_s, "ratios": self.ratios.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CostModel:
        """
        Raises:
            KeyError, TypeError, ValueError: these are not the costs of a model.
        """
        costs = cls(data["weights"], float(data["overhead_s"]))
        ratios = np.array(data["ratios"], float)
        numbers = np.array([*costs.weights, costs.overhead_s])
        if numbers.shape != (_WEIGHTS + 1,) or ratios.shape != costs.ratios.shape:
            raise ValueError("the costs have another number of weights or ratios")
        if not (
            np.isfinite(numbers).all()
            and (numbers >= 0).all()
            and np.isfinite(ratios).all()
            and (ratios > 0).all()
        ):
            raise ValueError("a cost is negative or not finite")
        costs.ratios = ratios
        return costs


def _features(rows: Array, lengths: Array) -> list[Array]:
    return [np.ones_like(rows), rows, lengths, rows * lengths, rows * lengths * lengths]


def _non_negative(features: Array, target: Array) -> Array:
    """Least squares with non-negative weights: drops the most negative weight and fits again.

    Columns are scaled to unit norm first, so that the size of a feature does not matter.
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
