"""Requests in flight: accepted here, sent over the port, and each ended exactly once.

Futures and streams live on this side; the engines know keys only.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from .. import messages
from ..errors import ErrorCode, ServingError, bad_input, deadline_passed, in_field, unavailable
from ..model.sizes import measure_request
from .admission import deadline_of, is_past
from .request_log import RequestLog
from .tracing import RequestSummary, Trace, current

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..model.datatypes import Arrays
    from .registry import ModelRegistry, ServedModel

log = logging.getLogger(__name__)

_STEPS = "call Generate, Translate or Follow, or ModelInfer with a sequence_id"


class Send(Protocol):
    """`Transport.send`."""

    def __call__(
        self, message: messages.Message, when: messages.SendPolicy = messages.SendPolicy.TURN
    ) -> None: ...


class InferenceRequest(NamedTuple):
    """A checked request for one model version."""

    served: ServedModel
    method: str  # for the metrics
    inputs: Arrays
    text: str | None = None
    field: str = ""
    outputs: tuple[str, ...] = ()
    tokens: bool = False
    priority: int = 0
    queue_timeout_s: float = 0.0  # 0: none of its own
    remaining_s: float | None = None  # of the call's deadline
    caller: str = ""
    how: messages.Decode | messages.Feed | None = None  # none: one-shot


class _InFlight(NamedTuple):
    ask: InferenceRequest
    accepted: float
    seconds: float  # the price at which it was accepted
    before_s: float  # seconds of the device that lay before it
    resolve: Callable[[messages.Event], None]
    take: Callable[[messages.Chunk, float], None] | None
    trace: Trace | None


class InFlightRequests:
    """All requests in flight. All on the event loop."""

    def __init__(
        self,
        send: Send,
        registry: ModelRegistry,
        request_log: RequestLog | None = None,
        took: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send, self._registry, self._clock = send, registry, clock
        self._request_log = request_log or RequestLog()
        self._took = took  # told the age of what engines say
        self._keys = itertools.count(1)
        self._pending: dict[int, _InFlight] = {}
        self._reading: dict[int, asyncio.Future[messages.Event]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    def __len__(self) -> int:
        return len(self._pending)

    def start(
        self,
        ask: InferenceRequest,
        resolve: Callable[[messages.Event], None],
        take: Callable[[messages.Chunk, float], None] | None = None,
    ) -> int:
        """Accept a request; `resolve` is called with its one event, unless it is cancelled. `take` is
        called before with each chunk, and with when it was sent.

        Raises:
            ServingError: it is refused at the door; nothing has been accepted.
        """
        try:
            return self._start(ask, resolve, take)
        except ServingError as error:
            ask.served.refuse(ask.method, error)
            raise in_field(error, ask.field) from None

    def _start(
        self,
        ask: InferenceRequest,
        resolve: Callable[[messages.Event], None],
        take: Callable[[messages.Chunk, float], None] | None,
    ) -> int:
        if self.draining:
            raise unavailable("the server is stopping")
        served = ask.served
        if served.spec.steps and ask.how is None:
            raise bad_input("model", f"model {served.spec.model!r} answers step by step only; {_STEPS}")
        measured, seconds = None, 0.0  # whether a sequence finds a slot in time is its engine's to say
        if ask.how is None:
            if ask.text is None:
                measured = measure_request(served.spec, ask.inputs)
                seconds = served.admission.price(measured.rows, measured.size)
            else:
                seconds = served.admission.price_text(ask.text)
        now = self._clock()
        deadline = deadline_of(now, ask.remaining_s, ask.queue_timeout_s)
        before_s = served.admission.enter(seconds, now, deadline)
        key = next(self._keys)
        self._pending[key] = _InFlight(ask, now, seconds, before_s, resolve, take, current.get())
        self._idle.clear()
        served.meters.record_accepted(ask.method)
        spec = served.spec
        submit = messages.Submit(
            key, spec.name, spec.version, ask.inputs, ask.text, ask.field, ask.outputs, ask.tokens,
            ask.priority, now, deadline, ask.caller, measured, ask.how,
        )  # fmt: skip
        self._send(submit, self._when(ask))
        return key

    def _when(self, ask: InferenceRequest) -> messages.SendPolicy:
        """When a request crosses: a stream's first token and a model's only request are not held; one-shot
        requests beside others for their model may share a run."""
        if isinstance(ask.how, messages.Decode) or ask.served.admission.requests == 1:
            return messages.SendPolicy.NOW
        return messages.SendPolicy.COALESCE if ask.how is None else messages.SendPolicy.TURN

    async def answer(self, ask: InferenceRequest) -> messages.Event:
        """A request's event. Leaving (the caller cancelled) takes the request out of the queue.

        Raises:
            ServingError: it was refused, or failed.
        """
        future: asyncio.Future[messages.Event] = asyncio.get_running_loop().create_future()

        def resolve(event: messages.Event) -> None:
            if not future.done():
                future.set_result(event)

        key = self.start(ask, resolve)
        try:
            event = await future
        finally:
            if not future.done() or future.cancelled():
                self.cancel(key)
        if event.error is not None:
            raise event.error
        return event

    def cancel(self, key: int) -> None:
        """Forget a request whose caller has left, or has been told that its deadline passed: to gRPC both
        are one, but the second is no wish of the caller's. A second time does nothing."""
        pending = self._pending.get(key)
        if pending is None:
            return
        event, remaining_s = None, pending.ask.remaining_s
        if remaining_s is not None and is_past(remaining_s - (self._clock() - pending.accepted)):
            event = messages.Event(key, None, deadline_passed("before the answer"))
        seconds = self._end(key, pending, event)
        if event is not None:
            pending.ask.served.take_end(event, seconds)
        self._send(messages.Cancel(key))

    def deliver(self, events: messages.Events) -> None:
        """Take in what an engine has to say: resolve each request that is still wanted."""
        if events.sent:
            self._took(self._clock() - events.sent)
        served = self._registry.get(events.model, events.version)
        if served is not None:
            served.take_runs(events)
        for chunk in events.chunks:
            self._hand_over(chunk, events.sent)
        for event in events.events:
            pending = self._pending.get(event.key)
            if pending is None:
                if (reading := self._reading.get(event.key)) is not None and not reading.done():
                    reading.set_result(event)
                continue
            seconds = self._end(event.key, pending, event)
            pending.ask.served.admission.learn_wait(pending.before_s, event)
            pending.ask.served.take_end(event, seconds)
            try:
                pending.resolve(event)
            except Exception:  # a caller's trouble stays its own: the others of the batch are told
                log.exception("the answer to request %d could not be handed over", event.key)

    def _hand_over(self, chunk: messages.Chunk, sent: float) -> None:
        pending = self._pending.get(chunk.key)
        if pending is None or pending.take is None:
            return
        try:
            pending.take(chunk, sent)
        except Exception:  # as above
            log.exception("a chunk of request %d could not be handed over", chunk.key)

    async def read(
        self, served: ServedModel, text: str | None, ids: tuple[int, ...], field: str
    ) -> messages.Event:
        """A text's ids (in the outputs) and tokens; or the tokens of ids.

        Raises:
            ServingError: it cannot be tokenized.
        """
        future: asyncio.Future[messages.Event] = asyncio.get_running_loop().create_future()
        key = next(self._keys)
        self._reading[key] = future
        self._send(messages.Tokenize(key, served.spec.name, served.spec.version, text, ids, field))
        try:
            event = await future
        finally:
            if self._reading.pop(key, None) is not None and not future.done():
                self._send(messages.Cancel(key))
        if event.error is not None:
            raise event.error
        return event

    def send(self, message: messages.Message) -> None:
        """A message that asks for no answer."""
        self._send(message)

    def fail_all(self, error: ServingError) -> None:
        """End everything in flight: what was to answer it has gone."""
        for key, future in list(self._reading.items()):
            if not future.done():  # it may be about to read its answer
                future.set_result(messages.Event(key, None, error))
        for key, pending in list(self._pending.items()):
            spec = pending.ask.served.spec
            self.deliver(messages.Events(spec.name, spec.version, [messages.Event(key, None, error)]))

    def _end(self, key: int, pending: _InFlight, event: messages.Event | None) -> float:
        """Close a request's account; the seconds since it was accepted. No event: its caller left."""
        del self._pending[key]
        ask, trace, seconds = pending.ask, pending.trace, self._clock() - pending.accepted
        served, outcome = ask.served, _outcome(event)
        served.admission.leave(pending.seconds)
        served.meters.record_ended(ask.method, outcome, seconds, trace.id if trace is not None else "")
        if trace is not None or self._request_log.listens(outcome):
            story = RequestSummary(
                served.spec, ask.method, ask.field, ask.text, pending.take is not None, pending.accepted,
                seconds, outcome, event, isinstance(ask.how, messages.Feed),
            )  # fmt: skip
            self._request_log.ended(story, trace)
            if trace is not None:
                trace.ended(story)
        if not self._pending:
            self._idle.set()
        return seconds

    async def drain(self, within_s: float) -> bool:
        """Refuse what comes, and wait for what is in flight. False: some is left after `within_s`."""
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), within_s)
        except TimeoutError:
            return False
        return True


def _outcome(event: messages.Event | None) -> str:
    if event is None:
        return ErrorCode.CANCELLED.value
    return "ok" if event.error is None else event.error.code.value
