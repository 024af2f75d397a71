"""The exponential moving average, by which all estimates follow measurements."""

from __future__ import annotations


def moving_average(average: float, value: float, rate: float) -> float:
    """The average after one more value, which counts by `rate` (0 to 1)."""
    return average + rate * (value - average)
