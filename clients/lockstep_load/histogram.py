"""HDR histograms of times: 1 µs to 1 h with three significant digits, in a fixed amount of memory.

The text form (`encoded`) is HdrHistogram's own, which its tools and libraries read.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from hdrh.histogram import HdrHistogram

from lockstep_load.results import LatencySummary

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

LOWEST_US, HIGHEST_US, DIGITS = 1, 3_600_000_000, 3
REPORTED = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}


class LatencyHistogram:
    """A histogram that records seconds and reports milliseconds."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)

    @classmethod
    def decoded(cls, text: str) -> LatencyHistogram:
        """Decode the text form. Raises ValueError if it is not a histogram."""
        times = cls()
        try:
            times._histogram.decode_and_add(text.encode())
        except Exception as error:  # the codec raises whatever its parts raise
            raise ValueError(f"not an HDR histogram: {error}") from None
        return times

    @property
    def encoded(self) -> str:
        """The text form: compressed, base64."""
        text: bytes = self._histogram.encode()
        return text.decode()

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    @property
    def counts(self) -> npt.NDArray[Any]:
        """Number of recordings of each of `values_ms`."""
        return np.ctypeslib.as_array(self._histogram.counts)

    def record(self, seconds: float) -> None:
        """Record one time; a time outside the range is set to its nearest end."""
        us = round(seconds * 1e6)
        self._histogram.record_value(min(max(us, LOWEST_US), HIGHEST_US))

    def record_all(self, seconds: Iterable[float]) -> None:
        """Record several times."""
        for one in seconds:
            self.record(one)

    def add(self, other: LatencyHistogram) -> None:
        """Add all recordings of another histogram."""
        self._histogram.add(other._histogram)

    def percentiles_ms(self, wanted: Iterable[float]) -> list[float]:
        """For each percentage, the smallest time that this share did not exceed; 0 if empty."""
        summed = np.cumsum(self.counts)
        ranks = [max(1, int(np.ceil(summed[-1] * one / 100 - 1e-9))) for one in wanted]
        if not summed[-1]:
            return [0.0 for _ in ranks]
        found: list[float] = values_ms()[np.searchsorted(summed, ranks)].tolist()
        return found

    def percentile_ms(self, percentile: float) -> float:
        """One percentile; 0 if empty."""
        return self.percentiles_ms([percentile])[0]

    def summary(self) -> LatencySummary | None:
        """Count, minimum, mean, percentiles and maximum in milliseconds; None if empty."""
        if not self.count:
            return None
        least, p50, p90, p99, p99_9, most = self.percentiles_ms([0.0, *REPORTED.values(), 100.0])
        mean = round(float(self.counts @ values_ms()) / self.count, 4)
        return LatencySummary(
            count=self.count, min=least, mean=mean, p50=p50, p90=p90, p99=p99, p99_9=p99_9, max=most
        )


@cache
def values_ms() -> npt.NDArray[np.float64]:
    """Upper end of each bucket of `LatencyHistogram.counts`, in milliseconds."""
    one = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
    places = range(one.counts_len)
    largest = [one.get_highest_equivalent_value(one.get_value_from_index(at)) for at in places]
    return np.array(largest) / 1e3
