"""Generation sequences that step together: a block of states, and columns with their sampling data.

token column → block step → scores → sampler → token column. Each step writes the sampled tokens as
one column of a log; tokens are collected from the log only when they are reported. A step does no work
per row, except for sequences whose tokens must be inspected.
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
"""Capacity of the token log: after this many steps all rows must be collected."""

_DRAW_STEPS = 16
"""Steps that random numbers are drawn for at once."""

_SHRINK_AFTER_STEPS = 32
"""Steps that shorter rows must have sufficed for before the block shrinks to them."""

_NO_LIMIT = np.iinfo(np.int64).max
NO_TOKEN = ServingError(ErrorCode.FAILED, "the model's scores are not finite; no next token can be sampled")
_SEED_BITS = 2**64 - 1


class StepBatch:
    """A batch of generation sequences, one per row of a block."""

    def __init__(self, spec: ModelSpec, key: Key, rows: int = 1) -> None:
        self.spec = spec
        self.block = StateBlock(spec, key, rows)
        self.row_of: dict[GenerationSequence, int] = {}
        self._vacant = list(range(rows))[::-1]
        text = spec.manifest.text
        self._end_token = -1 if text is None or text.end is None else text.end
        tensor = spec.input(spec.text_input)
        assert tensor is not None
        self._input, self._dtype = tensor.name, datatypes.NUMPY[tensor.datatype]
        self._scores, self._attention = spec.manifest.roles.scores, spec.manifest.roles.attention
        self._oversized_steps = 0
        self._grows = any(state.spec.grows for state in spec.states)
        self._make_columns(rows)
        # prompt ids that still have to be stepped (no prefill graph), by row, in reverse order
        self._forced: dict[int, list[int]] = {}
        self._inspected: dict[int, GenerationSequence] = {}
        self._unreported: set[GenerationSequence] = set()
        self.without_token: list[GenerationSequence] = []
        self.steps, self.compute_s, self.rows_run = 0, 0.0, 0

    def _make_columns(self, rows: int) -> None:
        self.rows = rows
        self._token = np.zeros(rows, np.int64)
        self._seed = np.zeros(rows, np.uint64)  # from `sampler.spread`
        self._generated = np.zeros(rows, np.int64)
        self._limit = np.full(rows, _NO_LIMIT)
        self._used = np.zeros(rows, bool)
        self._sampling = sampler.SamplingParameters.of(rows, vacant=True)
        self._log = np.zeros((rows, _LOG_STEPS), np.int64)
        self._collected = np.zeros(rows, np.int64)  # log columns already collected, by row
        self._column = 0
        self._draws, self._drawn = np.zeros((rows, 1)), _DRAW_STEPS

    def _arrays(self) -> tuple[Array, ...]:
        """All columns but the sampling parameters."""
        columns = self._token, self._seed, self._generated, self._limit, self._used
        return (*columns, self._log, self._collected)

    @property
    def key(self) -> Key:
        return self.block.key

    def __len__(self) -> int:
        return len(self.row_of)

    # --- add and remove -----------------------------------------------------------------------------

    def add(self, sequence: GenerationSequence, max_rows: int) -> None:
        """Move a sequence and its states into a row. The batch grows to `max_rows` at most."""
        assert sequence.states is not None
        lengths = lengths_of(self.spec, sequence.states)
        key = widest(self.key, key_of(self.spec, lengths))
        if not self._vacant or key != self.key:
            self._resize(self.rows if self._vacant else min(self.rows * 2, bucket(max_rows)), key)
        row = self._vacant.pop()
        self.block.write(row, sequence.states, lengths)
        sequence.states = None
        self.row_of[sequence] = row
        self._fill_columns(sequence, row)
        if not sequence.reported:
            self._unreported.add(sequence)
        sequence.steps -= self.steps
        sequence.compute_s -= self.compute_s
        sequence.total_rows -= self.rows_run

    def _fill_columns(self, sequence: GenerationSequence, row: int) -> None:
        params = sequence.params
        self._token[row], self._generated[row] = sequence.token, sequence.generated
        self._limit[row] = sequence.limit
        self._seed[row : row + 1] = sampler.spread(np.array([params.seed & _SEED_BITS], np.uint64))
        self._used[row] = True
        self._drawn = _DRAW_STEPS
        self._sampling.set(row, params.temperature, params.top_k, params.top_p)
        self._collected[row] = self._column
        if sequence.prompt:
            self._forced[row] = list(sequence.prompt[::-1])
            sequence.prompt = ()
        if sequence.inspects_tokens:
            self._inspected[row] = sequence

    def remove(self, sequence: GenerationSequence, *, keep_states: bool = False) -> None:
        """Free the row of a sequence and collect its tokens; `keep_states` copies its states into it."""
        row = self.row_of.pop(sequence)
        self._collect(sequence, row)
        sequence.steps += self.steps
        sequence.compute_s += self.compute_s
        sequence.total_rows += self.rows_run
        sequence.token, sequence.generated = int(self._token[row]), int(self._generated[row])
        if keep_states:
            sequence.states = self.block.take(row)
            sequence.prompt = tuple(self._forced.get(row, ())[::-1])
        self._forced.pop(row, None)
        self._inspected.pop(row, None)
        self._unreported.discard(sequence)
        self.block.clear(row)
        self._token[row], self._limit[row], self._used[row] = 0, _NO_LIMIT, False
        self._sampling.clear(row)
        self._vacant.append(row)

    def shrink(self) -> None:
        """Resize to fewer rows if clearly fewer are needed, and to shorter rows if they have sufficed
        for a while. A resize copies all states."""
        half = self.rows // 2
        key = self.key
        if key and self.spec.padding_invariant:
            key = self.block.needed_key(list(self.row_of.values()))
            self._oversized_steps = self._oversized_steps + 1 if key != self.key else 0
        if half and len(self.row_of) <= half - half // 4:
            self._resize(half, key)
        elif self._oversized_steps >= _SHRINK_AFTER_STEPS:
            self._resize(self.rows, key)

    def _resize(self, rows: int, key: Key) -> None:
        """Change the number of rows and their lengths; the sequences move to the front, in order."""
        self._oversized_steps = 0
        kept = sorted(self.row_of.items(), key=lambda item: item[1])
        old_rows = [row for _, row in kept]
        self.block = self.block.resized(rows, old_rows, key)
        before = self._arrays()
        sampling, column = self._sampling, self._column
        self._make_columns(rows)
        self._column, count = column, len(kept)
        after = self._arrays()
        for new, old in zip(after, before, strict=True):
            new[:count] = old[old_rows]
        self._sampling.take(sampling, old_rows)
        moved = {old: new for new, old in enumerate(old_rows)}
        self._forced = {moved[row]: ids for row, ids in self._forced.items()}
        self._inspected = {moved[row]: sequence for row, sequence in self._inspected.items()}
        self.row_of = {sequence: new for new, (sequence, _) in enumerate(kept)}
        self._vacant = list(range(count, rows))[::-1]

    # --- step ---------------------------------------------------------------------------------------

    def step(self, session: OnnxSession) -> Arrays:
        """Run one step of all rows.

        Raises:
            Exception: whatever the session raises; nothing has changed then.
        """
        for row, ids in self._forced.items():
            self._token[row] = ids[-1]
        token = self._token if self._dtype == np.int64 else self._token.astype(self._dtype)
        return self.block.step(session, {self._input: token})

    def sample_tokens(self, outputs: Arrays, compute_s: float) -> list[tuple[GenerationSequence, str]]:
        """Sample each row's next token. Returns the sequences that end with it, and the reasons."""
        self.steps += 1
        self.compute_s += compute_s
        self.rows_run += len(self.row_of)
        scores = outputs[self._scores].reshape(self.rows, -1)
        u = self._draw() if self._sampling.sampled else self._draws[:, 0]
        self._token = tokens = sampler.sample(scores, u, self._sampling)
        self.without_token = self._find_without_token(tokens) if tokens.min() < 0 else []
        self._generated += 1
        self._log[:, self._column] = tokens
        self._column += 1
        if self._forced:
            self._force()
        ended = self._ended(tokens)
        if self._inspected:
            ended.extend(self._inspect(scores, outputs, tokens, ended))
        return ended

    def _find_without_token(self, tokens: Array) -> list[GenerationSequence]:
        """Sequences whose scores were not finite."""
        none = tokens < 0
        tokens[none] = 0  # the next input; of a vacant row it is only required to be in range
        return [sequence for sequence, row in self.row_of.items() if none[row]]

    def _draw(self) -> Array:
        """The random number of each row, [rows]. They are drawn for several steps at once, until the
        rows change."""
        if self._drawn == _DRAW_STEPS or self._forced:
            ahead = np.arange(_DRAW_STEPS, dtype=np.uint64)
            steps = self._generated.view(np.uint64)[:, None] + ahead
            self._draws = sampler.uniform(self._seed[:, None], steps)
            self._drawn = 0
        self._drawn += 1
        return self._draws[:, self._drawn - 1]

    def _force(self) -> None:
        """Advance forced prompts by one id. Their rows generated nothing, unless the prompt just ended."""
        for row, ids in list(self._forced.items()):
            ids.pop()
            if ids:
                self._generated[row] -= 1
                self._collected[row] = self._column
            else:
                del self._forced[row]

    def _ended(self, tokens: Array) -> list[tuple[GenerationSequence, str]]:
        done = self._generated >= self._limit
        if self._end_token >= 0:
            done |= (tokens == self._end_token) & self._used
        if not done.any():
            return []
        rows = set(np.flatnonzero(done).tolist()) - self._forced.keys()
        return [
            (sequence, "end" if tokens[row] == self._end_token else "length")
            for sequence, row in self.row_of.items()
            if row in rows
        ]

    def _inspect(
        self, scores: Array, outputs: Arrays, tokens: Array, ended: Iterable[tuple[GenerationSequence, str]]
    ) -> list[tuple[GenerationSequence, str]]:
        """Collect log-probabilities, attention and text of single rows. Returns the sequences that a stop
        string ends."""
        reasons = dict(ended)
        stopped: list[tuple[GenerationSequence, str]] = []
        log_probabilities = None
        for row, sequence in self._inspected.items():
            if row in self._forced or reasons.get(sequence) == "end":
                continue
            params, pending = sequence.params, sequence.pending
            if params.log_probabilities:
                if log_probabilities is None:
                    log_probabilities = sampler.log_probabilities(scores, tokens)
                pending.log_probabilities.append(float(log_probabilities[row]))
            if params.attention:
                pending.attention.append(self._attention_row(outputs, row))
            if params.stop:
                assert sequence.text is not None
                pending.text += sequence.text.add((int(tokens[row]),))
                if sequence.text.stopped and sequence not in reasons:
                    stopped.append((sequence, "stop"))
        return stopped

    def _attention_row(self, outputs: Arrays, row: int) -> Array:
        tensor = self.spec.output(self._attention)
        assert tensor is not None
        weights: Array = outputs[self._attention][row].reshape(-1)
        lengths = self.block.lengths(row)
        named = [lengths[name] for name in tensor.spec.lengths.values() if name in lengths]
        return weights[: named[0]].copy() if named else weights.copy()

    def outgrown(self) -> list[GenerationSequence]:
        """Sequences whose cache is full and that need the next bucket."""
        if not self._grows:
            return []
        return [sequence for sequence, row in self.row_of.items() if self.block.is_full(row)]

    # --- output -------------------------------------------------------------------------------------

    def log_is_full(self) -> bool:
        """Whether `collect_all` must be called before the next step."""
        return self._column >= _LOG_STEPS

    def take_first_tokens(self) -> list[GenerationSequence]:
        """Sequences that have generated their first tokens and not been returned here before."""
        if not self._unreported:
            return []
        ready = [sequence for sequence in self._unreported if self.row_of[sequence] not in self._forced]
        self._unreported.difference_update(ready)
        return ready

    def collect_all(self, emit: Callable[[GenerationSequence], None]) -> None:
        """Collect the tokens of all rows, and `emit` each sequence that has pending output."""
        for sequence, row in list(self.row_of.items()):
            self._collect(sequence, row)
            if sequence.pending.ids:
                emit(sequence)
        self._column = 0
        self._collected[:] = 0

    def collect(self, sequence: GenerationSequence) -> None:
        """Move a sequence's tokens from the log to its pending output."""
        self._collect(sequence, self.row_of[sequence])

    def _collect(self, sequence: GenerationSequence, row: int) -> None:
        start = self._collected[row]
        if start < self._column:
            sequence.pending.ids += self._log[row, start : self._column].tolist()
            self._collected[row] = self._column


def sample_first_token(sequence: GenerationSequence, scores: Array, end: int | None) -> str:
    """Sample the token that follows a prompt, from the prefill's scores [1, tokens].

    Returns the reason if the sequence ends with it, else "".

    Raises:
        ServingError: FAILED, the scores are not finite.
    """
    params = sequence.params
    sampling = sampler.SamplingParameters.of(1)
    sampling.set(0, params.temperature, params.top_k, params.top_p)
    seed = sampler.spread(np.array([params.seed & _SEED_BITS], np.uint64))
    tokens = sampler.sample(scores, sampler.uniform(seed, np.zeros(1, np.uint64)), sampling)
    token = sequence.token = int(tokens[0])
    if token < 0:
        raise NO_TOKEN
    sequence.generated = 1
    sequence.pending.ids.append(token)
    if token == end:
        return "end"
    if params.log_probabilities:
        sequence.pending.log_probabilities.append(float(sampler.log_probabilities(scores, tokens)[0]))
    if params.attention:
        sequence.pending.attention.append(np.zeros(0, np.float32))  # prefill graphs have no attention output
    if params.stop and sequence.text is not None:
        sequence.pending.text += sequence.text.add((token,))
        if sequence.text.stopped:
            return "stop"
    return "length" if sequence.generated >= sequence.limit else ""
