"""Samples the next token of each row: a pure function of its scores, a random number and its parameters.

scores [rows, tokens] → temperature → top-k → top-p → probabilities → cumulative sum → the first
token whose sum exceeds u. Rows are independent, so batching changes no token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import messages
from ...errors import ErrorCode, ServingError

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

NO_TOKEN = ServingError(ErrorCode.FAILED, "the model's scores are not finite; no next token can be sampled")

_MANY = 512
"""Tokens from which on they are summed in parts."""

_ONE = np.float32(2.0**40)
"""The largest weight as an integer. The sum of fewer than `_MANY` is exact as a double, too."""

_MOST_SUMMED = 2**22
"""Weights of which all sums are integers of 64 bits."""

_PART = 64
_RANKED = 256
"""The largest weights, which usually are all that top-p keeps."""

_MIN_TEMPERATURE = 1e-6
"""A lower temperature is greedy: its inverse would overflow in float32."""

_SEED_BITS = 2**64 - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31, _SHIFT_12 = (np.uint64(n) for n in (30, 27, 31, 12))
_UNIT = 2.0**-52  # one bit less than a double, so that u * sum < sum despite rounding


@dataclass(slots=True)
class SamplingParameters:
    """Sampling parameters as columns, one element per row.

    `sampled`, `greedy`, `tempered` and `cuts` are true if any row is sampled, is greedy, has a temperature
    other than 1, or uses top-k or top-p. Work that no row needs is skipped.
    """

    temperature: Array  # float32 [rows]; 0 is greedy
    top_k: Array  # int64 [rows]; 0 is all
    top_p: Array  # float64 [rows]; 1 is all
    inverse: Array  # float32 [rows, 1]: 1 / temperature; 1 for greedy rows
    vacant: Array  # bool [rows]: no sequence uses the row
    sampled: bool = True
    greedy: bool = False
    tempered: bool = False
    cuts: bool = False
    held: Any = None  # what `device_sampler.py` keeps of them on a device until they change

    @classmethod
    def of(cls, rows: int, *, vacant: bool = False) -> SamplingParameters:
        """Parameters of `rows` rows that are sampled at temperature 1, or are vacant."""
        ones = np.ones(rows, np.float32)
        return cls(
            ones,
            np.zeros(rows, np.int64),
            np.ones(rows),
            ones[:, None].copy(),
            np.full(rows, vacant),
            sampled=not vacant,
        )

    def set(self, row: int, temperature: float = 1, top_k: int = 0, top_p: float = 1) -> None:
        temperature = temperature if temperature >= _MIN_TEMPERATURE else 0
        self.temperature[row], self.top_k[row], self.top_p[row] = temperature, top_k, top_p
        self.vacant[row] = False
        self._update_flags()

    def clear(self, row: int) -> None:
        self.set(row)
        self.vacant[row] = True
        self._update_flags()

    def take(self, other: SamplingParameters, rows: list[int]) -> None:
        """Copy `rows` of another object into the first rows of this one."""
        count = len(rows)
        for column, source in (
            (self.temperature, other.temperature),
            (self.top_k, other.top_k),
            (self.top_p, other.top_p),
            (self.vacant, other.vacant),
        ):
            column[:count] = source[rows]
        self._update_flags()

    def _update_flags(self) -> None:
        greedy_rows = self.temperature == 0
        self.inverse[:, 0] = 1 / np.where(greedy_rows, 1, self.temperature)
        self.greedy = bool(greedy_rows.any())
        self.sampled = not (greedy_rows | self.vacant).all()
        self.tempered = bool((self.inverse != 1).any())
        self.cuts = bool((self.top_k > 0).any() or (self.top_p < 1).any())
        self.held = None


def spread(seed: Array) -> Array:
    """Mix seeds, uint64 [rows], for `uniform`, so that adjacent seeds give unrelated numbers."""
    return _mixed(seed + _GOLDEN)


def spread_one(seed: int) -> Array:
    """`spread` of one seed, uint64 [1]; of a negative or large seed the lowest 64 bits count."""
    return spread(np.array([seed & _SEED_BITS], np.uint64))


def uniform(spread_seed: Array, step: Array) -> Array:
    """Random numbers in [0, 1), float64 [rows], one for each (seed, step), both uint64 [rows].

    Counter-based: SplitMix64 (Steele, Lea and Flood 2014) of the seed starts a second SplitMix64, which is
    evaluated at the step. There is no state to keep.
    """
    numbers: Array = (_mixed(spread_seed + step * _GOLDEN) >> _SHIFT_12) * _UNIT
    return numbers


def _mixed(bits: Array) -> Array:
    bits = (bits ^ (bits >> _SHIFT_30)) * _MIX_1
    bits = (bits ^ (bits >> _SHIFT_27)) * _MIX_2
    mixed: Array = bits ^ (bits >> _SHIFT_31)
    return mixed


def next_scores(scores: Array, batch_axis: int | None, rows: int, position: int = -1) -> Array:
    """Scores of the next token, [rows, tokens], of an output that may have a time axis, of which `position`
    counts. Without a batch axis, the output is that of one row."""
    if batch_axis is None:
        return scores.reshape(-1, scores.shape[-1])[[position]]
    if scores.ndim > 2:
        scores = scores[:, position] if batch_axis == 0 else scores[position]
    return scores.reshape(rows, -1)


def sample(scores: Array, u: Array, parameters: SamplingParameters) -> Array:
    """Sample token ids, int64 [rows]; -1 where the scores are not finite.

    Args:
        scores: logits, floating point [rows, tokens].
        u: random numbers in [0, 1), float64 [rows].
        parameters: of the same rows.
    """
    return sample_all(scores, u, parameters)[0]


def sample_all(scores: Array, u: Array, parameters: SamplingParameters) -> tuple[Array, bool]:
    """As `sample`, and whether each row has a token."""
    scores = scores.astype(np.float32, copy=False)
    if not parameters.sampled:
        tokens = _best(scores)
        return tokens, bool(np.minimum.reduce(tokens) >= 0)
    # Functions, as methods would run more Python; the session has evicted it all from the caches.
    largest = np.maximum.reduce(scores, axis=1, keepdims=True)
    if not math.isfinite(np.add.reduce(largest, axis=None, dtype=np.float64)):
        return _sample_finite(scores, u, parameters, np.isfinite(largest)), False
    weights = scores - largest  # the steps below work in place
    if parameters.tempered:
        weights *= parameters.inverse
    np.exp(weights, out=weights)
    if parameters.cuts:
        _cut(weights, parameters)
    few = weights.shape[1] < _MANY
    tokens = _drawn_of_few(weights, u) if few else _drawn_by_parts(weights.astype(np.float64), u)
    if parameters.greedy:
        rows = parameters.temperature == 0
        tokens[rows] = _best(scores[rows])
    return tokens, True


def _sample_finite(scores: Array, u: Array, parameters: SamplingParameters, finite: Array) -> Array:
    """As `sample`, of rows of which the largest score is finite, bool [rows, 1], or not."""
    tokens = sample(np.where(finite, scores, 0), u, parameters)
    tokens[~finite[:, 0]] = -1
    return tokens


def _drawn_of_few(weights: Array, u: Array) -> Array:
    """The token of each row at which the sum of weights exceeds `u` of their total. The weights, at most 1,
    are changed.

    They are summed as integers, so that the order does not matter: all rows in one sum, in which each row's
    token is looked up.
    """
    rows, count = weights.shape
    if weights.size > _MOST_SUMMED:
        halves = slice(rows // 2), slice(rows // 2, None)
        return np.concatenate([_drawn_of_few(weights[half], u[half]) for half in halves])
    weights *= _ONE
    sums = weights.astype(np.int64).reshape(-1)
    np.add.accumulate(sums, out=sums)
    ends = sums[count - 1 :: count]
    if rows == 1:
        first: Array = sums.searchsorted((u * ends).astype(np.int64), side="right")
        return first
    begins = np.empty(rows, np.int64)
    begins[0] = 0
    begins[1:] = ends[:-1]
    drawn = (u * (ends - begins)).astype(np.int64)
    drawn += begins
    tokens: Array = sums.searchsorted(drawn, side="right")
    tokens -= _row_starts(rows, count)
    return tokens


@lru_cache(64)
def _row_starts(rows: int, count: int) -> Array:
    """The index of each row's first element among all, [rows]."""
    return np.arange(0, rows * count, count)


def _drawn(weights: Array, u: Array) -> Array:
    """The token of each row at which the sum of weights exceeds `u` of their total, summed one by one, in
    place."""
    sums = np.add.accumulate(weights, axis=1, out=weights)
    tokens: Array = (sums > (u * sums[:, -1])[:, None]).argmax(axis=1)
    return tokens


def _drawn_by_parts(weights: Array, u: Array) -> Array:
    """As `_drawn`, for many tokens: sums of parts first, then within one part. Where the order of a sum could
    decide, `_drawn` does."""
    rows, count = weights.shape
    every = np.arange(rows)
    parts = np.add.reduceat(weights, np.arange(0, count, _PART), axis=1)
    ends = np.add.accumulate(parts, axis=1)
    drawn = u * ends[:, -1]
    part = (ends > drawn[:, None]).argmax(axis=1)
    places = np.minimum((part * _PART)[:, None] + np.arange(_PART), count - 1)
    within = np.add.accumulate(weights[every[:, None], places], axis=1)
    within += (ends[every, part] - parts[every, part])[:, None]
    tokens: Array = places[every, (within > drawn[:, None]).argmax(axis=1)]
    apart = np.minimum(*(np.abs(sums - drawn[:, None]).min(axis=1) for sums in (ends, within)))
    unsure = np.flatnonzero(~(apart > _rounding(count) * ends[:, -1]))
    if len(unsure):
        tokens[unsure] = _drawn(weights[unsure], u[unsure])
    return tokens


def _rounding(count: int) -> float:
    """How much sums of so many weights in different orders, and shares of them, may differ, of the total."""
    return count * 2.0**-50


def _best(scores: Array) -> Array:
    tokens: Array = scores.argmax(axis=1)
    tokens[~np.isfinite(scores[np.arange(len(tokens)), tokens])] = -1  # NaN counts as the largest
    return tokens


def _cut(weights: Array, parameters: SamplingParameters) -> None:
    """Set the weights of tokens outside a row's top-k, then outside its top-p, to 0, in place.

    Tokens that tie with the last kept token are kept.
    """
    rows = np.flatnonzero((parameters.top_k > 0) | (parameters.top_p < 1))
    cut = weights[rows]
    cut[cut < _least_kept(cut, parameters.top_k[rows], parameters.top_p[rows])[:, None]] = 0
    weights[rows] = cut


def _least_kept(weights: Array, top_k: Array, top_p: Array) -> Array:
    """The least weight that each row keeps. Of many weights, only the largest are sorted, if these decide."""
    count = weights.shape[1]
    few = max(_RANKED, int(top_k.max()))
    if 4 * few > count:
        return _least_of(np.sort(weights, axis=1)[:, ::-1], top_k, top_p)
    ranked = np.sort(np.partition(weights, count - few, axis=1)[:, count - few :], axis=1)[:, ::-1]
    if not (top_p < 1).any():
        return _least_of(ranked, top_k, top_p)
    totals = np.add.reduce(weights, axis=1, dtype=np.float64)
    least = _least_of(ranked, top_k, top_p, totals)
    # Those rows may keep more, or the order of a sum could decide.
    sums = np.cumsum(ranked, axis=1, dtype=np.float64)
    apart = np.abs(sums - (top_p * totals)[:, None]).min(axis=1)
    sure = (top_k > 0) | ((apart > _rounding(count) * totals) & (sums[:, -1] > top_p * totals))
    rest = np.flatnonzero(~sure)
    if len(rest):
        least[rest] = _least_of(np.sort(weights[rest], axis=1)[:, ::-1], top_k[rest], top_p[rest])
    return least


def _least_of(ranked: Array, top_k: Array, top_p: Array, totals: Array | None = None) -> Array:
    """The least weight that each row keeps, of its largest ones, sorted. `totals` are the sums of all
    weights, if there are more."""
    every, count = np.arange(len(ranked)), ranked.shape[1]
    last = np.where(top_k > 0, np.minimum(top_k, count), count) - 1
    if (top_p < 1).any():
        sums = np.cumsum(ranked, axis=1, dtype=np.float64)
        considered = sums[every, last]
        if totals is not None:
            considered = np.where(top_k > 0, considered, totals)
        wanted = np.where(top_p < 1, top_p * considered, np.inf)
        last = np.minimum(last, (sums < wanted[:, None]).sum(axis=1))
    least: Array = ranked[every, last]
    return least


def log_probabilities(scores: Array, tokens: Array) -> Array:
    """Log-probability of each row's token, before temperature, top-k and top-p: float64 [rows]."""
    wide = scores.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(wide, tokens[:, None], axis=1)[:, 0]
    result: Array = chosen - np.log(np.exp(wide).sum(axis=1))
    return result


def top_tokens(scores: Array, counts: list[int]) -> list[messages.TopTokens]:
    """The most probable tokens of each row, as many as its count, with their log-probabilities as
    `log_probabilities` has them."""
    most = min(max(counts), scores.shape[1])
    wide = scores.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    best = np.argpartition(-wide, most - 1, axis=1)[:, :most]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(wide, best, 1), axis=1), 1)
    values = np.take_along_axis(wide, best, 1)
    return [
        messages.TopTokens(ids[:count], some[:count])
        for ids, some, count in zip(best.tolist(), values.tolist(), counts, strict=True)
    ]
