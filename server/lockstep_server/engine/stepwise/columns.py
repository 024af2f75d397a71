"""The rows of a batch as columns, one element per row, so that a step does no work per row.

scores → `RowColumns.sample` → tokens → `TokenLog` → the pending output of a sequence, when it is reported
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .sampler import SamplingParameters, sample_all, spread_one, uniform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .sequence import GenerationSequence

    Array = np.ndarray[Any, Any]

_DRAW_STEPS = 64
"""Steps that random numbers are drawn for at once, as long as the rows stay the same; fewer at first."""

_LOG_STEPS = 256
"""Capacity of the token log: after this many steps all rows must be collected."""

_NO_LIMIT = np.iinfo(np.int64).max


class RowColumns:
    """The next input, the sampling parameters and the limit of each row. A vacant row is sampled too, and
    its tokens are ignored."""

    def __init__(self, rows: int) -> None:
        self.token = np.zeros(rows, np.int64)  # input of the next step
        self._generated, self._more = np.zeros(rows, np.int64), 0  # number of tokens, and of steps since
        self._limit = np.full(rows, _NO_LIMIT)  # most tokens to generate
        self._used = np.zeros(rows, bool)
        self._sampling = SamplingParameters.of(rows, vacant=True)
        self._seed = np.zeros(rows, np.uint64)  # from `spread`
        self._draws, self._drawn = np.zeros((1, rows)), 1  # of some steps, and the number that were used
        self._before_limit = 0  # steps before a row can be at its limit
        self.complete = True  # the latest sample has a token for each row

    @property
    def generated(self) -> Array:
        """The number of tokens of each row, int64 [rows]."""
        if self._more:
            self._generated += self._more
            self._more = 0
        return self._generated

    def fill(self, row: int, sequence: GenerationSequence) -> None:
        """Set a row to the data of a sequence."""
        params = sequence.params
        self.token[row], self.generated[row] = sequence.token, sequence.generated
        self._limit[row], self._used[row] = sequence.limit, True
        self._sampling.set(row, params.temperature, params.top_k, params.top_p)
        self._seed[row : row + 1] = spread_one(params.seed)
        self._draws, self._drawn, self._before_limit = self._draws[:1], 1, 0

    def fill_beam(self, row: int, token: int, generated: int) -> None:
        """Set a row to a beam, whose tokens and end are chosen elsewhere."""
        self.clear(row)
        self.token[row], self.generated[row] = token, generated

    def clear(self, row: int) -> None:
        """Make a row vacant."""
        self.token[row], self._limit[row], self._used[row] = 0, _NO_LIMIT, False
        self._sampling.clear(row)

    def resized(self, rows: int, kept: list[int]) -> RowColumns:
        """Columns of `rows` rows, of which the first are the `kept` ones of this object."""
        new, count = RowColumns(rows), len(kept)
        new.token[:count], new.generated[:count] = self.token[kept], self.generated[kept]
        new._limit[:count], new._used[:count] = self._limit[kept], self._used[kept]
        new._seed[:count] = self._seed[kept]
        new._sampling.take(self._sampling, kept)
        return new

    def sample(
        self, scores: Any, *, redraw: bool, by: Callable[..., tuple[Array, bool]] = sample_all
    ) -> Array:
        """Sample the next token of each row, int64 [rows]; -1 where the scores are not finite.

        Args:
            scores: of the step, [rows, tokens].
            redraw: a row has generated fewer tokens than it was stepped since the last call.
            by: `sample_all`, or what does the same on a device, where the scores are.
        """
        u = self._next_draw(redraw=redraw) if self._sampling.sampled else self._draws[0]
        self.token, self.complete = by(scores, u, self._sampling)
        self._more += 1
        self._before_limit -= 1
        return self.token

    def _next_draw(self, *, redraw: bool) -> Array:
        """The random number of each row, [rows]. They are drawn for more and more steps at once, until the
        rows change."""
        if self._drawn == len(self._draws) or redraw:
            count = 1 if redraw else min(4 * len(self._draws), _DRAW_STEPS)
            ahead = np.arange(count, dtype=np.uint64)
            steps = self.generated.view(np.uint64) + ahead[:, None]
            self._draws = uniform(self._seed, steps)
            self._drawn = 0
        self._drawn += 1
        numbers: Array = self._draws[self._drawn - 1]
        return numbers

    def may_be_at_limit(self) -> bool:
        """Whether a row may be at its limit: steps are counted, as it takes longer to look at every row."""
        if self._before_limit <= 0:
            self._before_limit = int((self._limit - self.generated).min())
        return self._before_limit <= 0

    def ended(self, ends: Iterable[int]) -> Array:
        """Whether the latest token of each row is its last one: one of `ends`, or at its limit."""
        done: Array = self.generated >= self._limit
        for end in ends:
            done |= (self.token == end) & self._used
        return done


class TokenLog:
    """The tokens of the latest steps, [steps, rows]. A row's tokens are taken when they are reported."""

    def __init__(self, rows: int) -> None:
        self._tokens = np.zeros((_LOG_STEPS, rows), np.int64)
        self._added: list[Array] = []  # of the latest steps, that are not in `_tokens` yet
        self._taken = [0] * rows  # steps already taken or skipped, by row
        self._steps = 0

    def add(self, tokens: Array) -> None:
        """Add the tokens of one step, [rows]. The elements of rows that are skipped later may change."""
        self._added.append(tokens)
        self._steps += 1

    def skip(self, row: int) -> None:
        """Discard the row's tokens."""
        self._taken[row] = self._steps

    def take(self, row: int) -> list[int]:
        """The row's tokens that have not been taken, oldest first."""
        start = self._taken[row]
        if start == self._steps:
            return []
        self._taken[row] = self._steps
        tokens: list[int] = self._all()[start:, row].tolist()
        return tokens

    def take_all(self) -> list[list[int]]:
        """As `take`, of each row. The log is empty then."""
        tokens: list[list[int]] = self._all().T.tolist()
        taken = [ids[start:] if start else ids for ids, start in zip(tokens, self._taken, strict=True)]
        self.clear()
        return taken

    def _all(self) -> Array:
        """The tokens of all steps since the log was cleared, [steps, rows]."""
        if self._added:
            self._tokens[self._steps - len(self._added) : self._steps] = self._added
            self._added = []
        return self._tokens[: self._steps]

    def is_full(self) -> bool:
        return self._steps >= _LOG_STEPS

    def clear(self) -> None:
        """Discard all tokens."""
        self._steps, self._added, self._taken = 0, [], [0] * len(self._taken)

    def resized(self, rows: int, kept: list[int]) -> TokenLog:
        """A log of `rows` rows, of which the first are the `kept` ones of this log."""
        new, count = TokenLog(rows), len(kept)
        new._steps = self._steps
        new._tokens[: self._steps, :count] = self._all()[:, kept]
        new._taken[:count] = [self._taken[row] for row in kept]
        return new
