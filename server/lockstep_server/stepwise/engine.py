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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import port
from ..errors import Meaning, ServingError, bad_input, failed, in_field, unavailable
from ..models.gate import Share
from ..text.pieces import Pieces, Text
from . import feeding, prefill, sampler
from .batch import Batch
from .scheduler import Limits, Plan, Scheduler
from .sequence import Conversation, Decoding, Element, Unsaid
from .slots import initial, key_of, lengths_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..models.card import Card
    from ..models.datatypes import Arrays
    from ..models.gate import Gate, Turn
    from ..models.session import Session
    from ..text.tokenizer import Vocabulary

log = logging.getLogger(__name__)

_TERMINATE_S = 1.0
_GONE = unavailable("the model is being unloaded, or the server is stopping")
_MOST_RUNS = 64
"""Runs that may wait to be told of."""


@dataclass
class Said:
    """What a step has to say, and the runs since something was last said."""

    events: list[port.Event] = field(default_factory=list)
    chunks: list[port.Chunk] = field(default_factory=list)
    runs: list[port.Run] = field(default_factory=list)


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
        self._session, self._prefill = session, prefill_session
        self._pieces = Pieces(vocabulary) if vocabulary else None
        self._gate, self._report, self._clock = gate, report, clock
        self._most_rows = card.manifest.batching.max_rows if batching and card.batched else 1
        self._scheduler = Scheduler(_limits(card, stalled_s))
        self._batches: list[Batch] = []
        self._joining: list[Decoding] = []
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._changed = threading.Condition()
        self._sleeps = self._woken = False
        self._closing = self._terminated = False
        self._flush_s, self._flushed = 0.0, 0.0
        self._prefill_pace = 0.0  # seconds an element, as learned
        self._said = Said()
        self._told = port.Population(0, 0, 0)
        self._share = Share(f"{card.name}/{card.version}")
        self._thread = threading.Thread(target=self._work, name=f"engine-{card.name}", daemon=True)

    # --- from other threads -------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def submit(self, submit: port.Submit, inputs: Arrays, tokens: tuple[str, ...] = ()) -> None:
        """Take a request in. It ends in exactly one event, unless it is cancelled."""
        self._post(self._take, submit, inputs, tokens)

    def cancel(self, key: int) -> bool:
        self._post(self._scheduler.cancel, key)
        return True

    def credit(self, key: int, n: int) -> None:
        self._post(self._scheduler.credit, key, n)

    def leave(self, sequence: port.SequenceId) -> None:
        self._post(self._scheduler.leave, sequence)

    def pace(self, flush_s: float) -> None:
        """Hold chunks back for this long at most."""
        self._flush_s = flush_s

    def stop(self, within_s: float) -> None:
        """Go on for `within_s` seconds at most, then fail what is left with UNAVAILABLE."""
        self._closing = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(within_s)
        self._terminated = True
        self._session.terminate()
        if self._prefill is not None:
            self._prefill.terminate()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(_TERMINATE_S)
        self._drain()
        self._end_all(_GONE)

    def _post(self, verb: Callable[..., None], *args: Any) -> None:
        self._inbox.append((verb, args))
        if self._sleeps:
            self._wake()

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
        self._commit(plan, outcome)

    def _drain(self) -> None:
        while self._inbox:
            verb, args = self._inbox.popleft()
            verb(*args)

    # --- taking in ----------------------------------------------------------------------------------

    def _take(self, submit: port.Submit, inputs: Arrays, tokens: tuple[str, ...]) -> None:
        error: ServingError | None
        try:
            error = (
                self._take_decoding(submit, submit.how, inputs, tokens)
                if isinstance(submit.how, port.Decode)
                else self._take_element(submit, inputs)
            )
        except ServingError as refused:
            error = refused
        if error is not None:
            self._said.events.append(port.Event(submit.key, None, in_field(error, submit.field)))
            self._say_now()

    def _take_decoding(
        self, submit: port.Submit, how: port.Decode, inputs: Arrays, tokens: tuple[str, ...]
    ) -> ServingError | None:
        if self._closing:
            return _GONE
        most = self.card.manifest.stepwise
        assert most is not None
        prompt = self._prompt(submit, inputs)
        decoding = Decoding(
            submit.key, submit.accepted, submit.deadline, submit.priority, submit.caller,
            prompt=prompt, how=how, source=tokens,
            limit=most.max_tokens if how.max_tokens is None else how.max_tokens,
        )  # fmt: skip
        if decoding.limit == 0:
            self._said.events.append(port.Event(submit.key, None, reason="length"))
            self._say_now()
            return None
        if self._pieces is not None:
            decoding.text = Text(self._pieces.stream(), how.stop)
        return self._scheduler.join(decoding, self._clock())

    def _prompt(self, submit: port.Submit, inputs: Arrays) -> tuple[int, ...]:
        ids = next(iter(inputs.values())).ravel().tolist() if inputs else []
        text = self.card.manifest.text
        if not ids and self.card.manifest.task == "generate" and text and text.begin is not None:
            ids = [text.begin]
        if not ids:
            raise bad_input(
                submit.field, "it is empty, and the model has no begin id; send at least one word"
            )
        if self.card.prefill is not None:
            prefill.measure_prompt(self.card.prefill, ids)
        return tuple(ids)

    def _take_element(self, submit: port.Submit, inputs: Arrays) -> ServingError | None:
        assert isinstance(submit.how, port.Feed)
        conversation = Conversation(
            submit.key, submit.accepted, None, submit.priority, submit.caller, id=submit.how.sequence
        )
        element = Element(submit.key, inputs, submit.outputs, submit.accepted, submit.deadline, conversation)
        if self._closing and submit.how.start:
            return _GONE
        return self._scheduler.feed(element, submit.how, self._clock())

    # --- running ------------------------------------------------------------------------------------

    def _run(self, plan: Plan, turn: Turn) -> list[tuple[Element, Arrays | None, ServingError | None, Any]]:
        for decoding in (*plan.left, *(e.who for e in plan.ended if isinstance(e.who, Decoding))):
            self._leave(decoding)
        for decoding in plan.resume:
            self._enter(decoding)
        self._joining.extend(plan.join)
        self._join(turn)
        for batch in list(self._batches):
            self._step_batch(batch, turn.waited_s)
        return self._feed(plan.fed, turn.waited_s)

    def _commit(self, plan: Plan, fed: list[tuple[Element, Arrays | None, ServingError | None, Any]]) -> None:
        now = self._clock()
        for who, error in plan.ended:
            self._end(who, error)
        for element, outputs, error, timings in fed:
            if not element.gone:
                wanted = element.outputs
                if outputs is not None and wanted:
                    outputs = {name: outputs[name] for name in wanted}
                self._said.events.append(port.Event(element.key, outputs, error, timings, element.of.steps))
        self._scheduler.finish((), [element for element, *_ in fed], now)
        self._tidy()
        self._speak(now)

    # --- prompts ------------------------------------------------------------------------------------

    def _join(self, turn: Turn) -> None:
        """Bring in who has a slot: their prompts in one run, as many as fit."""
        self._joining = [one for one in self._joining if one.slot]
        if not self._joining:
            return
        if self.card.prefill is None or self._prefill is None:
            for decoding in self._joining:
                decoding.first_run = self._clock()
                decoding.states = initial(self.card)
                self._enter(decoding)
            self._joining = []
            return
        chosen = prefill.within(self.card.prefill, self._joining, self._prefill_budget(turn))
        self._joining = self._joining[len(chosen) :]
        if not self._try_prefill(chosen, turn.waited_s) and len(chosen) > 1:
            for decoding in chosen:
                self._try_prefill([decoding], 0.0)

    def _prefill_budget(self, turn: Turn) -> float:
        most = float(self.card.manifest.batching.max_padded_elements)
        if turn.max_run_s is not None and self._prefill_pace:
            most = min(most, turn.max_run_s / self._prefill_pace)
        return most

    def _try_prefill(self, chosen: Sequence[Decoding], waited_s: float) -> bool:
        """Run the prompts; where the run fails and there was one, that one ends."""
        assert self.card.prefill is not None
        assert self._prefill is not None
        begun = self._clock()
        try:
            prompts = [prefill.prompt_of(self.card.prefill, one.prompt) for one in chosen]
            outputs = prefill.run(self.card.prefill, self._prefill, prompts)
        except Exception as error:
            if len(chosen) == 1:
                self._fail(chosen, error)
            return False
        took = self._clock() - begun
        longest = max(prompt.size for prompt in prompts)
        elements = sum(prompt.size for prompt in prompts)
        padded = longest * len(prompts)
        pace = took / padded
        self._prefill_pace += 0.1 * (pace - self._prefill_pace) if self._prefill_pace else pace
        self._said.runs.append(
            port.Run(len(prompts), longest, elements, padded, 0.0, took, 0.0, waited_s, "prefill")
        )
        for decoding, output in zip(chosen, outputs, strict=True):
            decoding.first_run, decoding.prefill_s = begun, took
            self._begin(decoding, output)
        return True

    def _begin(self, decoding: Decoding, output: Arrays) -> None:
        """The prompt is in. Where the graph scores what follows it, the first token is there too."""
        decoding.states = initial(self.card, output)
        decoding.prompt = ()
        scores = output.get(self.card.manifest.roles.scores)
        text = self.card.manifest.text
        if scores is not None:
            self._first_token(decoding, scores.reshape(1, -1))
        elif text is not None and text.begin is not None:
            decoding.token = text.begin
            self._enter(decoding)
        else:  # nothing tells what to begin with
            self._fail([decoding], ServingError(Meaning.FAILED, "the model names no text.begin"))

    def _first_token(self, decoding: Decoding, scores: np.ndarray[Any, Any]) -> None:
        how, text = decoding.how, self.card.manifest.text
        choices = sampler.Choices.of(1)
        choices.set(0, how.temperature, how.top_k, how.top_p)
        u = sampler.uniform(np.array([how.seed], np.uint64), np.zeros(1, np.uint64))
        tokens = sampler.sample(scores, u, choices)
        token = int(tokens[0])
        decoding.token, decoding.made = token, 1
        decoding.unsaid.ids.append(token)
        if text is not None and token == text.end:
            self._finish(decoding, "end")
            return
        if how.log_probabilities:
            decoding.unsaid.log_probabilities.append(float(sampler.log_probabilities(scores, tokens)[0]))
        if how.stop and decoding.text is not None:
            decoding.unsaid.text += decoding.text.add((token,))
        if decoding.text is not None and decoding.text.stopped:
            self._finish(decoding, "stop")
        elif decoding.made >= decoding.limit:
            self._finish(decoding, "length")
        else:
            self._enter(decoding)

    # --- batches ------------------------------------------------------------------------------------

    def _enter(self, decoding: Decoding) -> None:
        """Into the batch of its bucket that has room, or a new one."""
        assert decoding.states is not None
        key = key_of(self.card, lengths_of(self.card, decoding.states))
        for batch in self._batches:
            if batch.key == key and batch.has_room(self._most_rows):
                break
        else:
            batch = Batch(self.card, key)
            self._batches.append(batch)
        batch.enter(decoding, self._most_rows)

    def _leave(self, decoding: Decoding, *, keep: bool = False) -> None:
        for batch in self._batches:
            if decoding in batch.row_of:
                batch.leave(decoding, keep=keep)
                return

    def _step_batch(self, batch: Batch, waited_s: float) -> None:
        begun = self._clock()
        try:
            outputs = batch.step(self._session)
            took = self._clock() - begun
            ended = batch.choose(outputs, took)
        except Exception as error:
            self._split(batch, error)
            return
        rows = len(batch)
        self._said.runs.append(port.Run(rows, 1, rows, batch.rows, 0.0, took, 0.0, waited_s, "stepwise"))
        for decoding, reason in ended:
            batch.leave(decoding)
            self._finish(decoding, reason)

    def _split(self, batch: Batch, error: Exception) -> None:
        """A step failed: each of its sequences steps alone, and who fails alone has failed."""
        members = list(batch.row_of)
        self._batches.remove(batch)
        for decoding in members:
            batch.leave(decoding, keep=True)
        if len(members) == 1:
            self._fail(members, error)
            return
        for decoding in members:
            assert decoding.states is not None
            alone = Batch(self.card, batch.key)
            self._batches.append(alone)
            alone.enter(decoding, 1)
            self._step_batch(alone, 0.0)

    def _tidy(self) -> None:
        """Batches without anyone go, large ones shrink, who outgrew its bucket moves, and what a
        failure split comes together again."""
        for batch in list(self._batches):
            for decoding in batch.outgrown():
                batch.leave(decoding, keep=True)
                self._move(decoding)
            if not batch.row_of:
                self._batches.remove(batch)
            elif len(self._batches) > 1 and self._joinable(batch):
                self._batches.remove(batch)
                for decoding in list(batch.row_of):
                    batch.leave(decoding, keep=True)
                    self._enter(decoding)
            else:
                batch.fit()

    def _joinable(self, batch: Batch) -> bool:
        """Another batch of its key has room for all of it."""
        return any(
            other is not batch and other.key == batch.key and len(other) + len(batch) <= self._most_rows
            for other in self._batches
        )

    def _move(self, decoding: Decoding) -> None:
        assert decoding.states is not None
        lengths = lengths_of(self.card, decoding.states)
        if any(count >= self.card.manifest.lengths[name].max for name, count in lengths.items()):
            self._finish(decoding, "length")
        else:
            self._enter(decoding)

    # --- fed sequences ------------------------------------------------------------------------------

    def _feed(
        self, elements: Sequence[Element], waited_s: float
    ) -> list[tuple[Element, Arrays | None, ServingError | None, Any]]:
        outcomes: list[tuple[Element, Arrays | None, ServingError | None, Any]] = []
        for group in feeding.groups(self.card, elements, self._most_rows) if elements else ():
            outcomes.extend(self._feed_group(group, waited_s))
        return outcomes

    def _feed_group(
        self, group: Sequence[Element], waited_s: float
    ) -> list[tuple[Element, Arrays | None, ServingError | None, Any]]:
        begun = self._clock()
        try:
            answers, states = feeding.run(self.card, self._session, group)
        except Exception as error:
            if len(group) > 1:
                return [outcome for one in group for outcome in self._feed_group([one], 0.0)]
            return [(group[0], None, self._told_of(error), port.NO_TIMINGS)]
        took, rows = self._clock() - begun, len(group)
        self._said.runs.append(port.Run(rows, 1, rows, rows, 0.0, took, 0.0, waited_s, "stepwise"))
        outcomes: list[tuple[Element, Arrays | None, ServingError | None, Any]] = []
        for element, answer, state in zip(group, answers, states, strict=True):
            element.of.states = state
            element.of.steps += 1
            timings = port.Timings(begun - element.accepted, took, 1, float(rows))
            outcomes.append((element, answer, None, timings))
        return outcomes

    # --- ends ---------------------------------------------------------------------------------------

    def _finish(self, decoding: Decoding, reason: str) -> None:
        """It has ended well, and has left its row: its last chunk, and its event."""
        if reason == "end":
            decoding.unsaid.ids.pop()  # the end token is no text
            decoding.made -= 1
        self._chunk(decoding, last=True)
        self._said.events.append(
            port.Event(decoding.key, None, None, self._timings(decoding), decoding.made, reason=reason)
        )
        self._scheduler.finish((decoding,), (), self._clock())

    def _fail(self, decodings: Sequence[Decoding], error: Exception) -> None:
        told = self._told_of(error)
        for decoding in decodings:
            self._said.events.append(port.Event(decoding.key, None, told, self._timings(decoding)))
        self._scheduler.finish(decodings, (), self._clock())

    def _told_of(self, error: Exception) -> ServingError:
        if isinstance(error, ServingError):
            return error
        told = _GONE if self._terminated else failed(self._share.name)
        log.error("%s: a run failed: %s", self._share.name, told.message, exc_info=error)
        return told

    def _end(self, who: Decoding | Element, error: ServingError) -> None:
        """What was made before is said first."""
        timings = port.NO_TIMINGS
        if isinstance(who, Decoding):
            self._chunk(who)
            timings = self._timings(who)
        self._said.events.append(port.Event(who.key, None, error, timings))

    def _end_all(self, error: ServingError) -> None:
        for key in self._scheduler.held():
            self._scheduler.cancel(key)
            self._said.events.append(port.Event(key, None, error))
        self._batches.clear()
        self._joining.clear()
        self._say_now()

    def _timings(self, one: Decoding) -> port.Timings:
        begun = one.first_run or self._clock()
        return port.Timings(
            begun - one.accepted,
            one.prefill_s + one.compute_s,
            one.steps,
            one.rows / one.steps if one.steps else 0.0,
            one.prefill_s,
            max(one.first_token - one.accepted, 0.0) if one.first_token else 0.0,
        )

    # --- saying -------------------------------------------------------------------------------------

    def _speak(self, now: float) -> None:
        """First tokens at once; all else when the flush interval is over."""
        full = any(batch.must_say() for batch in self._batches)
        if full or now - self._flushed >= self._flush_s:
            self._flushed = now
            for batch in self._batches:
                batch.collect_all(self._chunk)
                batch.fresh()
        else:
            for batch in self._batches:
                for decoding in batch.fresh():
                    batch.collect(decoding)
                    self._chunk(decoding)
        self._pause_readers(now)
        said = self._said
        if said.events or said.chunks or len(said.runs) >= _MOST_RUNS or not self._batches:
            self._say_now()

    def _pause_readers(self, now: float) -> None:
        """Who has no credit left steps no more; it keeps its slot, its states and what is unsaid."""
        for batch in self._batches:
            for decoding in [one for one in batch.row_of if one.credits <= 0 and one.unsaid.ids]:
                batch.leave(decoding, keep=True)
                self._scheduler.pause(decoding, now)

    def _chunk(self, decoding: Decoding, *, last: bool = False) -> None:
        """Say what it made, if its reader has room for a chunk; the last one always has."""
        unsaid = decoding.unsaid
        if decoding.credits <= 0 and not last:
            return
        text = unsaid.text
        if decoding.text is not None:
            text += "" if decoding.how.stop else decoding.text.add(unsaid.ids)
            text += decoding.text.finish() if last else ""
        if not (unsaid.ids or text):
            return
        if not decoding.told:
            decoding.first_token = self._clock()
        pieces: tuple[str, ...] = ()
        if decoding.how.attention and self._pieces is not None:
            pieces = tuple(map(self._pieces.token, unsaid.ids))
        source = () if decoding.told else decoding.source
        self._said.chunks.append(
            port.Chunk(
                decoding.key, unsaid.ids, text, unsaid.log_probabilities, unsaid.attention, pieces, source
            )
        )
        decoding.unsaid = Unsaid()
        decoding.credits -= 1
        decoding.told = True

    def _say_now(self) -> None:
        said = self._said
        population = self._scheduler.population()
        if not (said.events or said.chunks or said.runs or population != self._told):
            return
        self._said, self._told = Said(), population
        self._report(
            port.Events(
                self.card.name,
                self.card.version,
                said.events,
                said.runs,
                said.chunks,
                population,
                self._clock(),
            )
        )


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
