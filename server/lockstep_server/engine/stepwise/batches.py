"""All decodings of a model that have a row, in the batches that their lengths put them into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ... import messages
from .batch import NO_TOKEN, StepBatch
from .slots import is_full, key_of, lengths_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ...model.spec import ModelSpec
    from ..runtime.session import OnnxSession
    from .sequence import GenerationSequence


@dataclass
class StepOutcome:
    """What a step of every batch brought."""

    ended: list[tuple[GenerationSequence, str]] = field(default_factory=list)  # and why
    failed: list[tuple[GenerationSequence, Exception]] = field(default_factory=list)
    runs: list[messages.Run] = field(default_factory=list)


class StepBatches:
    """`enter`, `leave`, `step`: who is in `ended` or `failed` has left. `most_rows` share a run."""

    def __init__(
        self, spec: ModelSpec, session: OnnxSession, most_rows: int, clock: Callable[[], float]
    ) -> None:
        self._spec, self._session, self._most_rows, self._clock = spec, session, most_rows, clock
        self._batches: list[StepBatch] = []

    def __iter__(self) -> Iterator[StepBatch]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def clear(self) -> None:
        self._batches.clear()

    def enter(self, decoding: GenerationSequence) -> None:
        """Into the batch of its bucket that has room, or a new one."""
        assert decoding.states is not None
        key = key_of(self._spec, lengths_of(self._spec, decoding.states))
        for batch in self._batches:
            if (batch.key == key or self._spec.pads_freely) and len(batch) < self._most_rows:
                break
        else:
            batch = StepBatch(self._spec, key)
            self._batches.append(batch)
        batch.enter(decoding, self._most_rows)

    def leave(self, decoding: GenerationSequence, *, keep: bool = False) -> None:
        """Out of its row, if it has one; `keep`: with its states."""
        for batch in self._batches:
            if decoding in batch.row_of:
                batch.leave(decoding, keep=keep)
                return

    def step(self, waited_s: float) -> StepOutcome:
        """One step of all."""
        stepped = StepOutcome()
        for batch in list(self._batches):
            self._step(batch, waited_s, stepped)
        return stepped

    def _step(self, batch: StepBatch, waited_s: float, stepped: StepOutcome) -> None:
        if not len(batch):  # everyone has left since the last step
            return
        begun = self._clock()
        try:
            outputs = batch.step(self._session)
            took = self._clock() - begun
            ended = batch.choose(outputs, took)
        except Exception as error:
            self._split(batch, error, stepped)
            return
        rows = len(batch)
        stepped.runs.append(messages.Run(rows, 1, rows, batch.rows, 0.0, took, 0.0, waited_s, "stepwise"))
        stepped.failed.extend((decoding, NO_TOKEN) for decoding in batch.unfit)
        stepped.ended.extend(one for one in ended if one[0] not in batch.unfit)
        for decoding in {*batch.unfit, *(decoding for decoding, _ in ended)}:
            batch.leave(decoding)

    def _split(self, batch: StepBatch, error: Exception, stepped: StepOutcome) -> None:
        """A step failed: each of its sequences steps alone, and who fails alone has failed."""
        members = list(batch.row_of)
        self._batches.remove(batch)
        for decoding in members:
            batch.leave(decoding, keep=True)
        if len(members) == 1:
            stepped.failed.append((members[0], error))
            return
        for decoding in members:
            alone = StepBatch(self._spec, batch.key)
            self._batches.append(alone)
            alone.enter(decoding, 1)
            self._step(alone, 0.0, stepped)

    def tidy(self) -> list[GenerationSequence]:
        """Batches without anyone go, large ones shrink, who outgrew its bucket moves, and what a
        failure split comes together again. Returned: who has filled the longest cache there may be,
        and has left."""
        full: list[GenerationSequence] = []
        for batch in list(self._batches):
            for decoding in batch.outgrown():
                batch.leave(decoding, keep=True)
                assert decoding.states is not None
                if is_full(self._spec, lengths_of(self._spec, decoding.states)):
                    full.append(decoding)
                else:
                    self.enter(decoding)
            if not batch.row_of:
                self._batches.remove(batch)
            elif len(self._batches) > 1 and self._joinable(batch):
                self._batches.remove(batch)
                for decoding in list(batch.row_of):
                    batch.leave(decoding, keep=True)
                    self.enter(decoding)
            else:
                batch.fit()
        return full

    def _joinable(self, batch: StepBatch) -> bool:
        """Another batch that it may share has room for all of it."""
        return any(
            other is not batch
            and (other.key == batch.key or self._spec.pads_freely)
            and len(other) + len(batch) <= self._most_rows
            for other in self._batches
        )
