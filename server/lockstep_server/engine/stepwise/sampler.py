"""The next token of each row: a pure function of its scores, a random number and its parameters.

scores [rows, tokens] -> temperature -> top-k -> top-p -> probabilities -> cumulative sum -> the
first token whose sum exceeds u. No row looks at another, so company changes no choice, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31, _SHIFT_12 = (np.uint64(n) for n in (30, 27, 31, 12))
_UNIT = 2.0**-52  # one bit short of a double's: u times a sum stays below the sum, whatever the rounding


@dataclass(slots=True)
class SampledTokens:
    """How each of `rows` rows is sampled: columns, with a row's own at its place.

    `sampled`, `greedy`, `hot` and `cuts` say whether any row is sampled, takes the best, has a
    temperature other than 1, or cuts its candidates: what no row wants costs nothing.
    """

    temperature: Array  # float32 [rows]; 0 is greedy
    top_k: Array  # int64 [rows]; 0 is all
    top_p: Array  # float64 [rows]; 1 is all
    inverse: Array  # float32 [rows, 1]: of the temperature; of a greedy row 1
    idle: Array  # bool [rows]: nobody wants this row's token
    sampled: bool = True
    greedy: bool = False
    hot: bool = False
    cuts: bool = False

    @classmethod
    def of(cls, rows: int, *, idle: bool = False) -> SampledTokens:
        """Rows that are sampled at temperature 1, or that nobody is in."""
        ones = np.ones(rows, np.float32)
        nobody = np.full(rows, idle)
        return cls(
            ones, np.zeros(rows, np.int64), np.ones(rows), ones[:, None].copy(), nobody, sampled=not idle
        )

    def set(self, row: int, temperature: float = 1, top_k: int = 0, top_p: float = 1) -> None:
        self.temperature[row], self.top_k[row], self.top_p[row] = temperature, top_k, top_p
        self.idle[row] = False
        self._note()

    def clear(self, row: int) -> None:
        self.set(row)
        self.idle[row] = True
        self._note()

    def take(self, other: SampledTokens, rows: list[int]) -> None:
        """The first rows are as those `rows` of the other."""
        count = len(rows)
        for mine, its in (
            (self.temperature, other.temperature),
            (self.top_k, other.top_k),
            (self.top_p, other.top_p),
            (self.idle, other.idle),
        ):
            mine[:count] = its[rows]
        self._note()

    def _note(self) -> None:
        cold = self.temperature == 0
        self.inverse[:, 0] = 1 / np.where(cold, 1, self.temperature)
        self.greedy = bool(cold.any())
        self.sampled = not (cold | self.idle).all()
        self.hot = bool((self.inverse != 1).any())
        self.cuts = bool((self.top_k > 0).any() or (self.top_p < 1).any())


def spread(seed: Array) -> Array:
    """What `uniform` wants of seeds, uint64 [rows]: near ones, far apart."""
    return _mixed(seed + _GOLDEN)


def uniform(spread_seed: Array, step: Array) -> Array:
    """Numbers in [0, 1), float64 [rows], one for each (seed, step), both uint64 [rows].

    SplitMix64 (Steele, Lea and Flood 2014) of the seed, as the start of a second SplitMix64 that is
    entered at the step: a function of the two, with no state to keep.
    """
    numbers: Array = (_mixed(spread_seed + step * _GOLDEN) >> _SHIFT_12) * _UNIT
    return numbers


def _mixed(bits: Array) -> Array:
    bits = (bits ^ (bits >> _SHIFT_30)) * _MIX_1
    bits = (bits ^ (bits >> _SHIFT_27)) * _MIX_2
    mixed: Array = bits ^ (bits >> _SHIFT_31)
    return mixed


def sample(scores: Array, u: Array, choices: SampledTokens) -> Array:
    """Token ids, int64 [rows]; -1 where the scores are not finite numbers that one could choose by.

    Args:
        scores: what the model gives before any softmax, floating point [rows, tokens].
        u: in [0, 1), float64 [rows].
        choices: of the same rows.
    """
    scores = scores.astype(np.float32, copy=False)
    if not choices.sampled:
        return _best(scores)
    best = scores.max(axis=1, keepdims=True)
    weights = scores - best  # a new array: what follows works in place
    if choices.hot:
        weights *= choices.inverse
    np.exp(weights, out=weights)
    if choices.cuts:
        _cut(weights, choices)
    sums = np.cumsum(weights, axis=1, dtype=np.float64)
    tokens: Array = (sums > u[:, None] * sums[:, -1:]).argmax(axis=1)
    if not np.isfinite(sums[:, -1]).all():
        tokens[~np.isfinite(sums[:, -1])] = -1
    if choices.greedy:
        rows = choices.temperature == 0
        tokens[rows] = _best(scores[rows])
    return tokens


def _best(scores: Array) -> Array:
    tokens: Array = scores.argmax(axis=1)
    tokens[np.isnan(scores[np.arange(len(tokens)), tokens])] = -1  # NaN counts as the largest
    return tokens


def _cut(weights: Array, choices: SampledTokens) -> None:
    """Give the weight 0 to what lies outside a row's top-k, then outside its top-p, in place.

    Both keep what is as good as the last one that they keep.
    """
    rows = np.flatnonzero((choices.top_k > 0) | (choices.top_p < 1))
    own = weights[rows]
    count, every = own.shape[1], np.arange(len(rows))
    ranked = np.sort(own, axis=1)[:, ::-1]
    top_k, top_p = choices.top_k[rows], choices.top_p[rows]
    last = np.where(top_k > 0, np.minimum(top_k, count), count) - 1
    if (top_p < 1).any():
        sums = np.cumsum(ranked, axis=1, dtype=np.float64)
        wanted = np.where(top_p < 1, top_p * sums[every, last], np.inf)
        last = np.minimum(last, (sums < wanted[:, None]).sum(axis=1))
    own[own < ranked[every, last][:, None]] = 0
    weights[rows] = own


def log_probabilities(scores: Array, tokens: Array) -> Array:
    """Of each row's token under the model itself, before temperature and cuts: float64 [rows]."""
    wide = scores.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(wide, tokens[:, None], axis=1)[:, 0]
    result: Array = chosen - np.log(np.exp(wide).sum(axis=1))
    return result
