"""The open loop's schedule: the times at which requests are due, in seconds after the start.

The schedule is split among worker processes so that together they produce the requested rate: independent
Poisson processes add up to one Poisson process, and evenly spaced arrivals are assigned in turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

ArrivalProcess = Literal["poisson", "constant"]
_CHUNK = 1024


def poisson(rate: float, begin_s: float, end_s: float, rng: np.random.Generator) -> Iterator[float]:
    """Exponential gaps with mean 1 / rate, as produced by many independent callers."""
    at = begin_s
    while True:
        for due in at + np.cumsum(rng.exponential(1 / rate, _CHUNK)):
            at = float(due)
            if at >= end_s:
                return
            yield at


def constant(rate: float, begin_s: float, end_s: float, *, index: int = 0, of: int = 1) -> Iterator[float]:
    """One arrival every 1 / rate seconds, restricted to those of process `index` out of `of`."""
    number = index
    while (due := begin_s + number / rate) < end_s:
        yield due
        number += of


def arrivals(
    process: ArrivalProcess,
    rate: float,
    begin_s: float,
    end_s: float,
    *,
    seed: int,
    index: int = 0,
    of: int = 1,
) -> Iterator[float]:
    """Due times of process `index` out of `of`, ascending. `rate` is the total, in requests per second."""
    if process == "constant":
        return constant(rate, begin_s, end_s, index=index, of=of)
    return poisson(rate / of, begin_s, end_s, np.random.default_rng([seed, index, 1]))
