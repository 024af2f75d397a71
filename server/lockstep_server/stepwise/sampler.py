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
class Choices:
    """How each of `rows` rows is sampled: columns, with a row's own at its place.

    `cuts`, `greedy` and `hot` say whether any row cuts its candidates, takes the best, or has a
    temperature other than 1: what no row wants costs nothing.
    """

    temperature: Array  # float32 [rows]; 0 is greedy
    top_k: Array  # int64 [rows]; 0 is all
    top_p: Array  # float64 [rows]; 1 is all
    greedy: bool = False
    cuts: bool = False
    hot: bool = False

    @classmethod
    def of(cls, rows: int) -> Choices:
        return cls(np.ones(rows, np.float32), np.zeros(rows, np.int64), np.ones(rows))

    def set(self, row: int, temperature: float = 1, top_k: int = 0, top_p: float = 1) -> None:
        self.temperature[row], self.top_k[row], self.top_p[row] = temperature, top_k, top_p
        self.note()

    def note(self) -> None:
        """Look again at what the rows want; to be called when a column has changed."""
        self.greedy = bool((self.temperature == 0).any())
        self.hot = bool((self.temperature != 1).any())
        self.cuts = bool((self.top_k > 0).any() or (self.top_p < 1).any())


def uniform(seed: Array, step: Array) -> Array:
    """Numbers in [0, 1), float64 [rows], one for each (seed, step), both uint64 [rows].

    SplitMix64 (Steele, Lea and Flood 2014) of the seed, as the start of a second SplitMix64 that is
    entered at the step: a function of the two, with no state to keep.
    """
    bits = _mixed(_mixed(seed + _GOLDEN) + (step + np.uint64(1)) * _GOLDEN)
    numbers: Array = (bits >> _SHIFT_12) * _UNIT
    return numbers


def _mixed(bits: Array) -> Array:
    bits = (bits ^ (bits >> _SHIFT_30)) * _MIX_1
    bits = (bits ^ (bits >> _SHIFT_27)) * _MIX_2
    return bits ^ (bits >> _SHIFT_31)


def sample(scores: Array, u: Array, choices: Choices) -> Array:
    """Token ids, int64 [rows].

    Args:
        scores: what the model gives before any softmax, floating point [rows, tokens].
        u: in [0, 1), float64 [rows].
        choices: of the same rows.
    """
    scores = scores.astype(np.float32, copy=False)
    best = scores.max(axis=1, keepdims=True)
    weights = scores - best  # a new array: what follows works in place
    if choices.hot:
        weights *= _inverse(choices.temperature)[:, None]
    np.exp(weights, out=weights)
    if choices.cuts:
        _cut(scores, weights, choices)
    sums = np.cumsum(weights, axis=1, dtype=np.float64)
    tokens: Array = (sums > u[:, None] * sums[:, -1:]).argmax(axis=1)
    if choices.greedy:
        rows = choices.temperature == 0
        tokens[rows] = scores[rows].argmax(axis=1)
    return tokens


def _inverse(temperature: Array) -> Array:
    """Of a greedy row 1: what is sampled for it is thrown away."""
    return np.float32(1) / np.where(temperature == 0, np.float32(1), temperature)


def _cut(scores: Array, weights: Array, choices: Choices) -> None:
    """Give the weight 0 to what lies outside a row's top-k, then outside its top-p, in place.

    Of equal scores the lower id counts as the better.
    """
    rows = np.flatnonzero((choices.top_k > 0) | (choices.top_p < 1))
    order = np.argsort(-scores[rows], axis=1, kind="stable")
    ranked = np.take_along_axis(weights[rows], order, axis=1).astype(np.float64)
    count = ranked.shape[1]
    top_k = np.where(choices.top_k[rows] > 0, choices.top_k[rows], count)
    ranked[np.arange(count) >= top_k[:, None]] = 0.0
    before = np.cumsum(ranked, axis=1) - ranked
    # The token that reaches top_p is in; the first one always is.
    out = (before >= choices.top_p[rows][:, None] * ranked.sum(axis=1, keepdims=True)) & (
        choices.top_p[rows] < 1
    )[:, None]
    out[:, 0] = False
    out |= np.arange(count) >= top_k[:, None]
    removed = np.zeros_like(out)
    np.put_along_axis(removed, order, out, axis=1)
    cut = weights[rows]
    cut[removed] = 0.0
    weights[rows] = cut


def log_probabilities(scores: Array, tokens: Array) -> Array:
    """Of each row's token under the model itself, before temperature and cuts: float64 [rows]."""
    wide = scores.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(wide, tokens[:, None], axis=1)[:, 0]
    result: Array = chosen - np.log(np.exp(wide).sum(axis=1))
    return result
