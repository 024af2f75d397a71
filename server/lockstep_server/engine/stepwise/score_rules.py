"""Rules that change the scores of a row before its next token is chosen.

scores [rows, tokens] → bias → repetition and presence penalties → repeats, forbidden and end ids ruled out →
forced ids → the sampler

The rules of the model (`[generation]` in the manifest) concern all its rows, those of a request its own. They
are applied in the order of transformers' `model.generate`, to all rows at once. A batch without rules skips
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ...model.manifest import Manifest
    from .sequence import GenerationSequence

    Array = np.ndarray[Any, Any]

_NONE = -1  # no id
_MIN_CAPACITY = 64


@dataclass
class _Compiled:
    """The rules of all ruled rows as arrays; `rows` has their indices in the batch, n of them."""

    rows: Array  # int64 [n]
    repetition: Array  # float32 [n, 1]; 1: off
    presence: Array  # float32 [n, 1]; 0: off
    no_repeat: Array  # int64 [n]; 0: off
    min_tokens: Array  # int64 [n]
    limit: Array  # int64 [n]
    forced_first: int
    forced_last: int
    bias: tuple[Array, Array, Array] = field(default_factory=lambda: (np.zeros(0, np.int64),) * 3)
    forbidden: tuple[Array, Array] = field(default_factory=lambda: (np.zeros(0, np.int64),) * 2)
    seen: Array | None = None  # bool [n, tokens]: in the prompt or generated
    chosen: Array | None = None  # bool [n, tokens]: generated


class ScoreRules:
    """The rules of the rows of one batch, and the ids that each ruled row has read and generated."""

    def __init__(self, manifest: Manifest, rows: int) -> None:
        self._manifest = manifest
        self.sequences: dict[int, GenerationSequence] = {}  # those with rules, by row
        self._ids = np.zeros((rows, _MIN_CAPACITY), np.int64)  # read and generated
        self._count = np.zeros(rows, np.int64)
        self._compiled: _Compiled | None = None

    def fill(self, row: int, sequence: GenerationSequence, beam: int = 0) -> None:
        """Rule a row by what the model and the request of its sequence say, if they say anything."""
        if not has_rules(self._manifest, sequence):
            return
        self.sequences[row], self._compiled = sequence, None
        chosen = sequence.chosen if sequence.search is None else sequence.search.chosen(beam)
        ids = (*sequence.context, *chosen)
        self._make_room(len(ids))
        self._ids[row, : len(ids)] = ids
        self._count[row] = len(ids)

    def clear(self, row: int) -> None:
        """Make a row vacant. Its sequence keeps what it has generated."""
        sequence = self.sequences.pop(row, None)
        if sequence is not None:
            self._compiled = None
        if sequence is not None and sequence.search is None:
            sequence.chosen = self._ids[row, len(sequence.context) : self._count[row]].tolist()

    def gather(self, rows: Array, sources: Array) -> None:
        """Continue in `rows` what `sources` have read and generated: rows of one beam search."""
        self._ids[rows], self._count[rows] = self._ids[sources], self._count[sources]
        if self._compiled is not None and rows[0] in self.sequences:
            places, from_places = (np.searchsorted(self._compiled.rows, each) for each in (rows, sources))
            for marks in (self._compiled.seen, self._compiled.chosen):
                if marks is not None:
                    marks[places] = marks[from_places]

    def resized(self, rows: int, kept: list[int]) -> ScoreRules:
        """The rules of `rows` rows, of which the first are the `kept` ones of this object."""
        new, count = ScoreRules(self._manifest, rows), len(kept)
        new._make_room(self._ids.shape[1])
        new._ids[:count, : self._ids.shape[1]] = self._ids[kept]
        new._count[:count] = self._count[kept]
        new.sequences = {row: self.sequences[old] for row, old in enumerate(kept) if old in self.sequences}
        return new

    def apply(self, scores: Array, generated: Array) -> Array:
        """The scores [rows, tokens] under the rules, as a new float32 array.

        Args:
            generated: how many tokens each row has generated, [rows].
        """
        tokens = scores.shape[1]
        rules = self._compiled = self._compiled or self._compile(tokens)
        scores = scores.astype(np.float32, copy=True)
        ruled, made = scores[rules.rows], generated[rules.rows]
        np.add.at(ruled, rules.bias[:2], rules.bias[2])
        if rules.seen is not None:
            penalised = np.where(ruled < 0, ruled * rules.repetition, ruled / rules.repetition)
            ruled = np.where(rules.seen, penalised, ruled)
        if rules.chosen is not None:
            ruled -= rules.presence * rules.chosen
        if rules.no_repeat.any():
            self._forbid_repeats(ruled, rules)
        ruled[rules.forbidden] = -np.inf
        self._forbid_by_position(ruled, rules, made)
        scores[rules.rows] = ruled
        return scores

    def _forbid_by_position(self, ruled: Array, rules: _Compiled, made: Array) -> None:
        """Rule out, or force, ids by the number of tokens that each row has generated."""
        for end in _within(self._manifest.end, ruled.shape[1]):
            ruled[made < rules.min_tokens, end] = -np.inf
        chosen_first = int(rules.forced_first != _NONE)  # the first token that is not forced
        ids = _within(self._manifest.generation.forbidden_first, ruled.shape[1])
        if ids:
            ruled[np.flatnonzero(made == chosen_first)[:, None], ids] = -np.inf
        _force(ruled, np.flatnonzero(made == 0), rules.forced_first)
        if rules.forced_last != _NONE:
            _force(ruled, np.flatnonzero(made == rules.limit - 1), rules.forced_last)

    def _forbid_repeats(self, ruled: Array, rules: _Compiled) -> None:
        """Rule out each id that would repeat the last n ids of its row, for the rows' own n."""
        for n in set(rules.no_repeat.tolist()) - {0}:
            places = np.flatnonzero(rules.no_repeat == n)
            rows = rules.rows[places]
            counts = self._count[rows]
            longest = int(counts.max(initial=0))
            if longest < n:
                continue
            ids, starts = self._ids[rows, :longest], np.arange(longest - n + 1)
            match = starts < (counts - n + 1)[:, None]
            for offset in range(n - 1):
                last = ids[np.arange(len(rows)), np.maximum(counts - n + 1 + offset, 0)]
                match &= ids[:, offset : longest - n + 1 + offset] == last[:, None]
            found, start = np.nonzero(match)
            ruled[places[found], ids[found, start + n - 1]] = -np.inf

    def add(self, tokens: Array, skipped: Collection[int] = ()) -> None:
        """Record the tokens that were chosen, [rows], except in rows that read a prompt still."""
        rules = self._compiled
        if rules is None:
            return
        wanted = np.array([row not in skipped for row in rules.rows.tolist()], bool)
        rows, places = rules.rows[wanted], np.flatnonzero(wanted)
        self._make_room(int(self._count.max(initial=0)) + 1)
        chosen = tokens[rows]
        self._ids[rows, self._count[rows]] = chosen
        self._count[rows] += 1
        for marks in (rules.seen, rules.chosen):
            if marks is not None:
                marks[places, chosen] = True

    def _make_room(self, count: int) -> None:
        if count > self._ids.shape[1]:
            more = np.zeros(
                (len(self._ids), max(count, 2 * self._ids.shape[1]) - self._ids.shape[1]), np.int64
            )
            self._ids = np.concatenate([self._ids, more], axis=1)

    def _compile(self, tokens: int) -> _Compiled:
        rows = sorted(self.sequences)
        sequences = [self.sequences[row] for row in rows]
        params = [sequence.params for sequence in sequences]
        generation = self._manifest.generation
        compiled = _Compiled(
            np.array(rows, np.int64),
            np.array([[each.repetition_penalty] for each in params], np.float32).reshape(-1, 1),
            np.array([[each.presence_penalty] for each in params], np.float32).reshape(-1, 1),
            np.array([each.no_repeat for each in params], np.int64),
            np.array([each.min_tokens for each in params], np.int64),
            np.array([sequence.limit for sequence in sequences], np.int64),
            _NONE if generation.forced_first is None else generation.forced_first,
            _NONE if generation.forced_last is None else generation.forced_last,
        )
        biases = [(i, token, value) for i, each in enumerate(params) for token, value in each.logit_bias]
        biases = [one for one in biases if one[1] < tokens]
        if biases:
            places, ids, values = zip(*biases, strict=True)
            compiled.bias = np.array(places), np.array(ids), np.array(values, np.float32)
        forbidden = [
            (i, token)
            for i, each in enumerate(params)
            for token in _within((*generation.forbidden, *each.forbidden), tokens)
        ]
        if forbidden:
            compiled.forbidden = tuple(map(np.array, zip(*forbidden, strict=True)))  # type: ignore[assignment]
        if (compiled.repetition != 1).any():
            compiled.seen = self._marks(rows, [0] * len(rows), tokens)
        if (compiled.presence != 0).any():
            compiled.chosen = self._marks(rows, [len(one.context) for one in sequences], tokens)
        return compiled

    def _marks(self, rows: list[int], starts: list[int], tokens: int) -> Array:
        """Which ids each row has from its start on, bool [n, tokens]."""
        marks = np.zeros((len(rows), tokens), bool)
        for place, (row, start) in enumerate(zip(rows, starts, strict=True)):
            ids = self._ids[row, start : self._count[row]]
            marks[place, ids[ids < tokens]] = True
        return marks


def has_rules(manifest: Manifest, sequence: GenerationSequence) -> bool:
    """Whether anything rules the scores of a sequence."""
    params = sequence.params
    return manifest.generation.rules or bool(
        params.logit_bias
        or params.forbidden
        or params.no_repeat
        or params.repetition_penalty != 1
        or params.presence_penalty
        or (params.min_tokens and manifest.end)
    )


def _within(ids: Iterable[int], tokens: int) -> list[int]:
    return [token for token in ids if token < tokens]


def _force(ruled: Array, places: Array, token: int) -> None:
    """Leave only one id to these rows."""
    if token != _NONE and len(places):
        ruled[places] = -np.inf
        ruled[places, token] = 0
