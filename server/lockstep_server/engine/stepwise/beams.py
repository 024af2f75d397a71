"""Beam search of one text, as transformers' `model.generate` does it: a pure function of scores.

log-probabilities [beams, tokens] + the scores so far → the best continuations of all beams → those that ended
are kept as candidates, the best others are the next beams: which beam each continues, and with which token
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ...messages import Generate
    from ...model.datatypes import Arrays

    Array = np.ndarray[Any, Any]

_LEAST = np.float32(-1e9)


class Candidate(NamedTuple):
    """A text that has ended."""

    score: float  # the sum of its log-probabilities, by the length penalty
    ids: tuple[int, ...]  # its end id included, if it has one
    reason: str  # "end" or "length"


@dataclass
class BeamSettings:
    beams: int
    length_penalty: float
    early_stopping: bool


class BeamSearch:
    """The beams of one text, best first.

    Attributes:
        tokens: the next input of each beam.
        states: those of each beam, while they are in no batch; empty if all are equal.
        done: no continuation can improve on the candidates, or none is left.
    """

    def __init__(self, settings: BeamSettings, ends: tuple[int, ...]) -> None:
        self._settings, self._ends = settings, ends
        self._keep = max(2, 1 + len(ends)) * settings.beams  # so that as many as `beams` have not ended
        self._scores = np.zeros(1, np.float32)  # of each beam; one until the first tokens are chosen
        self._ids = np.zeros((1, 0), np.int64)  # generated, [beams, length]
        self._candidates: list[Candidate] = []
        self.tokens = np.zeros(settings.beams, np.int64)
        self.states: list[Arrays] = []
        self.done = False

    @classmethod
    def of(cls, request: Generate, ends: tuple[int, ...]) -> BeamSearch | None:
        """The beam search that a request asks for; None if it is for a single beam."""
        if request.beams < 2:
            return None
        return cls(BeamSettings(request.beams, request.length_penalty, request.early_stopping), ends)

    @property
    def beams(self) -> int:
        return self._settings.beams

    def chosen(self, beam: int) -> list[int]:
        """The tokens that a beam has generated."""
        row: list[int] = self._ids[min(beam, len(self._ids) - 1)].tolist()
        return row

    def advance(self, scores: Array, limit: int) -> tuple[Array, Array]:
        """Choose the next token of each beam. Returns the beams that are continued, and the tokens, [beams].

        Args:
            scores: log-probabilities under the rules of the request, [beams, tokens]. Before the first token
                all beams are equal, and the first row counts.
            limit: the most tokens of a text.
        """
        tokens = scores.shape[1]
        totals = (scores[: len(self._scores)] + self._scores[:, None]).ravel()
        best = _largest(totals, self._keep)
        values, source, token = totals[best], best // tokens, best % tokens
        ids = np.concatenate([self._ids[source], token[:, None]], axis=1)
        length = ids.shape[1]
        ended = np.isin(token, self._ends)
        hits = ended | (length >= limit)
        self._collect(values[: self.beams], ids, ended, hits[: self.beams])
        running = np.where(hits, values + _LEAST, values)
        following = np.argsort(-running, kind="stable")[: self.beams]
        following = np.resize(following, self.beams)  # a small vocabulary has fewer continuations
        self._scores = running[following]
        self._scores[len(best) :] = _LEAST
        self._ids, self.tokens = ids[following], token[following]
        best_running = float(self._scores[0]) / length**self._settings.length_penalty
        is_full = len(self._candidates) == self.beams
        can_improve = not is_full or best_running > self._candidates[-1].score
        self.done = not can_improve or (is_full and self._settings.early_stopping) or bool(hits.all())
        return source[following], self.tokens

    def _collect(self, values: Array, ids: Array, ended: Array, hits: Array) -> None:
        """Keep the best texts that have ended now or before."""
        for place in np.flatnonzero(hits):
            self._add(float(values[place]), ids[place], "end" if ended[place] else "length")

    def _add(self, total: float, ids: Array, reason: str) -> None:
        score = total / len(ids) ** self._settings.length_penalty if len(ids) else total
        self._candidates.append(Candidate(score, tuple(ids.tolist()), reason))
        self._candidates.sort(key=lambda candidate: -candidate.score)
        del self._candidates[self.beams :]

    def close(self) -> None:
        """End the search although beams could go on: they are candidates as they are."""
        for total, ids in zip(self._scores, self._ids, strict=True):
            self._add(float(total), ids, "length")
        self.done = True

    def candidates(self) -> list[Candidate]:
        """The texts, best first."""
        return self._candidates


def _largest(values: Array, count: int) -> Array:
    """The indices of the largest values, largest first; of equal ones the first is the larger."""
    if count < len(values):
        chosen = np.sort(np.argpartition(-values, count - 1)[:count])
    else:
        chosen = np.arange(len(values))
    largest: Array = chosen[np.argsort(-values[chosen], kind="stable")]
    return largest


def log_softmax(scores: Array) -> Array:
    """Log-probabilities, float32 [rows, tokens]."""
    wide = scores.astype(np.float32)
    wide = wide - wide.max(axis=1, keepdims=True)
    result: Array = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return result
