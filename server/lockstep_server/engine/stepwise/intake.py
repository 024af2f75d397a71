"""What reaches the engine thread: texts, steps, and sequences that come from or go to another server.

inbox → `accept` → the scheduler's queues, or a rejection; `get_sequence`, `put_sequence` → `snapshots` →
`SequenceAnswer`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from msgspec import structs

from ... import messages
from ...errors import ErrorCode, ServingError, bad_input, in_field
from ...text.detokenizer import TextStream
from ..runtime.engine_threads import STOPPED
from . import snapshots
from .frozen import FrozenSequences
from .sequence import GenerationSequence, make_generation_sequence, make_step_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...model.spec import ModelSpec
    from ...text.detokenizer import Detokenizer
    from ..runtime.batching import Batching
    from .batches import StepBatches
    from .output import OutputProcessor
    from .scheduler import Scheduler

_Carry = TypeVar("_Carry", messages.GetSequence, messages.PutSequence)

_NOT_PUT = "no sequence of this id was put here, or it was evicted; send the prompt, and the tokens so far"


class Intake:
    """Accepts or rejects requests. Engine thread only, but for `starting` and `closed`.

    `rejoin` adds a sequence to a batch again.
    """

    def __init__(
        self,
        spec: ModelSpec,
        scheduler: Scheduler,
        batches: StepBatches,
        batching: Batching,
        detokenizer: Detokenizer | None,
        output: OutputProcessor,
        report: Callable[[messages.EngineUpdate], None],
        *,
        to_serving_error: Callable[[BaseException], ServingError],
        rejoin: Callable[[GenerationSequence], None],
        clock: Callable[[], float],
    ) -> None:
        self._spec, self._scheduler, self._batches, self._batching = spec, scheduler, batches, batching
        self._detokenizer, self._output, self._report = detokenizer, output, report
        self._to_serving_error, self._rejoin, self._clock = to_serving_error, rejoin, clock
        self.frozen = FrozenSequences(spec, scheduler, batches, output, clock)
        self.closed = False
        """Whether new sequences are rejected."""
        self.starting: dict[messages.SequenceId, None] = {}
        """Client sequences whose first step is in the inbox."""

    # --- requests -----------------------------------------------------------------------------------

    def accept(self, request: messages.Generate | messages.Step) -> None:
        error: ServingError | None
        try:
            if isinstance(request, messages.Generate):
                error = self._accept_generation(request)
            else:
                error = self._accept_step(request)
        except BaseException as fault:  # fails only this request; a panic of a library is no `Exception`
            error = in_field(self._to_serving_error(fault), request.field)
        if error is not None:
            self._output.emit_rejected(request.key, error)
            self._flush()
        if isinstance(request, messages.Step):
            self.starting.pop(request.sequence, None)

    def _accept_generation(self, request: messages.Generate) -> ServingError | None:
        if self.closed:
            return STOPPED
        if (key := request.resumes) is not None:
            if (put := self._scheduler.put_texts.get(key)) is not None:
                return self._continue(key, put, request)
            if not request.prompt:
                away = self._scheduler.put_texts.away(key)
                return away or ServingError(ErrorCode.SEQUENCE_LOST, _NOT_PUT)
        sequence = make_generation_sequence(self._spec, request)
        if sequence.rows > self._batching.max_rows:
            most = self._batching.max_rows
            why = f"{sequence.rows} beams share each run, and a run has at most {most} rows; send fewer"
            return bad_input("decoding.beams", why)
        if sequence.limit == 0:
            self._output.emit_empty(request.key)
            self._flush()
            return None
        return self._begin(sequence)

    def _begin(self, sequence: GenerationSequence) -> ServingError | None:
        """Queue a sequence; one whose caller has all of its text ends at once."""
        self._open_text(sequence)
        has_stopped = sequence.text is not None and sequence.text.stopped
        if sequence.emitted and (has_stopped or sequence.generated >= sequence.limit):
            self._output.emit_finished(sequence, "stop" if has_stopped else "length")
            self._flush()
            return None
        return self._scheduler.add_generation(sequence, self._clock())

    def _open_text(self, sequence: GenerationSequence) -> None:
        """Detokenize what the sequence generates, after the tokens that its caller has."""
        if self._detokenizer is not None:
            sequence.text = TextStream(self._detokenizer.stream(), sequence.params.stop)
            sequence.text.add(sequence.emitted)

    def _continue(
        self, key: messages.SequenceId, put: GenerationSequence, request: messages.Generate
    ) -> ServingError | None:
        """Go on with a text that was put here. What its caller lacks of the text comes first."""
        received, tokens = list(request.received), list(put.tokens)
        if tokens[: len(received)] != received:
            return bad_input("resume.tokens", "these are not the first tokens of the sequence; send those")
        params = structs.replace(
            put.params,
            key=request.key,
            accepted=request.accepted,
            deadline=request.deadline,
            priority=request.priority,
            received=tuple(received),
        )
        if len(received) < len(tokens) and (params.log_probabilities or params.top or params.attention):
            self._scheduler.put_texts.take(key)  # these were not put: read the prompt again
            self._scheduler.pool.release(put)
            return self._begin(make_generation_sequence(self._spec, params))
        put.params, put.key, put.accepted = params, params.key, params.accepted
        put.deadline, put.priority = params.deadline, params.priority
        put.emitted, put.pending.ids = received, tokens[len(received) :]
        self._open_text(put)
        if put.text is not None and params.stop:
            put.pending.text = put.text.add(put.pending.ids)
        put.first_run_at = self._clock()
        self._scheduler.continue_text(key, put, self._clock())
        return None

    def _accept_step(self, request: messages.Step) -> ServingError | None:
        if self.closed and request.start:
            return STOPPED
        step = make_step_request(request)
        return self._scheduler.add_step(step, start=request.start, end=request.end, now=self._clock())

    # --- sequences of other servers -----------------------------------------------------------------

    def get_sequence(self, request: messages.GetSequence) -> None:
        """Report the state of a live sequence, or why there is none."""
        self._answer(request, self._state)

    def put_sequence(self, request: messages.PutSequence) -> None:
        """Add a sequence with its states, and report whether it was added."""
        self._answer(request, self._put)

    def _answer(self, request: _Carry, handle: Callable[[_Carry], messages.SequenceState | None]) -> None:
        state: messages.SequenceState | None = None
        error: ServingError | None = None
        try:
            state = handle(request)
        except BaseException as fault:  # as in `accept`
            error = self._to_serving_error(fault)
        spec = self._spec
        self._report(
            messages.SequenceAnswer(
                key=request.key,
                model=spec.name,
                version=spec.version,
                files=spec.files,
                state=state,
                error=error,
            )
        )

    def _state(self, request: messages.GetSequence) -> messages.SequenceState:
        """
        Raises:
            ServingError: SEQUENCE_LOST, no live sequence is meant; else as `snapshots.of_generation`.
        """
        if request.sequence is None:
            sequence = self._scheduler.get(request.stream)
            if not isinstance(sequence, GenerationSequence):
                raise ServingError(ErrorCode.SEQUENCE_LOST, "the stream has ended")
            if request.freeze:
                return self.frozen.stream(request.key, sequence)
            return self._state_of(sequence)
        if (text := self._scheduler.put_texts.get(request.sequence)) is not None:
            if request.freeze:
                return self.frozen.text(request.key, request.sequence, text)
            return snapshots.of_generation(text)
        if (client := self._scheduler.clients.get(request.sequence)) is not None:
            if request.freeze:
                return self.frozen.client(request.key, client)
            return snapshots.of_client(self._spec, client)
        raise self._scheduler.put_texts.away(request.sequence) or self._scheduler.clients.lost(
            request.sequence
        )

    def _state_of(self, sequence: GenerationSequence) -> messages.SequenceState:
        """The state of a text, which goes on."""
        if sequence.search is None and self._batches.remove(sequence, keep_states=True):
            state = snapshots.of_generation(sequence)
            self._rejoin(sequence)
            return state
        return snapshots.of_generation(sequence)

    def _put(self, request: messages.PutSequence) -> None:
        """
        Raises:
            ServingError: as `snapshots.generation_sequence`; OVERLOADED or QUOTA, no slot is free for it;
                REFUSED_STATE, its id is in use.
        """
        if self.closed:
            raise STOPPED
        now, error = self._clock(), None
        if request.state.generation is None:
            error = self._scheduler.clients.put(snapshots.client_sequence(self._spec, request), now)
        else:
            text = snapshots.generation_sequence(self._spec, request)
            error = self._scheduler.put_texts.put(request.sequence, text, now)
        if error is not None:
            raise error

    def _flush(self) -> None:
        self._output.flush(self._scheduler.counts(), self._batches.state_bytes)
