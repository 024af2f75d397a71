"""The step-wise engine: one thread that plans, runs and commits steps; sequences join between any two.

inbox → plan → prefill, one step of every batch, one step of client sequences → tokens and answers →
one `Events`. It uses neither gRPC nor asyncio. The thread must not die: a failed run fails only the
sequences in it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from ... import messages
from ...durations import bounded_s
from ...errors import ServingError
from ...text.detokenizer import Detokenizer
from ..recorder import OFF
from ..runtime.batching import Batching
from ..runtime.device_scheduler import DeviceAccount
from ..runtime.engine_threads import STOPPED, EngineThreads, not_after
from ..runtime.verification import Verifier
from . import client_steps
from .batches import StepBatches, StepOutcome
from .client_prompts import run_prompts
from .intake import Intake
from .output import OutputProcessor
from .prefill import PrefillRunner, first_scores, sample_first_token, start_search
from .scheduler import Scheduler, SequenceLimits, StepPlan
from .sequence import GenerationSequence
from .slots import StatePool, initial_states, is_full, lengths_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ...text.tokenizer import Vocabulary
    from ..recorder import RunRecorder
    from ..runtime.device_scheduler import DeviceLease, DeviceScheduler
    from ..runtime.session import OnnxSession

_HAND_OVER_S = 0.001
"""Handing the device to another thread takes about 0.1 ms, so an engine keeps it for several short steps."""


class StepResult(NamedTuple):
    """The result of one step."""

    generation: StepOutcome
    answers: list[client_steps.StepAnswer]


class StepEngine:
    """Serves the step-wise form of one model version with one thread.

    Its methods are thread-safe; only `stop` blocks. `report` is called from the engine's thread.
    """

    def __init__(
        self,
        spec: ModelSpec,
        session: OnnxSession,
        prefill_session: OnnxSession | None,
        vocabulary: Vocabulary | None,
        device_scheduler: DeviceScheduler,
        report: Callable[[messages.EngineUpdate], None],
        *,
        stalled_s: float = 30.0,
        batching: bool = True,
        verify_share: float = 0.0,
        recorder: RunRecorder = OFF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec, self._recorder = spec, recorder.of(spec)
        self._session, self._report = session, report
        self._batching = Batching.of(spec, report, allowed=batching and spec.batched)
        self._account = DeviceAccount(f"{spec.name}/{spec.version}")
        self._verifier = Verifier(
            verify_share,
            self._batching,
            self._batching.withdraw,
            lambda answers: report(messages.Verified(spec.name, spec.version, answers)),
            lambda: device_scheduler.lease(self._account, math.inf),
            clock,
        )
        self._prefill = (
            PrefillRunner(spec.prefill, prefill_session, self._batching, clock, self._verifier)
            if spec.prefill and prefill_session
            else None
        )
        self._device_scheduler, self._clock = device_scheduler, clock
        self._scheduler = Scheduler(_limits(spec, stalled_s))
        self._batches = StepBatches(spec, session, self._batching, clock, self._verifier, self._recorder)
        self._client_states = (
            StatePool(spec, session.state_graphs) if spec.batched and not spec.state_lengths else None
        )
        self._awaiting_prefill: list[GenerationSequence] = []
        detokenizer = Detokenizer(vocabulary) if vocabulary else None
        self._output_processor = OutputProcessor(spec, detokenizer, report, clock)
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._changed = threading.Condition()
        self._sleeping = self._woken = False
        self._finishing = False
        self._ending = threading.Lock()
        encoder = prefill_session.encoder if prefill_session else None
        self._threads = EngineThreads(
            self._account.name,
            wait=self._wait,
            step=self._step,
            fail_requests=self._end_all,
            sessions=[each for each in (session, prefill_session, encoder) if each is not None],
            report_paused=self._report_paused,
        )
        self._intake = Intake(
            spec,
            self._scheduler,
            self._batches,
            self._batching,
            detokenizer,
            self._output_processor,
            report,
            to_serving_error=self._threads.to_serving_error,
            rejoin=self._add,
            clock=clock,
        )

    # --- from other threads -------------------------------------------------------------------------

    def start(self) -> None:
        self._threads.start()

    def submit(self, request: messages.Generate | messages.Step) -> None:
        """Queue a request. It gets exactly one event, unless it is cancelled."""
        if isinstance(request, messages.Step) and request.start:
            self._intake.starting[request.sequence] = None
        self._post(self._intake.accept, request)

    def cancel(self, key: int) -> None:
        """Cancel a request: its row is free in the next step."""
        self._post(self._scheduler.cancel, key)

    def credit(self, key: int, n: int) -> None:
        self._post(self._scheduler.credit, key, n)

    def end_sequence(self, sequence_id: messages.SequenceId) -> None:
        """End a client sequence whose client has gone."""
        self._post(self._scheduler.end_sequence, sequence_id)

    def get_sequence(self, request: messages.GetSequence) -> None:
        """Copy the state of a sequence. Reports a `SequenceAnswer`."""
        self._post(self._intake.get_sequence, request)

    def put_sequence(self, request: messages.PutSequence) -> None:
        """Take a sequence over. Reports a `SequenceAnswer`."""
        self._post(self._intake.put_sequence, request)

    def thaw_sequence(self, request: messages.ThawSequence) -> None:
        """End the freeze of a sequence."""
        self._post(self._intake.frozen.thaw, request)

    def set_flush_interval(self, flush_interval_s: float) -> None:
        """Hold tokens back for at most this long before they are reported."""
        self._output_processor.flush_interval_s = flush_interval_s

    def in_flight(self) -> int:
        """The number of requests that the engine thread has accepted and that have not ended."""
        return len(self._scheduler.open_keys())

    def counts(self) -> tuple[messages.SequenceCounts, int]:
        """The number of sequences, and the bytes of their states. Safe to call from any thread."""
        return self._scheduler.counts(), self._batches.state_bytes

    def live_sequences(self) -> set[messages.SequenceId]:
        """The client sequences that accept steps."""
        return {
            *list(self._intake.starting),
            *self._scheduler.clients.live_ids(),
        }  # in this order: none is missed

    def put_texts(self) -> list[messages.SequenceId]:
        """The texts that were put here and that no stream has taken. Safe to call from any thread."""
        return self._scheduler.put_texts.ids()

    def ended_sequences(self) -> dict[messages.SequenceId, str]:
        """Why client sequences have ended, by id, as far as it is remembered."""
        return self._scheduler.clients.ended()

    def remember(self, ended: Mapping[messages.SequenceId, str]) -> None:
        """Answer later steps of client sequences that an earlier engine had with the reason of their end."""
        self._post(self._scheduler.clients.remember, ended)

    def stop(self, within_s: float, *, finish_sequences: bool = False) -> None:
        """Serve for at most `within_s` seconds more, then fail all open requests with UNAVAILABLE.

        Args:
            finish_sequences: wait for the end of client sequences too, and not for open requests only.
        """
        self._finishing = finish_sequences
        self._threads.stop(within_s, self._close)
        self._end_rest()

    def _post(self, verb: Callable[..., None], *args: Any) -> None:
        self._inbox.append((verb, args))
        if self._sleeping:
            self._wake()
        if self._threads.stopped:  # posted while the engine stopped
            self._end_rest()

    def _end_rest(self) -> None:
        """Fail what is left after the thread has ended."""
        with self._ending:
            self._drain()
            self._end_all(STOPPED)

    def _close(self) -> None:
        self._intake.closed = True
        self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify()

    # --- the thread ---------------------------------------------------------------------------------

    def _wait(self) -> bool:
        """Sleep until there is work; False if the thread should end."""
        while not (self._inbox or self._awaiting_prefill or self._scheduler.has_work()):
            if self._threads.terminated or (self._intake.closed and not self._is_needed()):
                return False
            due = self._scheduler.due()
            timeout = None if due is None else bounded_s(due - self._clock())
            if timeout is not None and timeout <= 0:
                break
            with self._changed:
                self._sleeping = True
                if not (self._inbox or self._woken):
                    self._changed.wait(timeout)
                self._sleeping = self._woken = False
        return not self._threads.terminated

    def _is_needed(self) -> bool:
        """Whether an engine that accepts no new sequences has any left."""
        return bool(self._scheduler.open_keys() or (self._finishing and self._scheduler.clients.live_ids()))

    def _step(self) -> None:
        self._drain()
        with self._device_scheduler.lease(self._account, self._clock()) as lease:
            now = self._clock()
            plan = self._scheduler.plan(now)
            outcome = self._run(plan, lease)
            if not plan.client_steps:
                self._step_on(outcome.generation, now)
        self._commit(outcome)
        self._verifier.verify_collected(self.spec)

    def _drain(self) -> None:
        while self._inbox:
            verb, args = self._inbox.popleft()
            verb(*args)

    # --- steps --------------------------------------------------------------------------------------

    def _run(self, plan: StepPlan, lease: DeviceLease) -> StepResult:
        for request, error in plan.failed:  # before the run, which may raise
            if isinstance(request, GenerationSequence):
                self._batches.remove(request)
            self._output_processor.emit_failed(request, error)
        for sequence in plan.cancelled:
            self._batches.remove(sequence)
        for sequence in plan.suspended:
            self._suspend(sequence)
        for sequence in plan.resumed:
            if sequence.states is None:  # suspended before its prefill
                self._awaiting_prefill.append(sequence)
            else:
                self._add(sequence)
        self._awaiting_prefill.extend(plan.admitted)
        if self._awaiting_prefill:
            self._prefill_admitted(lease)
        generation = self._batches.step(lease.waited_s)
        if not plan.client_steps:
            return StepResult(generation, [])
        answers: list[client_steps.StepAnswer] = []
        if prompts := [step for step in plan.client_steps if step.prompt]:
            assert self._prefill is not None
            answers, read = run_prompts(self.spec, self._prefill, prompts, lease.waited_s, self._recorder)
            generation.runs += read
        stepped, runs = client_steps.run_steps(
            self.spec,
            self._session,
            [step for step in plan.client_steps if not step.prompt],
            self._batching,
            self._clock,
            lease.waited_s,
            self._verifier,
            self._client_states,
            self._recorder,
        )
        generation.runs += runs
        return StepResult(generation, answers + stepped)

    def _step_on(self, outcome: StepOutcome, planned: float) -> None:
        """Step on, as long as neither a plan nor a commit would change anything. While others wait for the
        device, for `_HAND_OVER_S` at most."""
        if self._awaiting_prefill or self._scheduler.pool.waiting:
            return
        devices, due = self._device_scheduler, self._scheduler.due()
        flush_due, runs = self._output_processor.due()
        until = min(planned + devices.max_run_s, flush_due, math.inf if due is None else due)
        runs -= len(outcome.runs)
        while (
            not self._inbox
            and not (outcome.ended or outcome.failed or self._verifier.collected)
            and self._batches.can_step_on()
            and self._clock() < (min(until, planned + _HAND_OVER_S) if devices.is_wanted else until)
            and len(outcome.steps) < runs
        ):
            self._batches.step_on(outcome)
        self._batches.record(outcome)

    def _add(self, sequence: GenerationSequence) -> None:
        """Add a sequence to a batch; it fails alone if the device has no memory for its states."""
        try:
            self._batches.add(sequence)
        except Exception as error:
            self._fail(sequence, error)

    def _suspend(self, sequence: GenerationSequence) -> None:
        self._batches.remove(sequence, keep_states=True)
        self._awaiting_prefill = [other for other in self._awaiting_prefill if other is not sequence]
        self._output_processor.emit_chunk(sequence)  # what is generated does not wait for a slot

    def _commit(self, outcome: StepResult) -> None:
        now = self._clock()
        generation = outcome.generation
        self._output_processor.add_runs(generation.runs)
        for sequence, reason in generation.ended:
            self._finish(sequence, reason)
        for sequence, error in generation.failed:
            self._fail(sequence, error)
        if outcome.answers:
            self._emit_answers(outcome.answers, now)
        for sequence in self._batches.tidy():
            self._finish(sequence, _end_full(sequence))
        out_of_credit = self._output_processor.emit_step(self._batches, now, self._scheduler.counts)
        for sequence, error in self._output_processor.take_broken():
            self._batches.remove(sequence)
            self._fail(sequence, error)
        for sequence in out_of_credit:
            self._batches.remove(sequence, keep_states=True)
            self._scheduler.pause(sequence, now)
        if out_of_credit:
            self._flush()

    def _emit_answers(self, answers: list[client_steps.StepAnswer], now: float) -> None:
        for step, outputs, error, timings in answers:
            if step.dropped:
                continue
            if outputs is not None:
                self._output_processor.emit_outputs(step, outputs, timings)
            elif error is not None:
                self._output_processor.emit_failed(step, self._threads.to_serving_error(error))
        self._scheduler.finish((), [answer.step for answer in answers], now)

    # --- prefill ------------------------------------------------------------------------------------

    def _prefill_admitted(self, lease: DeviceLease) -> None:
        """Prefill admitted sequences, as many as fit into one run, and add them to batches."""
        self._awaiting_prefill = [sequence for sequence in self._awaiting_prefill if sequence.has_slot]
        if self._prefill is None:
            for sequence in self._awaiting_prefill:
                sequence.first_run_at = self._clock()
                sequence.states = initial_states(self.spec)
                sequence.prompt += sequence.params.received  # stepped again, and so exactly as before
                self._add(sequence)
            self._awaiting_prefill = []
        elif self._awaiting_prefill:
            max_run_s = self._device_scheduler.max_run_s if len(self._batches) else lease.max_run_s
            chosen = self._prefill.choose(self._awaiting_prefill, max_run_s)
            self._awaiting_prefill = self._awaiting_prefill[len(chosen) :]
            self._run_prefill(self._prefill, chosen, lease.waited_s)

    def _run_prefill(
        self, prefill: PrefillRunner, chosen: list[GenerationSequence], waited_s: float
    ) -> ServingError | None:
        """Run prompts together; if the run fails, retry them one by one. Returns the error of prompts that
        are then not to be run, if any."""
        try:
            outputs, run = prefill.run(chosen, waited_s)
        except Exception as error:
            if len(chosen) == 1:
                self._fail(chosen[0], error)
                return not_after(error)
            skipped: ServingError | None = None
            for sequence in chosen:
                if skipped is None:
                    skipped = self._run_prefill(prefill, [sequence], 0.0)
                else:
                    self._fail(sequence, skipped)
            return None
        self._output_processor.add_runs([run])
        begun, keys = chosen[0].first_run_at, tuple(sequence.key for sequence in chosen)
        waited = begun - min(sequence.accepted for sequence in chosen)
        self._recorder.add("prefill", begun, run.rows, run, keys, waited)
        for sequence, output in zip(chosen, outputs, strict=True):
            self._start_generation(sequence, output)
        self._flush()  # first tokens do not wait for the next step
        return None

    def _start_generation(self, sequence: GenerationSequence, output: Arrays) -> None:
        """Add a prefilled sequence to a batch, with its first token if the prefill graph outputs scores."""
        sequence.states = initial_states(self.spec, output)
        sequence.prompt = ()
        assert self.spec.prefill is not None
        scores = first_scores(self.spec.prefill, output)
        begin, reason = self.spec.manifest.begin, ""
        received = sequence.params.received
        if received:
            sequence.prompt = received if scores is not None else (*begin, *received)
        elif scores is not None:
            try:
                first = sample_first_token if sequence.search is None else start_search
                reason = first(sequence, scores, self.spec.manifest)
            except ServingError as error:
                self._fail(sequence, error)
                return
        elif len(begin) == 1:
            sequence.token = begin[0]
            if sequence.search is not None:
                sequence.search.tokens[:] = begin[0]
        else:
            sequence.prompt = begin  # forced, one id a step
        if not reason and is_full(self.spec, lengths_of(self.spec, sequence.states)):
            reason = _end_full(sequence)  # the prompt fills the cache
        if reason:
            self._finish(sequence, reason)
        else:
            self._output_processor.emit_chunk(sequence)
            self._add(sequence)

    def _report_paused(self, reason: str) -> None:
        self._report(messages.ModelPaused(self.spec.name, self.spec.version, reason))

    # --- ends ---------------------------------------------------------------------------------------

    def _finish(self, sequence: GenerationSequence, reason: str) -> None:
        try:
            self._output_processor.emit_finished(sequence, reason)
        except Exception as error:  # concerns this sequence only
            sequence.text = None
            self._fail(sequence, error)
            return
        self._scheduler.finish((sequence,), (), self._clock())

    def _fail(self, sequence: GenerationSequence, error: Exception) -> None:
        self._output_processor.emit_failed(sequence, self._threads.to_serving_error(error))
        self._scheduler.finish((sequence,), (), self._clock())

    def _end_all(self, error: ServingError) -> None:
        for key in self._scheduler.open_keys():
            self._scheduler.cancel(key)
            self._output_processor.emit_rejected(key, error)
        self._batches.clear()
        self._awaiting_prefill.clear()
        self._flush()

    def _flush(self) -> None:
        self._output_processor.flush(self._scheduler.counts(), self._batches.state_bytes)


def _end_full(sequence: GenerationSequence) -> str:
    """End a sequence whose cache is full. Returns the reason."""
    if sequence.search is None:
        return "length"
    sequence.search.close()
    return sequence.end_search()


def _limits(spec: ModelSpec, stalled_s: float) -> SequenceLimits:
    stepwise = spec.manifest.stepwise
    assert stepwise is not None
    return SequenceLimits(
        slots=stepwise.max_sequences,
        max_waiting=stepwise.max_sequences,
        max_queue_s=spec.manifest.batching.max_queue_ms / 1000,
        idle_timeout_s=stepwise.idle_timeout_s,
        stalled_s=stalled_s,
    )
