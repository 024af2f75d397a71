"""All running generation sequences of a model, batched by the buckets of their lengths."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ... import messages
from ...errors import ErrorCode, ServingError
from ..recorder import OFF
from ..runtime.batching import RowMismatch
from ..runtime.engine_threads import not_after
from .batch import StepBatch
from .client_steps import recheck
from .sampler import NO_TOKEN
from .slots import group_of, is_full, key_of, lengths_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ...model.spec import ModelSpec
    from ..recorder import ModelRecorder
    from ..runtime.batching import Batching
    from ..runtime.session import OnnxSession
    from ..runtime.verification import Verifier
    from .sequence import GenerationSequence


NO_BEAMS = ServingError(
    ErrorCode.FAILED, "beams share each run, and the model is not batched; send 1 beam, or see its notice"
)


_Step = tuple[float, int, int, float, float, tuple[int, ...], tuple[tuple[int, ...], float], tuple[int, ...]]
"""What is recorded of a step: when it began, its rows, without and with vacant ones, seconds in the session
and waiting for the device, its requests, those that joined and their wait, and those that left."""


@dataclass
class StepOutcome:
    """The result of one step of every batch."""

    ended: list[tuple[GenerationSequence, str]] = field(default_factory=list)  # with reasons
    failed: list[tuple[GenerationSequence, Exception]] = field(default_factory=list)
    runs: list[messages.Run] = field(default_factory=list)
    steps: list[_Step] = field(default_factory=list)  # that are not in `runs` yet


class StepBatches:
    """Adds, removes and steps sequences. As many share a run as `batching` allows.

    `step` removes the sequences that it returns in `ended` and `failed`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        session: OnnxSession,
        batching: Batching,
        clock: Callable[[], float],
        verifier: Verifier | None = None,
        recorder: ModelRecorder | None = None,
    ) -> None:
        self._recorder = recorder or OFF.of(spec)
        self._spec, self._session, self._batching, self._clock = spec, session, batching, clock
        self._verifier, self._step_s = verifier, 0.0
        self._batches: list[StepBatch] = []

    def __iter__(self) -> Iterator[StepBatch]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def state_bytes(self) -> int:
        """The bytes of the states of all rows, padding and vacant rows included."""
        return sum(batch.block.nbytes for batch in self._batches)

    def clear(self) -> None:
        self._batches.clear()

    def add(self, sequence: GenerationSequence) -> None:
        """Add a sequence to a batch of its bucket that has room, or to a new batch."""
        assert sequence.states is not None
        key = key_of(self._spec, lengths_of(self._spec, sequence.states))
        group = group_of(self._spec, key)
        for batch in self._batches:
            rows = len(batch) + sequence.rows
            if group_of(self._spec, batch.key) == group and rows <= self._batching.max_rows:
                break
        else:
            batch = StepBatch(self._spec, key, graphs=self._session.state_graphs)
            self._batches.append(batch)
        batch.add(sequence, max(self._batching.max_rows, sequence.rows))  # `step` ends a search of too many

    def remove(self, sequence: GenerationSequence, *, keep_states: bool = False) -> bool:
        """Remove a sequence from its batch; `keep_states` copies its states into it. False: it is in none."""
        for batch in self._batches:
            if sequence in batch.row_of:
                batch.remove(sequence, keep_states=keep_states)
                return True
        return False

    def step(self, waited_s: float) -> StepOutcome:
        """Run one step of every batch."""
        outcome = StepOutcome()
        for batch in list(self._batches):
            if len(batch) > self._batching.max_rows:  # batching was withdrawn
                self._end_searches(batch, outcome)
                self._separate(batch)
        for batch in list(self._batches):
            self._step(batch, waited_s, outcome)
        self.record(outcome)
        return outcome

    def can_step_on(self) -> bool:
        """Whether another step may come before `tidy` and before first tokens are emitted."""
        if len(self._batches) > 1 and any(map(self._can_merge, self._batches)):
            return False
        for batch in self._batches:
            if not batch.can_step_on():
                return False
        return bool(self._batches)

    def step_on(self, outcome: StepOutcome) -> None:
        """Run one more step of every batch. `record` adds it to `outcome.runs`."""
        for batch in list(self._batches):
            self._step(batch, 0.0, outcome)

    def record(self, outcome: StepOutcome) -> None:
        """Record the latest steps, and add them to `outcome.runs`: many at once, as that takes less time than
        each after its step."""
        for begun, rows, with_vacant, took, device_s, requests, (joined, waited), left in outcome.steps:
            run = messages.Run.of_step(rows, with_vacant, took, device_s)
            outcome.runs.append(run)
            self._recorder.add("step", begun, rows, run, requests, waited, joined, left)
        outcome.steps.clear()

    def _end_searches(self, batch: StepBatch, outcome: StepOutcome) -> None:
        """End the beam searches whose beams may no longer share a run."""
        for sequence in [one for one in batch.row_of if one.rows > self._batching.max_rows]:
            batch.remove(sequence)
            outcome.failed.append((sequence, NO_BEAMS))

    def _step(self, batch: StepBatch, waited_s: float, outcome: StepOutcome) -> None:
        rows = len(batch)
        if not rows:  # all sequences were removed since the last step
            return
        verifier, observed = self._verifier, []
        if verifier is not None and rows > 1 and verifier.is_due(self._step_s):
            observed = batch.observe(verifier.most_rows(rows))
        begun = self._clock()
        try:
            outputs = batch.step(self._session, observed=bool(observed))
            took = self._step_s = self._clock() - begun
            for row, inputs, states, lengths in observed:
                assert verifier is not None
                answer = batch.answer(row, outputs, lengths)
                again = recheck(self._spec, self._session, inputs, states, answer, rows)
                verifier.collected.append(again)
            ended = batch.sample_tokens(outputs, took)
        except Exception as error:
            self._split(batch, error, outcome)
            return
        requests, joined, padded_rows = batch.requests, batch.take_joined(), batch.block.rows
        if ended or batch.without_token:
            outcome.failed.extend((sequence, NO_TOKEN) for sequence in batch.without_token)
            outcome.ended.extend(item for item in ended if item[0] not in batch.without_token)
            for sequence in {*batch.without_token, *(sequence for sequence, _ in ended)}:
                batch.remove(sequence)
        outcome.steps.append((begun, rows, padded_rows, took, waited_s, requests, joined, batch.take_left()))

    def _split(self, batch: StepBatch, error: Exception, outcome: StepOutcome) -> None:
        """Retry the sequences of a failed step one by one; only those that fail again have failed."""
        if isinstance(error, RowMismatch):
            self._batching.withdraw(error.message)
        if self._session.terminated:  # a retry of each would delay the stop
            self._batches.remove(batch)
            for sequence in list(batch.row_of):
                batch.remove(sequence)
                outcome.failed.append((sequence, error))
            return
        if len(batch.row_of) == 1:
            (sequence,) = batch.row_of
            self._batches.remove(batch)
            batch.remove(sequence, keep_states=True)
            outcome.failed.append((sequence, error))
            return
        skipped: Exception | None = None
        for single in self._separate(batch):
            if skipped := skipped or not_after(outcome.failed[-1][1] if outcome.failed else None):
                (sequence,) = single.row_of
                self._batches.remove(single)
                outcome.failed.append((sequence, skipped))
            else:
                self._step(single, 0.0, outcome)

    def _separate(self, batch: StepBatch) -> list[StepBatch]:
        """Give each sequence of a batch a batch of its own."""
        self._batches.remove(batch)
        singles = []
        for sequence in list(batch.row_of):
            batch.remove(sequence, keep_states=True)
            singles.append(StepBatch(self._spec, batch.key, graphs=self._session.state_graphs))
            singles[-1].add(sequence, sequence.rows)
        self._batches += singles
        return singles

    def tidy(self) -> list[GenerationSequence]:
        """Remove empty batches, shrink sparse ones, move sequences that outgrew their bucket, and merge
        batches that a failure split.

        Returns:
            Sequences removed because their cache has reached the model's maximum length.
        """
        full: list[GenerationSequence] = []
        for batch in list(self._batches):
            for sequence in batch.outgrown():
                batch.remove(sequence, keep_states=True)
                assert sequence.states is not None
                if is_full(self._spec, lengths_of(self._spec, sequence.states)):
                    full.append(sequence)
                else:
                    self.add(sequence)
            if not batch.row_of:
                self._batches.remove(batch)
            elif len(self._batches) > 1 and self._can_merge(batch):
                self._batches.remove(batch)
                for sequence in list(batch.row_of):
                    batch.remove(sequence, keep_states=True)
                    self.add(sequence)
            else:
                batch.shrink()
        return full

    def _can_merge(self, batch: StepBatch) -> bool:
        """Whether another batch can take all sequences of this one."""
        return any(
            other is not batch
            and group_of(self._spec, other.key) == group_of(self._spec, batch.key)
            and len(other) + len(batch) <= self._batching.max_rows
            for other in self._batches
        )
