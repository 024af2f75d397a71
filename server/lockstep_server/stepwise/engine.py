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

from .. import port
from ..errors import ServingError, failed, in_field, unavailable
from ..models.gate import Share
from ..text.pieces import Pieces, Text
from . import feeding
from .batch import first_token
from .batches import Batches, Stepped
from .intake import decoding_of, element_of
from .prefill import Prefill
from .scheduler import Limits, Plan, Scheduler
from .sequence import Decoding
from .slots import initial
from .teller import Teller

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..models.card import Card
    from ..models.datatypes import Arrays
    from ..models.gate import Gate, Turn
    from ..models.session import Session
    from ..text.tokenizer import Vocabulary

log = logging.getLogger(__name__)

_TERMINATE_S = 1.0
_GONE = unavailable("the model is being unloaded, or the server is stopping")


class Outcome(NamedTuple):
    """What one step brought."""

    stepped: Stepped
    answers: list[feeding.Answer]


class StepEngine:
    """Serves the step-wise face of one model version with one thread.

    Its methods may be called from any thread; all but `stop` return at once. `report` is called
    from the engine's thread.
    """

    def __init__(
        self,
        card: Card,
        session: Session,
        prefill_session: Session | None,
        vocabulary: Vocabulary | None,
        gate: Gate,
        report: Callable[[port.Events], None],
        *,
        stalled_s: float = 30.0,
        batching: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.card = card
        self._sessions = [one for one in (session, prefill_session) if one is not None]
        self._session = session
        self._prefill = (
            Prefill(card.prefill, prefill_session, clock) if card.prefill and prefill_session else None
        )
        self._pieces = Pieces(vocabulary) if vocabulary else None
        self._gate, self._clock = gate, clock
        self._most_rows = card.manifest.batching.max_rows if batching and card.batched else 1
        self._scheduler = Scheduler(_limits(card, stalled_s))
        self._batches = Batches(card, session, self._most_rows, clock)
        self._joining: list[Decoding] = []
        self._teller = Teller(card, self._pieces, report, clock)
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._changed = threading.Condition()
        self._sleeps = self._woken = False
        self._closing = self._terminated = self._stopped = False
        self._share = Share(f"{card.name}/{card.version}")
        self._thread = threading.Thread(target=self._work, name=f"engine-{card.name}", daemon=True)

    # --- from other threads -------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def submit(self, submit: port.Submit, inputs: Arrays, tokens: tuple[str, ...] = ()) -> None:
        """Take a request in. It ends in exactly one event, unless it is cancelled."""
        self._post(self._take, submit, inputs, tokens)

    def cancel(self, key: int) -> None:
        """Its caller has left: its row is free in the next step."""
        self._post(self._scheduler.cancel, key)

    def credit(self, key: int, n: int) -> None:
        self._post(self._scheduler.credit, key, n)

    def leave(self, sequence: port.SequenceId) -> None:
        self._post(self._scheduler.leave, sequence)

    def pace(self, flush_s: float) -> None:
        """Hold chunks back for this long at most."""
        self._teller.flush_s = flush_s

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
                log.exception("%s: a step failed; what it held ends as failed", self._share.name)
                self._end_all(failed(self._share.name))

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
        with self._gate.turn(self._share, self._clock()) as turn:
            plan = self._scheduler.plan(self._clock())
            outcome = self._run(plan, turn)
        self._commit(outcome)

    def _drain(self) -> None:
        while self._inbox:
            verb, args = self._inbox.popleft()
            verb(*args)

    # --- taking in ----------------------------------------------------------------------------------

    def _take(self, submit: port.Submit, inputs: Arrays, tokens: tuple[str, ...]) -> None:
        error: ServingError | None
        try:
            if isinstance(submit.how, port.Decode):
                error = self._take_decoding(submit, submit.how, inputs, tokens)
            else:
                assert submit.how is not None  # refused at the door
                error = self._take_element(submit, submit.how, inputs)
        except ServingError as refused:
            error = refused
        except Exception as fault:  # it belongs to this request
            error = self._told_of(fault)
        if error is not None:
            self._teller.refused(submit.key, in_field(error, submit.field))
            self._say()

    def _take_decoding(
        self, submit: port.Submit, how: port.Decode, inputs: Arrays, tokens: tuple[str, ...]
    ) -> ServingError | None:
        if self._closing:
            return _GONE
        decoding = decoding_of(self.card, submit, how, inputs, tokens)
        if decoding.limit == 0:
            self._teller.nothing_wanted(submit.key)
            self._say()
            return None
        if self._pieces is not None:
            decoding.text = Text(self._pieces.stream(), how.stop)
        return self._scheduler.join(decoding, self._clock())

    def _take_element(self, submit: port.Submit, how: port.Feed, inputs: Arrays) -> ServingError | None:
        if self._closing and how.start:
            return _GONE
        return self._scheduler.feed(element_of(submit, how, inputs), how, self._clock())

    # --- the step -----------------------------------------------------------------------------------

    def _run(self, plan: Plan, turn: Turn) -> Outcome:
        for who, error in plan.ended:  # told first: whatever the run does, it is not theirs
            if isinstance(who, Decoding):
                self._batches.leave(who)
            self._teller.failed(who, error)
        for decoding in plan.left:
            self._batches.leave(decoding)
        for decoding in plan.resume:
            self._batches.enter(decoding)
        self._joining.extend(plan.join)
        if self._joining:
            self._join(turn)
        stepped = self._batches.step(turn.waited_s)
        if not plan.fed:
            return Outcome(stepped, [])
        answers, runs = feeding.feed(
            self.card, self._session, plan.fed, self._most_rows, self._clock, turn.waited_s
        )
        stepped.runs += runs
        return Outcome(stepped, answers)

    def _commit(self, outcome: Outcome) -> None:
        now = self._clock()
        stepped = outcome.stepped
        self._teller.ran(stepped.runs)
        for decoding, reason in stepped.ended:
            self._finish(decoding, reason)
        for decoding, failure in stepped.failed:
            self._fail(decoding, failure)
        if outcome.answers:
            self._answer(outcome.answers, now)
        for decoding in self._batches.tidy():
            self._finish(decoding, "length")
        stopped = self._teller.speak(self._batches, now, self._scheduler.population)
        for decoding in stopped:
            self._batches.leave(decoding, keep=True)
            self._scheduler.pause(decoding, now)
        if stopped:
            self._say()

    def _answer(self, answers: list[feeding.Answer], now: float) -> None:
        for element, outputs, error, timings in answers:
            if element.gone:
                continue
            if outputs is not None:
                self._teller.answered(element, outputs, timings)
            elif error is not None:
                self._teller.failed(element, self._told_of(error))
        self._scheduler.finish((), [answer.element for answer in answers], now)

    # --- coming in ----------------------------------------------------------------------------------

    def _join(self, turn: Turn) -> None:
        """Bring in who has a slot: their prompts in one run, as many as fit."""
        self._joining = [one for one in self._joining if one.slot]
        if self._prefill is None:
            for decoding in self._joining:
                decoding.first_run = self._clock()
                decoding.states = initial(self.card)
                self._batches.enter(decoding)
            self._joining = []
        elif self._joining:
            running = self._gate.max_run_s if len(self._batches) else turn.max_run_s
            chosen = self._prefill.choose(self._joining, running)
            self._joining = self._joining[len(chosen) :]
            self._take_in(self._prefill, chosen, turn.waited_s)

    def _take_in(self, prefill: Prefill, chosen: list[Decoding], waited_s: float) -> None:
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
        self._teller.ran([run])
        for decoding, output in zip(chosen, outputs, strict=True):
            self._begin(decoding, output)
        self._say()  # first tokens do not wait for the step that comes now

    def _begin(self, decoding: Decoding, output: Arrays) -> None:
        """The prompt is in. Where the graph scores what follows it, the first token is there too."""
        decoding.states = initial(self.card, output)
        decoding.prompt = ()
        scores = output.get(self.card.manifest.roles.scores)
        text = self.card.manifest.text
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
            self._teller.chunk(decoding)
            self._batches.enter(decoding)

    # --- ends ---------------------------------------------------------------------------------------

    def _finish(self, decoding: Decoding, reason: str) -> None:
        self._teller.finished(decoding, reason)
        self._scheduler.finish((decoding,), (), self._clock())

    def _fail(self, decoding: Decoding, error: Exception) -> None:
        self._teller.failed(decoding, self._told_of(error))
        self._scheduler.finish((decoding,), (), self._clock())

    def _told_of(self, error: Exception) -> ServingError:
        if isinstance(error, ServingError):
            return error
        if self._terminated:
            return _GONE
        told = failed(self._share.name)
        log.error("%s: a run failed: %s", self._share.name, told.message, exc_info=error)
        return told

    def _end_all(self, error: ServingError) -> None:
        for key in self._scheduler.held():
            self._scheduler.cancel(key)
            self._teller.refused(key, error)
        self._batches.clear()
        self._joining.clear()
        self._say()

    def _say(self) -> None:
        self._teller.say(self._scheduler.population())


def _limits(card: Card, stalled_s: float) -> Limits:
    stepwise = card.manifest.stepwise
    assert stepwise is not None
    return Limits(
        slots=stepwise.max_sequences,
        waiting=stepwise.max_sequences,
        max_queue_s=card.manifest.batching.max_queue_ms / 1000,
        idle_timeout_s=stepwise.idle_timeout_s,
        stalled_s=stalled_s,
    )
