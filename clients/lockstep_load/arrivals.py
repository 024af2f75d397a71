"""When requests are due, whatever becomes of those before them: the open loop's schedule, in seconds.

A schedule is split among processes so that together they are the whole: independent Poisson processes add
up to one of the summed rate, and evenly spaced arrivals are dealt out in turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

ArrivalProcess = Literal["poisson", "constant"]
_CHUNK = 1024


def poisson(rate: float, begin_s: float, end_s: float, rng: np.random.Generator) -> Iterator[float]:
    """Exponential gaps of mean 1 / rate: callers who know nothing of one another."""
    at = begin_s
    while True:
        for due in at + np.cumsum(rng.exponential(1 / rate, _CHUNK)):
            at = float(due)
            if at >= end_s:
                return
            yield at


def constant(rate: float, begin_s: float, end_s: float, *, index: int = 0, of: int = 1) -> Iterator[float]:
    """One every 1 / rate seconds; of them, those that fall to process `index` of `of`."""
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
    """The share of process `index` of `of` in a schedule of `rate` a second, in ascending order."""
    if process == "constant":
        return constant(rate, begin_s, end_s, index=index, of=of)
    return poisson(rate / of, begin_s, end_s, np.random.default_rng([seed, index, 1]))
