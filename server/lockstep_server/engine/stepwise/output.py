"""The engine's output, gathered into one `Events` message per flush: first tokens and final events are
sent after each step, all other tokens once per flush interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ... import messages
from ...errors import ErrorCode, ServingError
from ...text.detokenizer import TextStream
from .sequence import GenerationSequence, PendingOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ...text.detokenizer import Detokenizer
    from .batches import StepBatches
    from .sequence import StepRequest

NO_ATTENTION = ServingError(ErrorCode.FAILED, "the model's attention weights are NaN or infinite")

_MAX_RUNS = 64
"""Runs that may be pending before a flush is forced."""


class OutputProcessor:
    """Gathers chunks, events and runs, and reports them together.

    The `emit_*` methods add to the next flush.
    """

    def __init__(
        self,
        spec: ModelSpec,
        detokenizer: Detokenizer | None,
        report: Callable[[messages.Events], None],
        clock: Callable[[], float],
    ) -> None:
        self._spec, self._detokenizer, self._report, self._clock = spec, detokenizer, report, clock
        self.flush_interval_s = 0.0
        self._flushed = 0.0
        self._counts, self._state_bytes = messages.SequenceCounts(0, 0, 0), 0
        self._broken: list[tuple[GenerationSequence, Exception]] = []
        self._clear()

    def _clear(self) -> None:
        self._events: list[messages.Event] = []
        self._chunks: list[messages.Chunk] = []
        self._runs: list[messages.Run] = []

    # --- emit ---------------------------------------------------------------------------------------

    def add_runs(self, runs: Iterable[messages.Run]) -> None:
        self._runs.extend(runs)

    def emit_chunk(self, sequence: GenerationSequence) -> None:
        """Emit the pending output as a chunk, if the stream has credit. `take_broken` has the errors."""
        try:
            if sequence.inspects_tokens:
                self._add_chunk(sequence)
            elif sequence.pending.ids and sequence.credits > 0:
                self._add_tokens(sequence)
        except Exception as error:
            sequence.text = None
            self._broken.append((sequence, error))

    def _add_chunk(self, sequence: GenerationSequence, *, last: bool = False) -> None:
        """The last chunk needs no credit."""
        pending = sequence.pending
        if sequence.credits <= 0 and not last:
            return
        if pending.attention and not all(np.isfinite(weights).all() for weights in pending.attention):
            raise NO_ATTENTION
        text = self._text(sequence, last=last)
        if not (pending.ids or text):
            return
        if not sequence.reported:
            sequence.first_token_at = self._clock()
        token_texts: list[str] = []
        if sequence.params.attention and self._detokenizer is not None:
            token_texts = list(map(self._detokenizer.token, pending.ids))
        if pending.top and self._detokenizer is not None:
            texts = (tuple(map(self._detokenizer.token, one.ids)) for one in pending.top)
            pending.top = [one._replace(texts=each) for one, each in zip(pending.top, texts, strict=True)]
        self._chunks.append(
            messages.Chunk(
                key=sequence.key,
                ids=pending.ids,
                text=text,
                log_probabilities=pending.log_probabilities,
                attention=pending.attention,
                token_texts=token_texts,
                top=pending.top,
            )
        )
        sequence.emitted += pending.ids
        sequence.pending = PendingOutput()
        sequence.credits -= 1
        sequence.reported = True

    def _add_tokens(self, sequence: GenerationSequence) -> None:
        """As `_add_chunk`, of a sequence of which only tokens and their text are sent."""
        ids = sequence.pending.ids
        text = "" if sequence.text is None else sequence.text.add(ids)
        if not sequence.reported:
            sequence.first_token_at, sequence.reported = self._clock(), True
        self._chunks.append(messages.Chunk(key=sequence.key, ids=ids, text=text))
        sequence.emitted += ids
        sequence.pending.ids = []
        sequence.credits -= 1

    def take_broken(self) -> list[tuple[GenerationSequence, Exception]]:
        """The sequences whose output could not be made, and why."""
        broken, self._broken = self._broken, []
        return broken

    def _text(self, sequence: GenerationSequence, *, last: bool) -> str:
        """Text of the pending tokens; with stop strings it was decoded token by token."""
        if sequence.text is None:
            return ""
        text = sequence.pending.text if sequence.params.stop else sequence.text.add(sequence.pending.ids)
        return text + sequence.text.finish() if last else text

    def emit_finished(self, sequence: GenerationSequence, reason: str) -> None:
        """Emit the last chunk and the final event of a sequence that was removed from its batch.

        Raises:
            Exception: its output cannot be made; nothing was emitted.
        """
        if reason == "end":
            sequence.pending.ids.pop()  # the end token is not part of the text
            sequence.generated -= 1
        self._add_chunk(sequence, last=True)
        self._events.append(
            messages.Event(
                key=sequence.key,
                timings=self._timings(sequence),
                length=sequence.generated,
                reason=reason,
                alternatives=self._alternatives(sequence),
            )
        )

    def _alternatives(self, sequence: GenerationSequence) -> tuple[messages.Alternative, ...]:
        """The texts of a beam search, best first, without their end ids."""
        found = []
        for candidate in sequence.search.candidates() if sequence.search is not None else ():
            ids = list(candidate.ids[: -1 if candidate.reason == "end" else None])
            text = ""
            if self._detokenizer is not None:
                stream = TextStream(self._detokenizer.stream(), ())
                text = stream.add(ids) + stream.finish()
            found.append(messages.Alternative(ids, text, candidate.score, candidate.reason))
        return tuple(found)

    def emit_failed(self, request: GenerationSequence | StepRequest, error: ServingError) -> None:
        """Emit the error, after a chunk with what was generated before it."""
        timings = messages.NO_TIMINGS
        if isinstance(request, GenerationSequence):
            if request.text is not None or self._detokenizer is None:
                self.emit_chunk(request)
            self._broken = [one for one in self._broken if one[0] is not request]  # it fails anyway
            timings = self._timings(request)
        self._events.append(messages.Event(key=request.key, error=error, timings=timings))

    def emit_rejected(self, key: int, error: ServingError) -> None:
        self._events.append(messages.Event(key=key, error=error))

    def emit_empty(self, key: int) -> None:
        """Emit the final event of a request for 0 tokens."""
        self._events.append(messages.Event(key=key, reason="length"))

    def emit_outputs(self, step: StepRequest, outputs: Arrays, timings: messages.RequestTimings) -> None:
        if step.outputs:
            outputs = {name: outputs[name] for name in step.outputs}
        self._events.append(
            messages.Event(key=step.key, outputs=outputs, timings=timings, length=step.sequence.steps)
        )

    def _timings(self, sequence: GenerationSequence) -> messages.RequestTimings:
        started = sequence.first_run_at or self._clock()
        return messages.RequestTimings(
            started - sequence.accepted,
            sequence.prefill_s + sequence.compute_s,
            sequence.steps,
            sequence.total_rows / sequence.steps if sequence.steps else 0.0,
            sequence.prefill_s,
            max(sequence.first_token_at - sequence.accepted, 0.0) if sequence.first_token_at else 0.0,
        )

    # --- flush --------------------------------------------------------------------------------------

    def due(self) -> tuple[float, int]:
        """When output must be flushed, and after how many more runs."""
        return self._flushed + self.flush_interval_s, _MAX_RUNS - len(self._runs)

    def emit_step(
        self, batches: StepBatches, now: float, counts: Callable[[], messages.SequenceCounts]
    ) -> list[GenerationSequence]:
        """Emit and flush what is due after a step. Returns the sequences that are out of credit and
        have pending output."""
        out_of_credit: list[GenerationSequence] = []
        if now - self._flushed >= self.flush_interval_s or any(batch.log_is_full() for batch in batches):
            self._flushed = now
            for batch in batches:
                batch.collect_all(self.emit_chunk)
                batch.take_first_tokens()
                out_of_credit += [
                    sequence for sequence in batch.row_of if sequence.credits <= 0 and sequence.pending.ids
                ]
        else:
            for batch in batches:
                for sequence in batch.take_first_tokens():
                    batch.collect(sequence)
                    self.emit_chunk(sequence)
        if self._events or self._chunks or len(self._runs) >= _MAX_RUNS or not len(batches):
            self.flush(counts(), batches.state_bytes)
        return out_of_credit

    def flush(self, counts: messages.SequenceCounts, state_bytes: int = 0) -> None:
        """Report everything gathered, and the counts of sequences and of their bytes if they changed."""
        changed = (counts, state_bytes) != (self._counts, self._state_bytes)
        if not (self._events or self._chunks or self._runs or changed):
            return
        self._counts, self._state_bytes = counts, state_bytes
        model, version, now = self._spec.name, self._spec.version, self._clock()
        events = messages.Events(
            model=model,
            version=version,
            events=self._events,
            runs=self._runs,
            chunks=self._chunks,
            sequences=counts,
            state_bytes=state_bytes,
            sent=now,
        )
        self._clear()
        self._report(events)
