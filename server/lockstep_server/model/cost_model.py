"""The duration of a run as a function of its rows and length, for one model on one device.

About six (rows, length, seconds) cells, measured on an idle device → non-negative least squares fit of

    seconds = a + b·rows + c·length + d·rows·length + e·rows·length²

→ `estimate`. `c` is the cost per step of a recurrent model, `e` the cost of attention in a Transformer.
What the measured cells cannot tell apart gets no term: one length, and the cost does not depend on length.

Each real run then corrects the fit near its own size: `ratios` holds one correction factor per doubling
of rows and of length, a cell. A cell without runs takes over the factor of the nearest cell that has some,
so that a fit which is wrong far from the measured sizes is wrong for a few runs only.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Array = np.ndarray[Any, Any]

_WEIGHTS = 5
_ROW_BUCKETS, _LENGTH_BUCKETS = 12, 20
_LEARNING_RATE = 0.1
_KNOWN_RUNS = 10  # a cell with as many runs learns at this rate, one with fewer is the mean of its runs
_PRIOR_RUNS = 3  # the first estimate of a cell counts for as many runs
_FIT_RUNS = 2  # a cell that the fit was measured in counts as having had so many
_MUCH_WRONG = 4.0
_WRONG = 3.0  # a measurement that differs from the estimate by this factor is worth telling the front end
_MIN_S = 1e-7
_MOST = 1e9  # a larger number is no cost in seconds, and no ratio of two


def moving_average(average: float, value: float, rate: float) -> float:
    """The exponential moving average after one more value, which counts by `rate` (0 to 1)."""
    return average + rate * (value - average)


class LengthCosts(NamedTuple):
    """The costs of runs of some lengths: `base + rows * per_row`, times a ratio of their bucket."""

    base: Array
    per_row: Array
    bucket: Array

    def take(self, indices: Array) -> LengthCosts:
        return LengthCosts(*[array.take(indices) for array in self])


class CostModel:
    """Estimates the duration of runs and learns from measured ones.

    Not locked: instances that learn at the same time may lose an update, and readers may miss the latest.
    """

    def __init__(self, weights: Iterable[float] = (2e-4, 0, 0, 1e-5, 0), overhead_s: float = 1.5e-4) -> None:
        self.weights = [float(weight) for weight in weights]
        self.overhead_s = overhead_s  # per run: planning, padding and answering
        self.ratios = np.ones((_ROW_BUCKETS, _LENGTH_BUCKETS))
        self.runs = np.zeros((_ROW_BUCKETS, _LENGTH_BUCKETS), int)  # learned from, at most `_KNOWN_RUNS`
        self._heirs: dict[tuple[int, int], Array] = {}  # flat indices of a cell and those that follow it

    @classmethod
    def fit(cls, cells: Iterable[tuple[int, int, float]]) -> CostModel:
        """Fit the measured (rows, length, seconds) cells, minimizing the relative error."""
        rows, lengths, seconds = (np.array(column, float) for column in zip(*cells, strict=True))
        features = np.stack(_features(rows, lengths), axis=1) / seconds[:, None]
        costs = cls(_non_negative(features, np.ones(len(seconds)), _distinguishable(rows, lengths)))
        costs.runs[_buckets(rows, _ROW_BUCKETS), _buckets(lengths, _LENGTH_BUCKETS)] = _FIT_RUNS
        return costs

    def estimate(self, rows: float, length: float) -> float:
        """Estimated seconds in the session of a run of `rows` x `length`."""
        a, b, c, d, e = self.weights
        seconds = a + length * c + rows * (b + length * (d + e * length))
        ratio: float = self.ratios.item(_bucket(rows, _ROW_BUCKETS), _bucket(length, _LENGTH_BUCKETS))
        return max(seconds * ratio, _MIN_S)

    def estimates(self, rows: Array, lengths: Array) -> Array:
        """`estimate` plus `overhead_s`, for arrays that broadcast, both of integers."""
        return self.estimates_at(rows, self.at(lengths))

    def at(self, lengths: Array) -> LengthCosts:
        """What the costs of runs of these lengths, integers, depend on beside their rows."""
        a, b, c, d, e = self.weights
        if lengths.size and lengths.max() < len(_LENGTH_BUCKET):
            buckets = _LENGTH_BUCKET.take(lengths)
        else:
            buckets = _buckets(lengths, _LENGTH_BUCKETS)
        return LengthCosts(a + lengths * c, b + lengths * (d + e * lengths), buckets)

    def estimates_at(self, rows: Array, at: LengthCosts) -> Array:
        """As `estimates`."""
        seconds: Array = rows * at.per_row
        seconds += at.base
        seconds *= self.ratios.take(_ROW_OFFSETS.take(rows, mode="clip") + at.bucket)
        np.maximum(seconds, _MIN_S, out=seconds)
        seconds += self.overhead_s
        return seconds

    def per_row(self, length: float, max_rows: int) -> float:
        """Estimated seconds per row of `length` at the best batch size, if enough such rows are queued."""
        candidates = [1 << k for k in range(max_rows.bit_length()) if 1 << k <= max_rows]
        return min((self.estimate(rows, length) + self.overhead_s) / rows for rows in candidates)

    def is_known(self, length: float) -> bool:
        """Whether a run of about this length, or a longer one, was measured. Otherwise its estimate is
        extrapolated."""
        return bool(self.runs[:, max(_bucket(length, _LENGTH_BUCKETS) - 1, 0) :].any())

    def learn(self, rows: float, length: float, seconds: float) -> bool:
        """Correct the estimates near this size by the measured duration of a run.

        Returns whether the estimate was wrong by more than `_WRONG`, or was the first of its cell.

        Factors are averaged as logarithms. A cell that is wrong by more than `_MUCH_WRONG` counts as less
        known, so that a change that lasts is taken over within 20 runs. Upwards each run counts for at most
        `_MUCH_WRONG`: it may have been a stall, and no run would correct an estimate that keeps the planner
        from such runs. Downwards a little-known cell believes the run.
        """
        a, b, c, d, e = self.weights
        fitted = max(a + length * c + rows * (b + length * (d + e * length)), _MIN_S)
        cell = _bucket(rows, _ROW_BUCKETS), _bucket(length, _LENGTH_BUCKETS)
        runs, ratio = self.runs.item(cell), self.ratios.item(cell)
        wrong = off = max(seconds, _MIN_S) / (fitted * ratio)
        rate = max(_LEARNING_RATE, 1 / (runs + _PRIOR_RUNS))
        if 1 / _MUCH_WRONG <= wrong <= _MUCH_WRONG:
            if runs < _KNOWN_RUNS:
                self.runs[cell] = runs + 1
        else:
            self.runs[cell] = max(runs // 2, 1)
            if wrong < 1 and runs <= _FIT_RUNS:
                rate = 1.0
            else:
                rate = 0.5 if runs == 1 else rate  # wrong again
                off = min(max(wrong, 1 / _MUCH_WRONG), _MUCH_WRONG)
        heirs = self._heirs
        if cell not in heirs:
            heirs = self._heirs = _heirs(self.runs)
        self.ratios.put(heirs[cell], ratio * off**rate)
        return runs == 0 or not 1 / _WRONG < wrong < _WRONG

    def learn_overhead(self, seconds: float) -> None:
        measured = min(seconds, _MUCH_WRONG * self.overhead_s)
        self.overhead_s = moving_average(self.overhead_s, measured, _LEARNING_RATE)

    def to_dict(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "overhead_s": self.overhead_s,
            "ratios": self.ratios.tolist(),
            "runs": self.runs.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CostModel:
        """
        Raises:
            KeyError, TypeError, ValueError: these are not the costs of a model.
        """
        try:
            costs = cls(data["weights"], float(data["overhead_s"]))
            ratios, runs = np.array(data["ratios"], float), np.array(data["runs"], int)
        except OverflowError as error:
            raise ValueError(f"a number is too large: {error}") from error
        numbers = np.array([*costs.weights, costs.overhead_s])
        if numbers.shape != (_WEIGHTS + 1,) or ratios.shape != costs.ratios.shape:
            raise ValueError("the costs have another number of weights or ratios")
        if runs.shape != ratios.shape or (runs < 0).any():
            raise ValueError("the costs have another number of runs, or negative ones")
        if not ((numbers >= 0).all() and (numbers <= _MOST).all()):
            raise ValueError("a cost is negative, too large or not finite")
        if not ((ratios > 0).all() and (ratios <= _MOST).all()):
            raise ValueError("a ratio is not positive, too large or not finite")
        costs.ratios, costs.runs = ratios, np.minimum(runs, _KNOWN_RUNS)
        return costs


def _features(rows: Array, lengths: Array) -> list[Array]:
    return [np.ones_like(rows), rows, lengths, rows * lengths, rows * lengths * lengths]


def _distinguishable(rows: Array, lengths: Array) -> list[int]:
    """The indices of the features that cells of these rows and lengths can tell apart."""
    some_rows, some_lengths = len(set(rows)), len(set(lengths))
    kept = [0]
    kept += [1] if some_rows > 1 else []
    kept += [2] if some_lengths > 1 else []
    kept += [3] if some_lengths > 1 and some_rows > 1 else []
    kept += [4] if some_lengths > 2 else []
    return kept


def _non_negative(features: Array, target: Array, kept: list[int]) -> Array:
    """Least squares with non-negative weights: drops the most negative weight and fits again.

    Columns are scaled to unit norm first, so that the size of a feature does not matter.

    Args:
        kept: indices of the features that may have a weight.
    """
    scale = np.linalg.norm(features, axis=0)
    weights = np.zeros(features.shape[1])
    while kept:
        solved = np.linalg.lstsq(features[:, kept] / scale[kept], target, rcond=None)[0]
        if solved.min() >= 0:
            weights[kept] = solved / scale[kept]
            break
        kept.pop(int(solved.argmin()))
    return weights


def _heirs(runs: Array) -> dict[tuple[int, int], Array]:
    """For each cell with runs, its flat index and those of the cells without that are nearer to it than to
    others.

    A doubling of the length counts for more than one of the rows: a fit is wrong along the length most.
    """
    known = np.argwhere(runs > 0)
    unknown = np.argwhere(runs == 0)
    apart = np.abs(unknown[:, None] - known[None]) @ np.array([1, 4])  # rows, length
    nearest = apart.argmin(axis=1)
    flat = unknown @ np.array([runs.shape[1], 1])
    own = known @ np.array([runs.shape[1], 1])
    return {
        (int(i), int(j)): np.append(flat[nearest == index], own[index]) for index, (i, j) in enumerate(known)
    }


@lru_cache(1024)
def representative(size: float) -> int:
    """The power of two that stands for all sizes of the cell which `size` belongs to."""
    return 1 << max(round(math.log2(size)), 0) if size > 1 else 1


@lru_cache(1024)
def _bucket(value: float, buckets: int) -> int:
    return min(max(round(math.log2(value)), 0), buckets - 1) if value > 1 else 0


def _buckets(values: Array, buckets: int) -> Array:
    return np.minimum(np.rint(np.log2(np.maximum(values, 1))), buckets - 1).astype(np.intp)


_ROW_OFFSETS = _buckets(np.arange(1 << _ROW_BUCKETS), _ROW_BUCKETS) * _LENGTH_BUCKETS
"""Where the ratios of so many rows begin. As many rows as it has, or more, are in the last bucket."""

_LENGTH_BUCKET = _buckets(np.arange(4096), _LENGTH_BUCKETS)
"""The buckets of usual lengths."""
