"""A ratio with its confidence interval, from pairs of measurements that were made side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESAMPLES = 10_000
_PERCENTILES = (2.5, 97.5)


def ratio(values: Sequence[float], baselines: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The geometric mean of value / baseline over the pairs, and its interval of 95% confidence,
    by resampling the pairs."""
    logs: np.ndarray[Any, Any] = np.log(np.divide(values, baselines))
    drawn = np.random.default_rng(0).integers(0, len(logs), (_RESAMPLES, len(logs)))
    low, high = np.exp(np.percentile(logs[drawn].mean(axis=1), _PERCENTILES))
    return float(np.exp(logs.mean())), (float(low), float(high))
