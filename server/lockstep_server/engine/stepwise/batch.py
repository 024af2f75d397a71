"""Decodings that step together: a block of states, and a column for all that choosing needs.

token column -> block step -> scores -> sampler -> token column. What is made is written into a log,
a column a step, and said when a stream's turn comes: a step touches no row by itself, unless its
sequence wants each token looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ErrorCode, ServingError
from ...model import datatypes
from . import sampler
from .slots import StateBlock, bucket, key_of, lengths_of, widest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ..runtime.session import OnnxSession
    from .sequence import GenerationSequence
    from .slots import Key

    Array = np.ndarray[Any, Any]

_LOG_STEPS = 256
"""Steps that may pass before all must be said."""

_DRAWN_STEPS = 16
_ROOMY_STEPS = 32
"""Steps for which shorter rows would have done."""

_NEVER = np.iinfo(np.int64).max
NO_TOKEN = ServingError(ErrorCode.FAILED, "the model's scores are not finite numbers: there is no next token")
_SEED_BITS = 2**64 - 1


class StepBatch:
    """Rows of one block. `enter` and `leave` are a decoding's coming and going."""

    def __init__(self, spec: ModelSpec, key: Key, rows: int = 1) -> None:
        self.spec = spec
        self.block = StateBlock(spec, key, rows)
        self.row_of: dict[GenerationSequence, int] = {}
        self._vacant = list(range(rows))[::-1]
        text = spec.manifest.text
        self._end = -1 if text is None or text.end is None else text.end
        tensor = spec.input(spec.text_input)
        assert tensor is not None
        self._input, self._dtype = tensor.name, datatypes.NUMPY[tensor.datatype]
        self._scores, self._attention = spec.manifest.roles.scores, spec.manifest.roles.attention
        self._roomy = 0
        self._grows = any(state.spec.grows for state in spec.states)
        self._columns(rows)
        self._forced: dict[int, list[int]] = {}  # prompts without a prefill graph, the next id last
        self._watched: dict[int, GenerationSequence] = {}
        self._fresh: set[GenerationSequence] = set()
        self.unfit: list[GenerationSequence] = []
        self.steps, self.compute_s, self.rows_run = 0, 0.0, 0

    def _columns(self, rows: int) -> None:
        self.rows = rows
        self._token = np.zeros(rows, np.int64)
        self._seed = np.zeros(rows, np.uint64)  # spread
        self._made = np.zeros(rows, np.int64)
        self._limit = np.full(rows, _NEVER)
        self._taken = np.zeros(rows, bool)
        self._choices = sampler.SampledTokens.of(rows, idle=True)
        self._log = np.zeros((rows, _LOG_STEPS), np.int64)
        self._said = np.zeros(rows, np.int64)  # columns of the log that each row's stream has had
        self._column = 0
        self._draws, self._drawn = np.zeros((rows, 1)), _DRAWN_STEPS

    @property
    def key(self) -> Key:
        return self.block.key

    def __len__(self) -> int:
        return len(self.row_of)

    # --- coming and going ---------------------------------------------------------------------------

    def enter(self, decoding: GenerationSequence, most_rows: int) -> None:
        """Give the decoding a row, with the states that it carries. `most_rows` bounds them."""
        assert decoding.states is not None
        lengths = lengths_of(self.spec, decoding.states)
        key = widest(self.key, key_of(self.spec, lengths))
        if not self._vacant or key != self.key:
            self._resize(self.rows if self._vacant else min(self.rows * 2, bucket(most_rows)), key)
        row = self._vacant.pop()
        self.block.write(row, decoding.states, lengths)
        decoding.states = None
        self.row_of[decoding] = row
        self._fill(decoding, row)
        if not decoding.told:
            self._fresh.add(decoding)
        decoding.steps -= self.steps
        decoding.compute_s -= self.compute_s
        decoding.rows -= self.rows_run

    def _fill(self, decoding: GenerationSequence, row: int) -> None:
        how = decoding.how
        self._token[row], self._made[row], self._limit[row] = decoding.token, decoding.made, decoding.limit
        self._seed[row : row + 1] = sampler.spread(np.array([how.seed & _SEED_BITS], np.uint64))
        self._taken[row] = True
        self._drawn = _DRAWN_STEPS
        self._choices.set(row, how.temperature, how.top_k, how.top_p)
        self._said[row] = self._column
        if decoding.prompt:
            self._forced[row] = list(decoding.prompt[::-1])
            decoding.prompt = ()
        if decoding.attentive:
            self._watched[row] = decoding

    def leave(self, decoding: GenerationSequence, *, keep: bool = False) -> None:
        """Take the decoding's row away; `keep`: it carries its states and its unsaid tokens along."""
        row = self.row_of.pop(decoding)
        self._collect(decoding, row)
        decoding.steps += self.steps
        decoding.compute_s += self.compute_s
        decoding.rows += self.rows_run
        decoding.token, decoding.made = int(self._token[row]), int(self._made[row])
        if keep:
            decoding.states = self.block.take(row)
            decoding.prompt = tuple(self._forced.get(row, ())[::-1])
        self._forced.pop(row, None)
        self._watched.pop(row, None)
        self._fresh.discard(decoding)
        self.block.clear(row)
        self._token[row], self._limit[row], self._taken[row] = 0, _NEVER, False
        self._choices.clear(row)
        self._vacant.append(row)

    def fit(self) -> None:
        """Move to fewer rows once clearly fewer are needed, and to shorter ones once they have been
        needed for a while: it copies all there is."""
        half = self.rows // 2
        key = self.key
        if key and self.spec.pads_freely:
            key = self.block.needed(list(self.row_of.values()))
            self._roomy = self._roomy + 1 if key != self.key else 0
        if half and len(self.row_of) <= half - half // 4:
            self._resize(half, key)
        elif self._roomy >= _ROOMY_STEPS:
            self._resize(self.rows, key)

    def _resize(self, rows: int, key: Key) -> None:
        """Another number of rows, other lengths; the decodings keep their order and move to the front."""
        self._roomy = 0
        kept = sorted(self.row_of.items(), key=lambda one: one[1])
        old_rows = [row for _, row in kept]
        self.block = self.block.resized(rows, old_rows, key)
        before = (self._token, self._seed, self._made, self._limit, self._taken, self._log, self._said)
        choices, column = self._choices, self._column
        self._columns(rows)
        self._column, count = column, len(kept)
        after = (self._token, self._seed, self._made, self._limit, self._taken, self._log, self._said)
        for new, old in zip(after, before, strict=True):
            new[:count] = old[old_rows]
        self._choices.take(choices, old_rows)
        moved = {old: new for new, old in enumerate(old_rows)}
        self._forced = {moved[row]: ids for row, ids in self._forced.items()}
        self._watched = {moved[row]: one for row, one in self._watched.items()}
        self.row_of = {decoding: new for new, (decoding, _) in enumerate(kept)}
        self._vacant = list(range(count, rows))[::-1]

    # --- a step -------------------------------------------------------------------------------------

    def step(self, session: OnnxSession) -> Arrays:
        """Run all rows once.

        Raises:
            Exception: whatever the session raises; nothing has changed.
        """
        for row, ids in self._forced.items():
            self._token[row] = ids[-1]
        token = self._token if self._dtype == np.int64 else self._token.astype(self._dtype)
        return self.block.step(session, {self._input: token})

    def choose(self, outputs: Arrays, compute_s: float) -> list[tuple[GenerationSequence, str]]:
        """Each row's next token; the decodings that have ended by it, and why."""
        self.steps += 1
        self.compute_s += compute_s
        self.rows_run += len(self.row_of)
        scores = outputs[self._scores].reshape(self.rows, -1)
        u = self._draw() if self._choices.sampled else self._draws[:, 0]
        self._token = tokens = sampler.sample(scores, u, self._choices)
        self.unfit = self._without_token(tokens) if tokens.min() < 0 else []
        self._made += 1
        self._log[:, self._column] = tokens
        self._column += 1
        if self._forced:
            self._force()
        ended = self._ended(tokens)
        if self._watched:
            ended.extend(self._watch(scores, outputs, tokens, ended))
        return ended

    def _without_token(self, tokens: Array) -> list[GenerationSequence]:
        """Those whose scores were no numbers to choose by."""
        none = tokens < 0
        tokens[none] = 0  # what the row takes in next: of a vacant row, anything in range
        return [decoding for decoding, row in self.row_of.items() if none[row]]

    def _draw(self) -> Array:
        """Each row's random number. They are drawn for some steps at once, while the rows stay."""
        if self._drawn == _DRAWN_STEPS or self._forced:
            ahead = np.arange(_DRAWN_STEPS, dtype=np.uint64)
            steps = self._made.view(np.uint64)[:, None] + ahead
            self._draws = sampler.uniform(self._seed[:, None], steps)
            self._drawn = 0
        self._drawn += 1
        return self._draws[:, self._drawn - 1]

    def _force(self) -> None:
        """Rows still within their prompts made nothing, but for those whose prompt has just ended."""
        for row, ids in list(self._forced.items()):
            ids.pop()
            if ids:
                self._made[row] -= 1
                self._said[row] = self._column
            else:
                del self._forced[row]

    def _ended(self, tokens: Array) -> list[tuple[GenerationSequence, str]]:
        over = self._made >= self._limit
        if self._end >= 0:
            over |= (tokens == self._end) & self._taken
        if not over.any():
            return []
        rows = set(np.flatnonzero(over).tolist()) - self._forced.keys()
        return [
            (decoding, "end" if tokens[row] == self._end else "length")
            for decoding, row in self.row_of.items()
            if row in rows
        ]

    def _watch(
        self, scores: Array, outputs: Arrays, tokens: Array, ended: Iterable[tuple[GenerationSequence, str]]
    ) -> list[tuple[GenerationSequence, str]]:
        """What single rows want to know of their tokens; those that a stop string ends."""
        over = dict(ended)
        stopped: list[tuple[GenerationSequence, str]] = []
        chances = None
        for row, decoding in self._watched.items():
            if row in self._forced or over.get(decoding) == "end":
                continue
            how, pending = decoding.how, decoding.pending
            if how.log_probabilities:
                chances = sampler.log_probabilities(scores, tokens) if chances is None else chances
                pending.log_probabilities.append(float(chances[row]))
            if how.attention:
                pending.attention.append(self._attention_row(outputs, row))
            if how.stop:
                assert decoding.text is not None
                pending.text += decoding.text.add((int(tokens[row]),))
                if decoding.text.stopped and decoding not in over:
                    stopped.append((decoding, "stop"))
        return stopped

    def _attention_row(self, outputs: Arrays, row: int) -> Array:
        tensor = self.spec.output(self._attention)
        assert tensor is not None
        weights: Array = outputs[self._attention][row].reshape(-1)
        lengths = self.block.lengths(row)
        named = [lengths[name] for name in tensor.spec.lengths.values() if name in lengths]
        return weights[: named[0]].copy() if named else weights.copy()

    def outgrown(self) -> list[GenerationSequence]:
        """Those whose cache is full: they belong into the next bucket."""
        if not self._grows:
            return []
        return [decoding for decoding, row in self.row_of.items() if self.block.full(row)]

    # --- saying -------------------------------------------------------------------------------------

    def must_say(self) -> bool:
        """The log is full."""
        return self._column >= _LOG_STEPS

    def fresh(self) -> list[GenerationSequence]:
        """Those that have made their first tokens and not been told."""
        if not self._fresh:
            return []
        ready = [one for one in self._fresh if self.row_of[one] not in self._forced]
        self._fresh.difference_update(ready)
        return ready

    def collect_all(self, say: Callable[[GenerationSequence], None]) -> None:
        """Say all that was made."""
        for decoding, row in list(self.row_of.items()):
            self._collect(decoding, row)
            if decoding.pending.ids:
                say(decoding)
        self._column = 0
        self._said[:] = 0

    def collect(self, decoding: GenerationSequence) -> None:
        """Take what one made out of the log, into its `unsaid`."""
        self._collect(decoding, self.row_of[decoding])

    def _collect(self, decoding: GenerationSequence, row: int) -> None:
        said = self._said[row]
        if said < self._column:
            decoding.pending.ids += self._log[row, said : self._column].tolist()
            self._said[row] = self._column


def first_token(decoding: GenerationSequence, scores: Array, end: int | None) -> str:
    """Choose the token that follows a prompt, from its scores [1, tokens]; why the decoding has ended
    with it, or nothing."""
    how = decoding.how
    choices = sampler.SampledTokens.of(1)
    choices.set(0, how.temperature, how.top_k, how.top_p)
    seed = sampler.spread(np.array([how.seed & _SEED_BITS], np.uint64))
    tokens = sampler.sample(scores, sampler.uniform(seed, np.zeros(1, np.uint64)), choices)
    token = decoding.token = int(tokens[0])
    if token < 0:
        raise NO_TOKEN
    decoding.made = 1
    decoding.pending.ids.append(token)
    if token == end:
        return "end"
    if how.log_probabilities:
        decoding.pending.log_probabilities.append(float(sampler.log_probabilities(scores, tokens)[0]))
    if how.attention:
        decoding.pending.attention.append(np.zeros(0, np.float32))  # a prefill graph tells of none
    if how.stop and decoding.text is not None:
        decoding.pending.text += decoding.text.add((token,))
        if decoding.text.stopped:
            return "stop"
    return "length" if decoding.made >= decoding.limit else ""
