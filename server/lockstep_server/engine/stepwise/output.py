"""What an engine has to say, gathered until it is worth a crossing: first tokens and ends at once,
all else when the flush interval is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import messages
from .sequence import GenerationSequence, PendingOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ...errors import ServingError
    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ...text.detokenizer import Detokenizer
    from .batches import StepBatches
    from .sequence import StepRequest

_MOST_RUNS = 64
"""Runs that may wait to be told of."""


class OutputProcessor:
    """Gathers chunks, events and runs, and reports them together."""

    def __init__(
        self,
        spec: ModelSpec,
        pieces: Detokenizer | None,
        report: Callable[[messages.Events], None],
        clock: Callable[[], float],
    ) -> None:
        self._spec, self._pieces, self._report, self._clock = spec, pieces, report, clock
        self.flush_s = 0.0
        self._flushed = 0.0
        self._population = messages.SequenceCounts(0, 0, 0)
        self._begin()

    def _begin(self) -> None:
        self._events: list[messages.Event] = []
        self._chunks: list[messages.Chunk] = []
        self._runs: list[messages.Run] = []

    # --- gathering ----------------------------------------------------------------------------------

    def ran(self, runs: Iterable[messages.Run]) -> None:
        self._runs.extend(runs)

    def chunk(self, decoding: GenerationSequence, *, last: bool = False) -> None:
        """Say what it made, if its reader has room for a chunk; the last one always has."""
        pending = decoding.pending
        if decoding.credits <= 0 and not last:
            return
        text = self._text(decoding, last=last)
        if not (pending.ids or text):
            return
        if not decoding.told:
            decoding.first_token = self._clock()
        pieces: tuple[str, ...] = ()
        if decoding.how.attention and self._pieces is not None:
            pieces = tuple(map(self._pieces.token, pending.ids))
        source = () if decoding.told else decoding.source
        self._chunks.append(
            messages.Chunk(
                decoding.key, pending.ids, text, pending.log_probabilities, pending.attention, pieces, source
            )
        )
        decoding.pending = PendingOutput()
        decoding.credits -= 1
        decoding.told = True

    def _text(self, decoding: GenerationSequence, *, last: bool) -> str:
        """Who has stop strings has had each token's text looked at already."""
        if decoding.text is None:
            return ""
        text = decoding.pending.text if decoding.how.stop else decoding.text.add(decoding.pending.ids)
        return text + decoding.text.finish() if last else text

    def finished(self, decoding: GenerationSequence, reason: str) -> None:
        """It has ended well, and has left its row: its last chunk, and its event."""
        if reason == "end":
            decoding.pending.ids.pop()  # the end token is no text
            decoding.made -= 1
        self.chunk(decoding, last=True)
        self._events.append(
            messages.Event(decoding.key, None, None, self._timings(decoding), decoding.made, reason=reason)
        )

    def failed(self, who: GenerationSequence | StepRequest, error: ServingError) -> None:
        """What was made before is said first."""
        timings = messages.NO_TIMINGS
        if isinstance(who, GenerationSequence):
            self.chunk(who)
            timings = self._timings(who)
        self._events.append(messages.Event(who.key, None, error, timings))

    def refused(self, key: int, error: ServingError) -> None:
        self._events.append(messages.Event(key, None, error))

    def nothing_wanted(self, key: int) -> None:
        """A decoding of no tokens at all."""
        self._events.append(messages.Event(key, None, reason="length"))

    def answered(self, element: StepRequest, outputs: Arrays, timings: messages.RequestTimings) -> None:
        if element.outputs:
            outputs = {name: outputs[name] for name in element.outputs}
        self._events.append(messages.Event(element.key, outputs, None, timings, element.of.steps))

    def _timings(self, one: GenerationSequence) -> messages.RequestTimings:
        begun = one.first_run or self._clock()
        return messages.RequestTimings(
            begun - one.accepted,
            one.prefill_s + one.compute_s,
            one.steps,
            one.rows / one.steps if one.steps else 0.0,
            one.prefill_s,
            max(one.first_token - one.accepted, 0.0) if one.first_token else 0.0,
        )

    # --- saying -------------------------------------------------------------------------------------

    def speak(
        self, batches: StepBatches, now: float, population: Callable[[], messages.SequenceCounts]
    ) -> list[GenerationSequence]:
        """After a step. Returned: those whose readers have no room for what they made."""
        stopped: list[GenerationSequence] = []
        if now - self._flushed >= self.flush_s or any(batch.must_say() for batch in batches):
            self._flushed = now
            for batch in batches:
                batch.collect_all(self.chunk)
                batch.fresh()
                stopped += [one for one in batch.row_of if one.credits <= 0 and one.pending.ids]
        else:
            for batch in batches:
                for decoding in batch.fresh():
                    batch.collect(decoding)
                    self.chunk(decoding)
        if self._events or self._chunks or len(self._runs) >= _MOST_RUNS or not len(batches):
            self.say(population())
        return stopped

    def say(self, population: messages.SequenceCounts) -> None:
        """Report all that was gathered."""
        if not (self._events or self._chunks or self._runs or population != self._population):
            return
        self._population = population
        model, version, now = self._spec.name, self._spec.version, self._clock()
        events = messages.Events(model, version, self._events, self._runs, self._chunks, population, now)
        self._begin()
        self._report(events)
