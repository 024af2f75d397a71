"""The step-wise engine: one thread that plans, runs and commits, sequences joining between any two steps.

inbox -> scheduler's plan -> prompts in, one step of every batch, one of what was fed -> tokens and
answers -> one `Events`. It touches neither gRPC nor asyncio, and it may not die: what goes wrong in
a run belongs to the sequences in it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from ... import messages
from ...errors import ServingError, failed, in_field, unavailable
from ...text.detokenizer import Detokenizer, TextStream
from ..runtime.device_scheduler import DeviceAccount
from . import client_steps
from .batch import first_token
from .batches import StepBatches, StepOutcome
from .intake import decoding_of, element_of
from .output import OutputProcessor
from .prefill import PrefillRunner
from .scheduler import Scheduler, SequenceLimits, StepPlan
from .sequence import GenerationSequence
from .slots import initial

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ...text.tokenizer import Vocabulary
    from ..runtime.device_scheduler import DeviceLease, DeviceScheduler
    from ..runtime.session import OnnxSession

log = logging.getLogger(__name__)

_TERMINATE_S = 1.0
_GONE = unavailable("the model is being unloaded, or the server is stopping")


class StepResult(NamedTuple):
    """What one step brought."""

    stepped: StepOutcome
    answers: list[client_steps.StepAnswer]


class StepEngine:
    """Serves the step-wise form of one model version with one thread.

    Its methods may be called from any thread; all but `stop` return at once. `report` is called
    from the engine's thread.
    """

    def __init__(
        self,
        spec: ModelSpec,
        session: OnnxSession,
        prefill_session: OnnxSession | None,
        vocabulary: Vocabulary | None,
        device_scheduler: DeviceScheduler,
        report: Callable[[messages.Events], None],
        *,
        stalled_s: float = 30.0,
        batching: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self._sessions = [one for one in (session, prefill_session) if one is not None]
        self._session = session
        self._prefill = (
            PrefillRunner(spec.prefill, prefill_session, clock) if spec.prefill and prefill_session else None
        )
        self._pieces = Detokenizer(vocabulary) if vocabulary else None
        self._device_scheduler, self._clock = device_scheduler, clock
        self._most_rows = spec.manifest.batching.max_rows if batching and spec.batched else 1
        self._scheduler = Scheduler(_limits(spec, stalled_s))
        self._batches = StepBatches(spec, session, self._most_rows, clock)
        self._joining: list[GenerationSequence] = []
        self._output_processor = OutputProcessor(spec, self._pieces, report, clock)
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._changed = threading.Condition()
        self._sleeps = self._woken = False
        self._closing = self._terminated = self._stopped = False
        self._account = DeviceAccount(f"{spec.name}/{spec.version}")
        self._thread = threading.Thread(target=self._work, name=f"engine-{spec.name}", daemon=True)

    # --- from other threads -------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def submit(self, submit: messages.Submit, inputs: Arrays, tokens: tuple[str, ...] = ()) -> None:
        """Take a request in. It ends in exactly one event, unless it is cancelled."""
        self._post(self._take, submit, inputs, tokens)

    def cancel(self, key: int) -> None:
        """Its caller has left: its row is free in the next step."""
        self._post(self._scheduler.cancel, key)

    def credit(self, key: int, n: int) -> None:
        self._post(self._scheduler.credit, key, n)

    def leave(self, sequence: messages.SequenceId) -> None:
        self._post(self._scheduler.leave, sequence)

    def pace(self, flush_s: float) -> None:
        """Hold chunks back for this long at most."""
        self._output_processor.flush_s = flush_s

    def stop(self, within_s: float) -> None:
        """Go on for `within_s` seconds at most, then fail what is left with UNAVAILABLE."""
        self._closing = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(within_s)
        self._terminated = True
        for session in self._sessions:
            session.terminate()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(_TERMINATE_S)
        self._stopped = True
        self._drain()
        self._end_all(_GONE)

    def _post(self, verb: Callable[..., None], *args: Any) -> None:
        self._inbox.append((verb, args))
        if self._sleeps:
            self._wake()
        if self._stopped:  # it came while the engine was going
            self._drain()
            self._end_all(_GONE)

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify()

    # --- the thread ---------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._wait():
            try:
                self._step()
            except Exception:
                log.exception("%s: a step failed; what it held ends as failed", self._account.name)
                self._end_all(failed(self._account.name))

    def _wait(self) -> bool:
        """Sleep until there is something to do; False once the engine is to end."""
        while not (self._inbox or self._joining or self._scheduler.has_work()):
            if self._terminated or (self._closing and not self._scheduler.held()):
                return False
            due = self._scheduler.due()
            timeout = None if due is None else due - self._clock()
            if timeout is not None and timeout <= 0:
                break
            with self._changed:
                self._sleeps = True
                if not (self._inbox or self._woken):
                    self._changed.wait(timeout)
                self._sleeps = self._woken = False
        return not self._terminated

    def _step(self) -> None:
        self._drain()
        with self._device_scheduler.turn(self._account, self._clock()) as turn:
            plan = self._scheduler.plan(self._clock())
            outcome = self._run(plan, turn)
        self._commit(outcome)

    def _drain(self) -> None:
        while self._inbox:
            verb, args = self._inbox.popleft()
            verb(*args)

    # --- taking in ----------------------------------------------------------------------------------

    def _take(self, submit: messages.Submit, inputs: Arrays, tokens: tuple[str, ...]) -> None:
        error: ServingError | None
        try:
            if isinstance(submit.how, messages.Decode):
                error = self._take_decoding(submit, submit.how, inputs, tokens)
            else:
                assert submit.how is not None  # refused at the door
                error = self._take_element(submit, submit.how, inputs)
        except ServingError as refused:
            error = refused
        except Exception as fault:  # it belongs to this request
            error = self._told_of(fault)
        if error is not None:
            self._output_processor.refused(submit.key, in_field(error, submit.field))
            self._say()

    def _take_decoding(
        self, submit: messages.Submit, how: messages.Decode, inputs: Arrays, tokens: tuple[str, ...]
    ) -> ServingError | None:
        if self._closing:
            return _GONE
        decoding = decoding_of(self.spec, submit, how, inputs, tokens)
        if decoding.limit == 0:
            self._output_processor.nothing_wanted(submit.key)
            self._say()
            return None
        if self._pieces is not None:
            decoding.text = TextStream(self._pieces.stream(), how.stop)
        return self._scheduler.join(decoding, self._clock())

    def _take_element(
        self, submit: messages.Submit, how: messages.Feed, inputs: Arrays
    ) -> ServingError | None:
        if self._closing and how.start:
            return _GONE
        return self._scheduler.feed(element_of(submit, how, inputs), how, self._clock())

    # --- the step -----------------------------------------------------------------------------------

    def _run(self, plan: StepPlan, turn: DeviceLease) -> StepResult:
        for who, error in plan.ended:  # told first: whatever the run does, it is not theirs
            if isinstance(who, GenerationSequence):
                self._batches.leave(who)
            self._output_processor.failed(who, error)
        for decoding in plan.left:
            self._batches.leave(decoding)
        for decoding in plan.resume:
            self._batches.enter(decoding)
        self._joining.extend(plan.join)
        if self._joining:
            self._join(turn)
        stepped = self._batches.step(turn.waited_s)
        if not plan.fed:
            return StepResult(stepped, [])
        answers, runs = client_steps.feed(
            self.spec, self._session, plan.fed, self._most_rows, self._clock, turn.waited_s
        )
        stepped.runs += runs
        return StepResult(stepped, answers)

    def _commit(self, outcome: StepResult) -> None:
        now = self._clock()
        stepped = outcome.stepped
        self._output_processor.ran(stepped.runs)
        for decoding, reason in stepped.ended:
            self._finish(decoding, reason)
        for decoding, failure in stepped.failed:
            self._fail(decoding, failure)
        if outcome.answers:
            self._answer(outcome.answers, now)
        for decoding in self._batches.tidy():
            self._finish(decoding, "length")
        stopped = self._output_processor.speak(self._batches, now, self._scheduler.population)
        for decoding in stopped:
            self._batches.leave(decoding, keep=True)
            self._scheduler.pause(decoding, now)
        if stopped:
            self._say()

    def _answer(self, answers: list[client_steps.StepAnswer], now: float) -> None:
        for element, outputs, error, timings in answers:
            if element.gone:
                continue
            if outputs is not None:
                self._output_processor.answered(element, outputs, timings)
            elif error is not None:
                self._output_processor.failed(element, self._told_of(error))
        self._scheduler.finish((), [answer.element for answer in answers], now)

    # --- coming in ----------------------------------------------------------------------------------

    def _join(self, turn: DeviceLease) -> None:
        """Bring in who has a slot: their prompts in one run, as many as fit."""
        self._joining = [one for one in self._joining if one.slot]
        if self._prefill is None:
            for decoding in self._joining:
                decoding.first_run = self._clock()
                decoding.states = initial(self.spec)
                self._batches.enter(decoding)
            self._joining = []
        elif self._joining:
            running = self._device_scheduler.max_run_s if len(self._batches) else turn.max_run_s
            chosen = self._prefill.choose(self._joining, running)
            self._joining = self._joining[len(chosen) :]
            self._take_in(self._prefill, chosen, turn.waited_s)

    def _take_in(self, prefill: PrefillRunner, chosen: list[GenerationSequence], waited_s: float) -> None:
        """Run the prompts; where the run fails each runs alone, and who fails alone has failed."""
        try:
            outputs, run = prefill.run(chosen, waited_s)
        except Exception as error:
            if len(chosen) == 1:
                self._fail(chosen[0], error)
            else:
                for decoding in chosen:
                    self._take_in(prefill, [decoding], 0.0)
            return
        self._output_processor.ran([run])
        for decoding, output in zip(chosen, outputs, strict=True):
            self._begin(decoding, output)
        self._say()  # first tokens do not wait for the step that comes now

    def _begin(self, decoding: GenerationSequence, output: Arrays) -> None:
        """The prompt is in. Where the graph scores what follows it, the first token is there too."""
        decoding.states = initial(self.spec, output)
        decoding.prompt = ()
        scores = output.get(self.spec.manifest.roles.scores)
        text = self.spec.manifest.text
        reason = ""
        if scores is not None:
            try:
                reason = first_token(decoding, scores.reshape(1, -1), text.end if text else None)
            except ServingError as error:
                self._fail(decoding, error)
                return
        elif text is not None and text.begin is not None:
            decoding.token = text.begin
        if reason:
            self._finish(decoding, reason)
        else:
            self._output_processor.chunk(decoding)
            self._batches.enter(decoding)

    # --- ends ---------------------------------------------------------------------------------------

    def _finish(self, decoding: GenerationSequence, reason: str) -> None:
        self._output_processor.finished(decoding, reason)
        self._scheduler.finish((decoding,), (), self._clock())

    def _fail(self, decoding: GenerationSequence, error: Exception) -> None:
        self._output_processor.failed(decoding, self._told_of(error))
        self._scheduler.finish((decoding,), (), self._clock())

    def _told_of(self, error: Exception) -> ServingError:
        if isinstance(error, ServingError):
            return error
        if self._terminated:
            return _GONE
        told = failed(self._account.name)
        log.error("%s: a run failed: %s", self._account.name, told.message, exc_info=error)
        return told

    def _end_all(self, error: ServingError) -> None:
        for key in self._scheduler.held():
            self._scheduler.cancel(key)
            self._output_processor.refused(key, error)
        self._batches.clear()
        self._joining.clear()
        self._say()

    def _say(self) -> None:
        self._output_processor.say(self._scheduler.population())


def _limits(spec: ModelSpec, stalled_s: float) -> SequenceLimits:
    stepwise = spec.manifest.stepwise
    assert stepwise is not None
    return SequenceLimits(
        slots=stepwise.max_sequences,
        waiting=stepwise.max_sequences,
        max_queue_s=spec.manifest.batching.max_queue_ms / 1000,
        idle_timeout_s=stepwise.idle_timeout_s,
        stalled_s=stalled_s,
    )
