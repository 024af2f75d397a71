"""All decodings of a model that have a row, in the batches that their lengths put them into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import port
from .batch import NO_TOKEN, Batch
from .slots import is_full, key_of, lengths_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..models.card import Card
    from ..models.session import Session
    from .sequence import Decoding


@dataclass
class Stepped:
    """What a step of every batch brought."""

    ended: list[tuple[Decoding, str]] = field(default_factory=list)  # and why
    failed: list[tuple[Decoding, Exception]] = field(default_factory=list)
    runs: list[port.Run] = field(default_factory=list)


class Batches:
    """`enter`, `leave`, `step`: who is in `ended` or `failed` has left. `most_rows` share a run."""

    def __init__(self, card: Card, session: Session, most_rows: int, clock: Callable[[], float]) -> None:
        self._card, self._session, self._most_rows, self._clock = card, session, most_rows, clock
        self._batches: list[Batch] = []

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def clear(self) -> None:
        self._batches.clear()

    def enter(self, decoding: Decoding) -> None:
        """Into the batch of its bucket that has room, or a new one."""
        assert decoding.states is not None
        key = key_of(self._card, lengths_of(self._card, decoding.states))
        for batch in self._batches:
            if (batch.key == key or self._card.pads_freely) and len(batch) < self._most_rows:
                break
        else:
            batch = Batch(self._card, key)
            self._batches.append(batch)
        batch.enter(decoding, self._most_rows)

    def leave(self, decoding: Decoding, *, keep: bool = False) -> None:
        """Out of its row, if it has one; `keep`: with its states."""
        for batch in self._batches:
            if decoding in batch.row_of:
                batch.leave(decoding, keep=keep)
                return

    def step(self, waited_s: float) -> Stepped:
        """One step of all."""
        stepped = Stepped()
        for batch in list(self._batches):
            self._step(batch, waited_s, stepped)
        return stepped

    def _step(self, batch: Batch, waited_s: float, stepped: Stepped) -> None:
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
        stepped.runs.append(port.Run(rows, 1, rows, batch.rows, 0.0, took, 0.0, waited_s, "stepwise"))
        stepped.failed.extend((decoding, NO_TOKEN) for decoding in batch.unfit)
        stepped.ended.extend(one for one in ended if one[0] not in batch.unfit)
        for decoding in {*batch.unfit, *(decoding for decoding, _ in ended)}:
            batch.leave(decoding)

    def _split(self, batch: Batch, error: Exception, stepped: Stepped) -> None:
        """A step failed: each of its sequences steps alone, and who fails alone has failed."""
        members = list(batch.row_of)
        self._batches.remove(batch)
        for decoding in members:
            batch.leave(decoding, keep=True)
        if len(members) == 1:
            stepped.failed.append((members[0], error))
            return
        for decoding in members:
            alone = Batch(self._card, batch.key)
            self._batches.append(alone)
            alone.enter(decoding, 1)
            self._step(alone, 0.0, stepped)

    def tidy(self) -> list[Decoding]:
        """Batches without anyone go, large ones shrink, who outgrew its bucket moves, and what a
        failure split comes together again. Returned: who has filled the longest cache there may be,
        and has left."""
        full: list[Decoding] = []
        for batch in list(self._batches):
            for decoding in batch.outgrown():
                batch.leave(decoding, keep=True)
                assert decoding.states is not None
                if is_full(self._card, lengths_of(self._card, decoding.states)):
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

    def _joinable(self, batch: Batch) -> bool:
        """Another batch that it may share has room for all of it."""
        return any(
            other is not batch
            and (other.key == batch.key or self._card.pads_freely)
            and len(other) + len(batch) <= self._most_rows
            for other in self._batches
        )
