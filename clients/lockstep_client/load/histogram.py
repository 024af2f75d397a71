"""Times in an HDR histogram: a microsecond to an hour, to three digits, in a fixed amount of memory.

Its text form (`encoded`) is the one that HdrHistogram's own tools read, in any language.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hdrh.histogram import HdrHistogram

if TYPE_CHECKING:
    from collections.abc import Iterable

LOWEST_US, HIGHEST_US, DIGITS = 1, 3_600_000_000, 3
SHOWN = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}


class Times:
    """Recorded in seconds, told in milliseconds."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)

    @classmethod
    def decoded(cls, text: str) -> Times:
        """What `encoded` gave; ValueError where it is no such thing."""
        times = cls()
        try:
            times._histogram.decode_and_add(text.encode())
        except Exception as error:  # the codec raises whatever its parts raise
            raise ValueError(f"not an HDR histogram: {error}") from None
        return times

    @property
    def encoded(self) -> str:
        """Compressed, base64."""
        text: bytes = self._histogram.encode()
        return text.decode()

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    def record(self, seconds: float) -> None:
        """One time; those outside of the range count as its ends."""
        us = round(seconds * 1e6)
        self._histogram.record_value(min(max(us, LOWEST_US), HIGHEST_US))

    def record_all(self, seconds: Iterable[float]) -> None:
        """Each of them."""
        for one in seconds:
            self.record(one)

    def add(self, other: Times) -> None:
        """All that the other one holds."""
        self._histogram.add(other._histogram)

    def percentile_ms(self, percentile: float) -> float:
        """The time that so many percent did not exceed; 0 where there is none."""
        return float(self._histogram.get_value_at_percentile(percentile)) / 1e3

    def summary(self) -> dict[str, float] | None:
        """Count, mean and percentiles in milliseconds; None where nothing was recorded."""
        if not self.count:
            return None
        found = self._histogram.get_percentile_to_value_dict(list(SHOWN.values()))
        return {
            "count": self.count,
            "min": float(self._histogram.get_min_value()) / 1e3,
            "mean": round(float(self._histogram.get_mean_value()) / 1e3, 4),
            **{name: float(found[percentile]) / 1e3 for name, percentile in SHOWN.items()},
            "max": float(self._histogram.get_max_value()) / 1e3,
        }

    def percentiles(self, wanted: Iterable[float]) -> list[float]:
        """In milliseconds, for a curve."""
        listed = list(wanted)
        found = self._histogram.get_percentile_to_value_dict(listed)
        return [float(found[one]) / 1e3 for one in listed]

    def counts(self) -> dict[float, int]:
        """Milliseconds → how often, of all that was recorded."""
        return {
            float(item.value_iterated_to) / 1e3: int(item.count_added_in_this_iter_step)
            for item in self._histogram.get_recorded_iterator()
        }
