"""Distributions of request lengths.

`lognormal:20,0.6,max=200` (notation) → `parse` → `Lengths` → `draw`: lengths from a seeded generator.
lengths_file.py reads files and the bundled counts of real data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

MAX_LENGTH = 1_000_000
"""Longest accepted length in elements; a longer one is taken for a typing error."""


class Lengths(Protocol):
    """A distribution of lengths."""

    @property
    def name(self) -> str:
        """The notation or file that it was read from."""

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        """Draw `count` lengths, each 1 or more."""


@dataclass(frozen=True)
class EmpiricalLengths:
    """Lengths weighted by their counts."""

    name: str
    values: tuple[int, ...]
    weights: tuple[float, ...]

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        shares = np.array(self.weights) / sum(self.weights)
        return rng.choice(np.array(self.values, np.int64), count, p=shares)


@dataclass(frozen=True)
class LogNormal:
    """Log-normal, which fits sentences and prompts; `sigma` is the standard deviation of the logarithm."""

    name: str
    median: float
    sigma: float
    least: int
    most: int

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        drawn = rng.lognormal(np.log(self.median), self.sigma, count)
        return np.clip(np.rint(drawn), self.least, self.most).astype(np.int64)


@dataclass(frozen=True)
class Bimodal:
    """Short lengths and, with probability `share`, long lengths; both vary by 10%."""

    name: str
    short: float
    long: float
    share: float
    most: int

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        modes = np.where(rng.random(count) < self.share, self.long, self.short)
        drawn = modes * rng.lognormal(0.0, 0.1, count)
        return np.clip(np.rint(drawn), 1, self.most).astype(np.int64)


NOTATIONS = (
    "20 or fixed:20",
    "uniform:5,50",
    "lognormal:MEDIAN,SIGMA[,min=N][,max=N]",
    "zipf:EXPONENT,max=N",
    "bimodal:SHORT,LONG,SHARE_OF_LONG[,max=N]",
)


def parse(notation: str) -> Lengths | None:
    """Parse a notation; None if it is not one (it may be a file name).

    Raises ValueError if a parameter is wrong.
    """
    kind, colon, rest = notation.partition(":")
    if notation.isdecimal():
        kind, rest = "fixed", notation
    elif not colon or kind not in _KINDS:
        return None
    positional, named = _numbers(notation, rest)
    try:
        return _KINDS[kind](notation, *positional, **named)
    except TypeError:
        raise ValueError(f"lengths {notation!r}: use the form {_usage(kind)}") from None


def _fixed(name: str, length: float) -> Lengths:
    return EmpiricalLengths(name, (_length(name, length),), (1.0,))


def _uniform(name: str, least: float, most: float) -> Lengths:
    low, high = _length(name, least), _length(name, most)
    if low > high:
        raise ValueError(f"lengths {name!r}: the minimum {low} is more than the maximum {high}")
    return EmpiricalLengths(name, tuple(range(low, high + 1)), (1.0,) * (high - low + 1))


def _lognormal(
    name: str, median: float, sigma: float, *, least: float = 1, most: float = MAX_LENGTH
) -> Lengths:
    if not (0 < median <= MAX_LENGTH and 0 <= sigma <= 5):
        raise ValueError(f"lengths {name!r}: the median must be above 0 and sigma from 0 to 5")
    return LogNormal(name, median, sigma, _length(name, least), _length(name, most))


def _zipf(name: str, exponent: float, *, most: float) -> Lengths:
    if not 0 <= exponent <= 10:
        raise ValueError(f"lengths {name!r}: the exponent must be from 0 to 10")
    values = np.arange(1, _length(name, most) + 1)
    return EmpiricalLengths(name, tuple(values.tolist()), tuple((values ** -float(exponent)).tolist()))


def _bimodal(name: str, short: float, long: float, share: float, *, most: float = MAX_LENGTH) -> Lengths:
    if not 0 <= share <= 1:
        raise ValueError(f"lengths {name!r}: the share of long lengths must be from 0 to 1")
    return Bimodal(name, _length(name, short), _length(name, long), share, _length(name, most))


_KINDS: dict[str, Callable[..., Lengths]] = {
    "fixed": _fixed, "uniform": _uniform, "lognormal": _lognormal, "zipf": _zipf, "bimodal": _bimodal,
}  # fmt: skip


_NAMED = {"min": "least", "max": "most"}


def _numbers(notation: str, rest: str) -> tuple[list[float], dict[str, Any]]:
    positional: list[float] = []
    named: dict[str, Any] = {}
    for part in rest.split(","):
        key, equals, value = part.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"lengths {notation!r}: {value.strip()!r} is not a number") from None
        if equals:
            named[_NAMED.get(key.strip(), key.strip())] = number
        else:
            positional.append(number)
    return positional, named


def _length(notation: str, value: float) -> int:
    if not 1 <= value <= MAX_LENGTH:
        raise ValueError(f"lengths {notation!r}: {value:g} is not a length; use 1 to {MAX_LENGTH:,}")
    return round(value)


def _usage(kind: str) -> str:
    return next(one for one in NOTATIONS if kind in one)
