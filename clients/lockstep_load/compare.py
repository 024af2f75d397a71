"""Compares two runs: the ratio of each metric, with a 95% confidence interval.

The interval is a block bootstrap over the runs' seconds: each run is resampled 1,000 times from blocks of
consecutive seconds, drawn with replacement, and its histograms are summed again. Blocks are used because
neighbouring seconds are correlated. With few blocks the interval would be too narrow, so it is widened by the
ratio of Student's t to the normal distribution. A ratio whose interval excludes 1 is better or worse.

Pure: two documents → rows. The same seed gives the same intervals.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_load.histogram import LatencyHistogram, values_ms
from lockstep_load.results import MetricComparison

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from lockstep_load.results import LatencySummary, RunDocument, SecondResult, Verdict

    Resampled = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]

RESAMPLES, CONFIDENCE = 1000, 0.95
_NORMAL = 1.96  # quantile of the normal distribution for CONFIDENCE
MIN_SECONDS = 5
"""A shorter run has too few seconds to resample."""


def compare_runs(first: RunDocument, second: RunDocument, seed: int = 0) -> list[MetricComparison]:
    """The metrics that both runs have. If the second run has no answers, its rates are 0."""
    samples = (_RunSample(first), _RunSample(second))
    rng = np.random.default_rng(seed)
    drawn = [one.weights(rng) for one in samples]
    rows = []
    for name, unit, higher_is_better, metric in _METRICS:
        values = [float(metric(one, one.unit_weights)[0]) for one in samples]
        if values[0] <= 0 or (values[1] <= 0 and not higher_is_better):
            continue
        spread = None
        if all(len(one) >= MIN_SECONDS for one in samples):
            a, b = (metric(one, weights) for one, weights in zip(samples, drawn, strict=True))
            found = np.quantile(b / np.maximum(a, 1e-12), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            spread = _widen(found, values[1] / values[0], min(one.blocks for one in samples))
        rows.append(_row(name, unit, values, spread, higher_is_better=higher_is_better))
    return [*rows, *_whole_run_metrics(first, second)]


def regressions(rows: Sequence[MetricComparison]) -> list[MetricComparison]:
    """The metrics in which the second run is significantly worse."""
    return [row for row in rows if row.verdict == "worse"]


class _RunSample:
    """A run's seconds as matrices with one row per second."""

    def __init__(self, document: RunDocument) -> None:
        seconds = document.seconds
        self.ok = np.array([one.ok for one in seconds], float)
        self.elements = np.array([one.elements for one in seconds], float)
        self.tokens = np.array([one.tokens for one in seconds], float)
        held = [_latency(one) for one in seconds]
        there = np.flatnonzero(sum(one.counts for one in held))
        self.ms = values_ms()[there]
        self.counts = np.array([one.counts[there] for one in held], float)

    def __len__(self) -> int:
        return len(self.ok)

    @property
    def unit_weights(self) -> npt.NDArray[np.float64]:
        """Weights that count each second once."""
        return np.ones((1, len(self)))

    @property
    def block_s(self) -> int:
        """Seconds in a block: the cube root of the run's length."""
        return max(1, round(math.cbrt(len(self))))

    @property
    def blocks(self) -> int:
        """Blocks in a run."""
        return -(-len(self) // self.block_s)

    def weights(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """How often each resample contains each second: [RESAMPLES, seconds]."""
        count, block_s = len(self), self.block_s
        starts = rng.integers(0, max(count, 1), (RESAMPLES, self.blocks))
        taken = (starts[:, :, None] + np.arange(block_s)).reshape(RESAMPLES, -1)[:, :count] % max(count, 1)
        resampled = np.zeros((RESAMPLES, count))
        np.add.at(resampled, (np.arange(RESAMPLES)[:, None], taken), 1.0)
        return resampled

    def percentile(self, percent: float, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The percentile of each resample in milliseconds; 0 for a resample without answers."""
        if not len(self.ms):
            return np.zeros(len(weights))
        summed = np.cumsum(weights @ self.counts, axis=1)
        at = (summed < summed[:, -1:] * percent / 100 - 1e-9).sum(axis=1)
        found: npt.NDArray[np.float64] = self.ms[np.minimum(at, len(self.ms) - 1)]
        return np.where(summed[:, -1] > 0, found, 0.0)


def _latency(second: SecondResult) -> LatencyHistogram:
    """The latency of one second. Raises ValueError if it is damaged."""
    try:
        return LatencyHistogram.decoded(second.histogram) if second.histogram else LatencyHistogram()
    except ValueError as error:
        raise ValueError(f"histogram of second {second.second}: {error}") from None


def _rate(column: str) -> Callable[[_RunSample, npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    def metric(one: _RunSample, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        resampled: npt.NDArray[np.float64] = weights @ getattr(one, column) / max(len(one), 1)
        return resampled

    return metric


def _percentile(percent: float) -> Callable[[_RunSample, npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    return lambda one, weights: one.percentile(percent, weights)


_METRICS: tuple[tuple[str, str, bool, Any], ...] = (
    ("answers", "/s", True, _rate("ok")),
    ("elements", "/s", True, _rate("elements")),
    ("tokens", "/s", True, _rate("tokens")),
    ("latency p50", "ms", False, _percentile(50)),
    ("latency p90", "ms", False, _percentile(90)),
    ("latency p99", "ms", False, _percentile(99)),
)


def _row(
    name: str,
    unit: str,
    values: Sequence[float],
    spread: npt.NDArray[np.float64] | None,
    *,
    higher_is_better: bool,
) -> MetricComparison:
    first, second = values
    low, high = (float(spread[0]), float(spread[1])) if spread is not None else (None, None)
    return MetricComparison(
        name, unit, first, second, second / first, low, high, _verdict(low, high, higher_is_better)
    )


def _widen(spread: npt.NDArray[np.float64], ratio: float, blocks: int) -> npt.NDArray[np.float64]:
    """The interval, widened about `ratio` in logarithms.

    Student's 95% quantile is approximated by Abramowitz and Stegun's 26.7.5, within 1% for two or more
    degrees of freedom.
    """
    more = blocks - 1
    student = _NORMAL + 2.372 / more + 2.822 / more**2 + 2.556 / more**3 + 1.589 / more**4
    factor = student / _NORMAL * (blocks / more) ** 0.5
    return ratio * (spread / ratio) ** factor if ratio else spread


def _verdict(low: float | None, high: float | None, higher_is_better: bool) -> Verdict:
    if low is None or high is None:
        return "unsure"
    if low <= 1 <= high:
        return "same"
    return "better" if (low > 1) == higher_is_better else "worse"


def _whole_run_metrics(first: RunDocument, second: RunDocument) -> list[MetricComparison]:
    """Ratios of metrics that are known for whole runs only; they have no interval."""
    rows = []
    for name, pair in (
        ("first token", (first.first_token_ms, second.first_token_ms)),
        ("between tokens", (first.per_token_ms, second.per_token_ms)),
    ):
        for percentile in ("p50", "p99"):
            values = [_value(one, percentile) for one in pair]
            if min(values) > 0:
                rows.append(_row(f"{name} {percentile}", "ms", values, None, higher_is_better=False))
    return rows


def _value(summary: LatencySummary | None, percentile: str) -> float:
    return float(getattr(summary, percentile)) if summary else 0.0
