"""Generation sequences that step together: a block of states, columns with their sampling data, and a log.

token column → block step → scores → sampler → token column. Each step writes the sampled tokens as
one column of a log; tokens are collected from the log only when they are reported. A step does no work
per row, except for sequences whose tokens must be inspected.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np

from ...model import datatypes
from ..runtime.device import DeviceArray
from . import sampler
from .beams import log_softmax
from .client_steps import cut_row, named_states
from .columns import RowColumns, TokenLog
from .sampler import next_scores
from .score_rules import ScoreRules
from .slots import StateBlock, bucket, key_of, lengths_of, widest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ... import messages
    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, ModelTensor
    from ..runtime.session import OnnxSession
    from .device_states import StateGraphs
    from .sequence import GenerationSequence
    from .slots import Key

    Array = np.ndarray[Any, Any]

_SHRINK_AFTER_STEPS = 32
"""Steps that shorter rows must have sufficed for before the block shrinks to them."""


def token_shape(tensor: ModelTensor) -> tuple[int, ...]:
    """The shape of a step's token input for any number of rows: (-1,), or (-1, 1) of [batch, sequence]."""
    shape = [1] * max(len(tensor.shape), 1)
    shape[tensor.spec.batch_axis or 0] = -1
    return tuple(shape)


class StepBatch:
    """A batch of generation sequences, one per row of a block."""

    def __init__(self, spec: ModelSpec, key: Key, rows: int = 1, graphs: StateGraphs | None = None) -> None:
        self.spec = spec
        self.block = StateBlock(spec, key, rows, graphs)
        self.row_of: dict[GenerationSequence, int] = {}  # of a beam search, the first of its rows
        self._beam_rows: dict[GenerationSequence, Array] = {}
        self._vacant = list(range(rows))[::-1]
        self._ends = spec.manifest.end
        tensor = spec.text_tensor
        assert tensor is not None
        self._sampler = graphs.sampler if graphs is not None else None
        self._input, self._dtype = tensor.name, datatypes.NUMPY[tensor.datatype]
        self._token_shape = token_shape(tensor)
        self._takes_tokens = self._token_shape == (-1,) and self._dtype == np.int64  # as they are sampled
        self._scores, self._attention = spec.manifest.roles.scores, spec.manifest.roles.attention
        scores = spec.output(self._scores)
        self._scores_axis = scores.spec.batch_axis if scores is not None else None
        self._grows = bool(spec.growing_lengths)
        self._position = scores.spec.position if scores is not None else -1
        self._fitting_step = 0  # the latest one that needed the block's lengths
        self._columns, self._log = RowColumns(rows), TokenLog(rows)
        self._rules = ScoreRules(spec.manifest, rows)
        # prompt ids that still have to be stepped (no prefill graph), by row, in reverse order
        self._forced: dict[int, list[int]] = {}
        self._inspected: dict[int, GenerationSequence] = {}
        self._unreported: set[GenerationSequence] = set()
        self.without_token: list[GenerationSequence] = []
        self._requests: tuple[int, ...] | None = ()  # None: sequences were added or removed
        self._joined: list[GenerationSequence] = []
        self._left: list[int] = []
        self.steps, self.compute_s, self.rows_run = 0, 0.0, 0

    @property
    def key(self) -> Key:
        return self.block.key

    @property
    def rows(self) -> int:
        """The number of rows, including vacant ones."""
        return self.block.rows

    def __len__(self) -> int:
        """The number of rows in use: one of each sequence, or one of each beam."""
        if not self._beam_rows:
            return len(self.row_of)
        return len(self.row_of) + sum(len(rows) - 1 for rows in self._beam_rows.values())

    @property
    def requests(self) -> tuple[int, ...]:
        """The keys of the requests whose sequences are in the batch: made once per change, not per step."""
        if self._requests is None:
            self._requests = tuple(sequence.key for sequence in self.row_of)
        return self._requests

    def take_joined(self) -> tuple[tuple[int, ...], float]:
        """The keys of the sequences of this step that were not in the step before it, and the longest wait of
        those whose first run it is."""
        if not self._joined:
            return (), 0.0
        joined, self._joined = [one for one in self._joined if one in self.row_of], []
        first = (one for one in joined if not one.prefill_s and one.steps + self.steps <= 1)
        waited = max((one.first_run_at - one.accepted for one in first), default=0.0)
        return tuple(one.key for one in joined), waited

    def take_left(self) -> tuple[int, ...]:
        """The keys of the sequences that were removed since the last call."""
        if not self._left:
            return ()
        left, self._left = tuple(self._left), []
        return left

    # --- add and remove -----------------------------------------------------------------------------

    def add(self, sequence: GenerationSequence, max_rows: int) -> None:
        """Move a sequence and its states into a row, or one for each beam. The batch grows to `max_rows` at
        most."""
        assert sequence.states is not None
        lengths = lengths_of(self.spec, sequence.states)
        key = widest(self.key, key_of(self.spec, lengths))
        if len(self._vacant) < sequence.rows or key != self.key:
            rows = self.rows
            while rows - len(self) < sequence.rows:
                rows = min(rows * 2, bucket(max_rows))
            self._resize(rows, key)
        search = sequence.search
        rows_of_it = self._vacant[-sequence.rows :][::-1]
        for beam, row in enumerate(rows_of_it):
            states = search.states[beam] if search is not None and search.states else sequence.states
            self.block.write(row, states, lengths)  # first: a device may have no memory for it
        del self._vacant[-sequence.rows :]
        for beam, row in enumerate(rows_of_it):
            self._rules.fill(row, sequence, beam)
            if sequence.prompt:
                self._forced[row] = list(sequence.prompt[::-1])
            if search is not None:
                self._columns.fill_beam(row, int(search.tokens[beam]), len(search.chosen(beam)))
        sequence.states, sequence.prompt = None, ()
        row = self.row_of[sequence] = rows_of_it[0]
        self._requests = None
        self._joined.append(sequence)
        if search is not None:
            search.states, self._beam_rows[sequence] = [], np.array(rows_of_it)
        else:
            self._columns.fill(row, sequence)
            self._log.skip(row)
            if sequence.inspects_tokens:
                self._inspected[row] = sequence
            if not sequence.reported:
                self._unreported.add(sequence)
        sequence.steps -= self.steps
        sequence.compute_s -= self.compute_s
        sequence.total_rows -= self.rows_run

    def remove(self, sequence: GenerationSequence, *, keep_states: bool = False) -> None:
        """Free the row of a sequence and collect its tokens; `keep_states` copies its states into it."""
        row = self.row_of.pop(sequence)
        self._requests = None
        self._left.append(sequence.key)
        rows: list[int] = self._beam_rows.pop(sequence, np.array([row])).tolist()
        if sequence.search is None:
            sequence.pending.ids += self._log.take(row)
            sequence.token = int(self._columns.token[row])
            sequence.generated = int(self._columns.generated[row])
        sequence.steps += self.steps
        sequence.compute_s += self.compute_s
        sequence.total_rows += self.rows_run
        if keep_states:
            sequence.states = self.block.take(row)
            sequence.prompt = tuple(self._forced.get(row, ())[::-1])
            if sequence.search is not None:
                sequence.search.states = [self.block.take(each) for each in rows]
        self._inspected.pop(row, None)
        self._unreported.discard(sequence)
        for each in rows:
            self._forced.pop(each, None)
            self.block.clear(each)
            self._columns.clear(each)
            self._rules.clear(each)
            self._vacant.append(each)

    def shrink(self) -> None:
        """Resize to fewer rows if clearly fewer are needed, and to shorter rows if they have sufficed
        for a while. A resize copies all states."""
        half = self.rows // 2
        key = self.key
        if key and self.spec.padding_invariant:
            key = self.block.needed_key(list(self.row_of.values()))
        if key == self.key:
            self._fitting_step = self.steps
        if half and len(self) <= half - half // 4:
            self._resize(half, key)
        elif self.steps - self._fitting_step >= _SHRINK_AFTER_STEPS:
            self._resize(self.rows, key)

    def _resize(self, rows: int, key: Key) -> None:
        """Change the number of rows and their lengths; the sequences move to the front, in order."""
        self._fitting_step = self.steps
        beams = [row for each in self._beam_rows.values() for row in each.tolist()]
        old_rows = sorted({*self.row_of.values(), *beams})
        self.block = self.block.resized(rows, old_rows, key)
        self._columns = self._columns.resized(rows, old_rows)
        self._log = self._log.resized(rows, old_rows)
        self._rules = self._rules.resized(rows, old_rows)
        moved = {old: new for new, old in enumerate(old_rows)}
        self._forced = {moved[row]: ids for row, ids in self._forced.items()}
        self._inspected = {moved[row]: sequence for row, sequence in self._inspected.items()}
        self.row_of = {sequence: moved[row] for sequence, row in self._in_order()}
        self._beam_rows = {
            sequence: np.array([moved[row] for row in each.tolist()])
            for sequence, each in self._beam_rows.items()
        }
        self._vacant = list(range(len(old_rows), rows))[::-1]

    def _in_order(self) -> list[tuple[GenerationSequence, int]]:
        return sorted(self.row_of.items(), key=lambda item: item[1])

    # --- step ---------------------------------------------------------------------------------------

    def step(self, session: OnnxSession, *, observed: bool = False) -> dict[str, Any]:
        """Run one step of all rows. Its scores stay on the device if nobody but the sampler needs them.

        Args:
            observed: the outputs are needed on the host.

        Raises:
            Exception: whatever the session raises; nothing has changed then.
        """
        for row, ids in self._forced.items():
            self._columns.token[row] = ids[-1]
        on_device = (
            self._scores if self._sampler is not None and not observed and self._only_samples() else ""
        )
        return self.block.step(session, self._token_input(slice(None)), on_device)

    def _only_samples(self) -> bool:
        """Whether no row has rules, beams or log-probabilities."""
        of_scores = (one.params.log_probabilities or one.params.top for one in self._inspected.values())
        return not (self._rules.sequences or self._beam_rows or any(of_scores))

    def _token_input(self, rows: slice) -> Arrays:
        token = self._columns.token[rows]
        if self._takes_tokens:
            return {self._input: token}
        token = token.astype(self._dtype, copy=False)
        return {self._input: token.reshape(self._token_shape)}

    def observe(self, most: int) -> list[tuple[int, Arrays, Arrays, dict[str, int]]]:
        """Rows of at most so many sequences before a step: row, input, states and lengths of each."""
        rows = random.sample(sorted(self.row_of.values()), min(most, len(self.row_of)))
        for row, ids in self._forced.items():
            self._columns.token[row] = ids[-1]
        return [
            (
                row,
                {name: token.copy() for name, token in self._token_input(slice(row, row + 1)).items()},
                self.block.take(row),
                self.block.lengths(row),
            )
            for row in rows
        ]

    def answer(self, row: int, outputs: Arrays, lengths: dict[str, int]) -> Arrays:
        """A row's outputs of a step, and its states after it. `lengths` are those before it."""
        cut = {t.name: cut_row(t, outputs[t.name], row, self.rows, lengths) for t in self.spec.outputs}
        return {**cut, **named_states(self.block.take(row))}

    def sample_tokens(self, outputs: Arrays, compute_s: float) -> list[tuple[GenerationSequence, str]]:
        """Sample each row's next token. Returns the sequences that end with it, and the reasons."""
        self.steps += 1
        self.compute_s += compute_s
        self.rows_run += len(self)
        scores: Any = outputs[self._scores]
        ruled: Any = scores
        if isinstance(scores, DeviceArray):
            tokens = self._sample(scores)
        else:
            if scores.ndim != 2 or self._scores_axis != 0:
                scores = next_scores(scores, self._scores_axis, self.rows, self._position)
            ruled = self._ruled(scores) if self._beam_rows or self._rules.sequences else scores
            tokens = self._columns.sample(ruled, redraw=bool(self._forced))
        self.without_token = [] if self._columns.complete else self._find_without_token(tokens)
        self._log.add(tokens)
        if self._forced:
            self._force()
        ended = self._ended(tokens) if self._ends or self._columns.may_be_at_limit() else []
        if self._beam_rows:
            ended += self._advance_searches(ruled, tokens)
        if self._rules.sequences:
            self._rules.add(tokens, self._forced)
        if self._inspected:
            stopped = self._inspect(scores, outputs, tokens, ended)
            ended = [one for one in ended if one[0] not in stopped] + [(one, "stop") for one in stopped]
        return ended

    def _sample(self, scores: DeviceArray) -> Array:
        assert self._sampler is not None
        return self._columns.sample(scores, redraw=bool(self._forced), by=self._sampler.sample_all)

    def _ruled(self, scores: Array) -> Array:
        """The scores of all rows that tokens are chosen from."""
        chosen_from = self._with_log_probabilities(scores) if self._beam_rows else scores
        if not self._rules.sequences:
            return chosen_from
        return self._rules.apply(chosen_from, self._columns.generated)

    def _with_log_probabilities(self, scores: Array) -> Array:
        """The scores, with the log-probabilities in the rows of beams."""
        rows = np.concatenate(list(self._beam_rows.values()))
        mixed = scores.astype(np.float32, copy=True)
        mixed[rows] = log_softmax(scores[rows])
        return mixed

    def _advance_searches(self, ruled: Array, tokens: Array) -> list[tuple[GenerationSequence, str]]:
        """Choose the tokens of all beams, and continue in each row the beam that is continued. Returns the
        sequences whose search is done, and the reasons."""
        ended = []
        for sequence, rows in self._beam_rows.items():
            search = sequence.search
            assert search is not None
            if rows[0] in self._forced or sequence in self.without_token:
                continue
            source, tokens[rows] = search.advance(ruled[rows], sequence.limit)
            self.block.gather(rows, rows[source])
            self._rules.gather(rows, rows[source])
            if search.done:
                ended.append((sequence, sequence.end_search()))
        return ended

    def _find_without_token(self, tokens: Array) -> list[GenerationSequence]:
        """Sequences whose scores were not finite."""
        none = tokens < 0
        tokens[none] = 0  # the next input; of a vacant row it is only required to be in range
        return [
            sequence
            for sequence, row in self.row_of.items()
            if none[self._beam_rows.get(sequence, row)].any()
        ]

    def _force(self) -> None:
        """Advance forced prompts by one id. Their rows generated nothing, unless the prompt just ended."""
        for row, ids in list(self._forced.items()):
            ids.pop()
            if ids:
                self._columns.generated[row] -= 1
                self._log.skip(row)
            else:
                del self._forced[row]

    def _ended(self, tokens: Array) -> list[tuple[GenerationSequence, str]]:
        done = self._columns.ended(self._ends)
        if not done.any():
            return []
        rows = set(np.flatnonzero(done).tolist()) - self._forced.keys()
        return [
            (sequence, "end" if tokens[row] in self._ends else "length")
            for sequence, row in self.row_of.items()
            if row in rows
        ]

    def _inspect(
        self, scores: Array, outputs: Arrays, tokens: Array, ended: Iterable[tuple[GenerationSequence, str]]
    ) -> list[GenerationSequence]:
        """Collect log-probabilities, attention and text of single rows. Returns the sequences that a stop
        string ends, also those that reach their limit with it."""
        reasons = dict(ended)
        stopped: list[GenerationSequence] = []
        log_probabilities = None
        top = self._top_tokens(scores)
        for row, sequence in self._inspected.items():
            if row in self._forced or reasons.get(sequence) == "end":
                continue
            params, pending = sequence.params, sequence.pending
            if params.log_probabilities:
                if log_probabilities is None:
                    log_probabilities = sampler.log_probabilities(scores, tokens)
                pending.log_probabilities.append(float(log_probabilities[row]))
            if params.top:
                pending.top.append(top[row])
            if params.attention:
                pending.attention.append(self._attention_row(outputs, row))
            if params.stop:
                assert sequence.text is not None
                pending.text += sequence.text.add((int(tokens[row]),))
                if sequence.text.stopped:
                    stopped.append(sequence)
        return stopped

    def _top_tokens(self, scores: Array) -> dict[int, messages.TopTokens]:
        """The most probable tokens of the rows whose requests want them."""
        wanted = {row: one.params.top for row, one in self._inspected.items() if one.params.top}
        if not wanted:
            return {}
        found = sampler.top_tokens(scores[list(wanted)], list(wanted.values()))
        return dict(zip(wanted, found, strict=True))

    def _attention_row(self, outputs: Arrays, row: int) -> Array:
        tensor = self.spec.output(self._attention)
        assert tensor is not None
        weights: Array = outputs[self._attention][row].reshape(-1)
        lengths = self.block.lengths(row)
        named = [lengths[name] for name in tensor.spec.lengths.values() if name in lengths]
        return weights[: named[0]].copy() if named else weights.copy()

    def can_step_on(self) -> bool:
        """Whether another step may come before the batch is looked at."""
        if self._unreported or self._log.is_full() or not self.row_of:
            return False
        return not (self._grows and self.outgrown())

    def outgrown(self) -> list[GenerationSequence]:
        """Sequences whose cache is full and that need the next bucket."""
        if not self.spec.growing_lengths:
            return []
        full = self.block.full_rows()
        return [sequence for sequence, row in self.row_of.items() if full[row]] if full.any() else []

    # --- output -------------------------------------------------------------------------------------

    def log_is_full(self) -> bool:
        """Whether `collect_all` must be called before the next step."""
        return self._log.is_full()

    def take_first_tokens(self) -> list[GenerationSequence]:
        """Sequences that have generated their first tokens and not been returned here before."""
        if not self._unreported:
            return []
        ready = [sequence for sequence in self._unreported if self.row_of[sequence] not in self._forced]
        self._unreported.difference_update(ready)
        return ready

    def collect_all(self, emit: Callable[[GenerationSequence], None]) -> None:
        """Collect the tokens of all rows, and `emit` each sequence that has pending output."""
        tokens = self._log.take_all()
        for sequence, row in list(self.row_of.items()):
            if sequence.search is not None:
                continue
            pending = sequence.pending
            if pending.ids:
                pending.ids += tokens[row]
            else:
                pending.ids = tokens[row]
            if pending.ids:
                emit(sequence)

    def collect(self, sequence: GenerationSequence) -> None:
        """Move a sequence's tokens from the log to its pending output."""
        sequence.pending.ids += self._log.take(self.row_of[sequence])
