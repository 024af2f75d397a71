"""Requests in flight: each accepted request ends exactly once.

InferenceRequest -> admission -> Submit to the engine -> Chunks and one Event -> the caller's callback,
metrics, request log and trace. Futures and callbacks stay in the front end; the engine knows keys only.
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

_STEPWISE_CALLS = "call Generate, Translate or Follow, or ModelInfer with a sequence_id"


class Send(Protocol):
    """The type of `Transport.send`."""

    def __call__(
        self, message: messages.Message, when: messages.SendPolicy = messages.SendPolicy.TURN
    ) -> None: ...


class InferenceRequest(NamedTuple):
    """A validated request for one model version."""

    served: ServedModel
    method: str  # the RPC, for metrics and log
    inputs: Arrays
    text: str | None = None
    field: str = ""
    outputs: tuple[str, ...] = ()
    tokens: bool = False
    priority: int = 0
    queue_timeout_s: float = 0.0  # 0: no queue timeout
    remaining_s: float | None = None  # until the call's deadline
    caller: str = ""
    how: messages.Decode | messages.Feed | None = None  # None: one-shot


class _InFlight(NamedTuple):
    request: InferenceRequest
    accepted: float
    price_s: float  # device seconds it was admitted with
    before_s: float  # device seconds queued before it
    on_event: Callable[[messages.Event], None]
    on_chunk: Callable[[messages.Chunk, float], None] | None
    trace: Trace | None


class InFlightRequests:
    """The accepted requests that have not ended, by key. Event loop only.

    `observe_lag` gets the age in seconds of each engine update when it is processed.
    """

    def __init__(
        self,
        send: Send,
        registry: ModelRegistry,
        request_log: RequestLog | None = None,
        observe_lag: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send, self._registry, self._clock = send, registry, clock
        self._request_log = request_log or RequestLog()
        self._observe_lag = observe_lag
        self._keys = itertools.count(1)
        self._in_flight: dict[int, _InFlight] = {}
        self._tokenizing: dict[int, asyncio.Future[messages.Event]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    def __len__(self) -> int:
        return len(self._in_flight)

    def start(
        self,
        request: InferenceRequest,
        on_event: Callable[[messages.Event], None],
        on_chunk: Callable[[messages.Chunk, float], None] | None = None,
    ) -> int:
        """Accept a request and send it to the engine. Returns its key.

        Args:
            on_event: called once with the request's event, unless the request is cancelled.
            on_chunk: called with each chunk and the time the engine sent it, before the event.

        Raises:
            ServingError: the request is refused, and recorded as such.
        """
        try:
            return self._start(request, on_event, on_chunk)
        except ServingError as error:
            request.served.record_refusal(request.method, error)
            raise in_field(error, request.field) from None

    def _start(
        self,
        request: InferenceRequest,
        on_event: Callable[[messages.Event], None],
        on_chunk: Callable[[messages.Chunk, float], None] | None,
    ) -> int:
        if self.draining:
            raise unavailable("the server is stopping; send to another server")
        served = request.served
        if served.spec.is_stepwise and request.how is None:
            raise bad_input("model", f"model {served.spec.model!r} has no one-shot form; {_STEPWISE_CALLS}")
        measured, price_s = None, 0.0  # the engine decides whether a sequence gets a slot in time
        if request.how is None:
            if request.text is None:
                measured = measure_request(served.spec, request.inputs)
                price_s = served.admission.price(measured.rows, measured.size)
            else:
                price_s = served.admission.price_text(request.text)
        now = self._clock()
        deadline = deadline_of(now, request.remaining_s, request.queue_timeout_s)
        before_s = served.admission.enter(price_s, now, deadline)
        key = next(self._keys)
        self._in_flight[key] = _InFlight(request, now, price_s, before_s, on_event, on_chunk, current.get())
        self._idle.clear()
        served.meters.record_accepted(request.method)
        spec = served.spec
        submit = messages.Submit(
            key, spec.name, spec.version, request.inputs, request.text, request.field, request.outputs,
            request.tokens, request.priority, now, deadline, request.caller, measured, request.how,
        )  # fmt: skip
        self._send(submit, self._send_policy(request))
        return key

    def _send_policy(self, request: InferenceRequest) -> messages.SendPolicy:
        """Generation requests and a model's only request are sent at once. Other one-shot requests are
        coalesced, so that they can share a batch."""
        if isinstance(request.how, messages.Decode) or request.served.admission.requests == 1:
            return messages.SendPolicy.NOW
        return messages.SendPolicy.COALESCE if request.how is None else messages.SendPolicy.TURN

    async def infer(self, request: InferenceRequest) -> messages.Event:
        """Send a request and wait for its event. Cancelling the wait cancels the request.

        Raises:
            ServingError: the request was refused, or failed.
        """
        future: asyncio.Future[messages.Event] = asyncio.get_running_loop().create_future()

        def resolve(event: messages.Event) -> None:
            if not future.done():
                future.set_result(event)

        key = self.start(request, resolve)
        try:
            event = await future
        finally:
            if not future.done() or future.cancelled():
                self.cancel(key)
        if event.error is not None:
            raise event.error
        return event

    def cancel(self, key: int) -> None:
        """End a request whose call was cancelled; unknown keys are ignored.

        gRPC also cancels a call at its deadline. Such a request is recorded as `deadline`, not `cancelled`.
        """
        entry = self._in_flight.get(key)
        if entry is None:
            return
        event, remaining_s = None, entry.request.remaining_s
        if remaining_s is not None and is_past(remaining_s - (self._clock() - entry.accepted)):
            event = messages.Event(key, None, deadline_passed("before the answer"))
        seconds = self._end(key, entry, event)
        if event is not None:
            entry.request.served.record_end(event, seconds)
        self._send(messages.Cancel(key))

    def deliver(self, events: messages.Events) -> None:
        """Process an engine update: pass chunks and events on to the requests still in flight."""
        if events.sent:
            self._observe_lag(self._clock() - events.sent)
        served = self._registry.get(events.model, events.version)
        if served is not None:
            served.record_runs(events)
        for chunk in events.chunks:
            self._pass_on(chunk, events.sent)
        for event in events.events:
            entry = self._in_flight.get(event.key)
            if entry is None:
                if (tokenizing := self._tokenizing.get(event.key)) is not None and not tokenizing.done():
                    tokenizing.set_result(event)
                continue
            seconds = self._end(event.key, entry, event)
            entry.request.served.admission.learn_wait(entry.before_s, event)
            entry.request.served.record_end(event, seconds)
            try:
                entry.on_event(event)
            except Exception:  # must not affect the other requests of the batch
                log.exception("request %d: processing its result failed", event.key)

    def _pass_on(self, chunk: messages.Chunk, sent: float) -> None:
        entry = self._in_flight.get(chunk.key)
        if entry is None or entry.on_chunk is None:
            return
        try:
            entry.on_chunk(chunk, sent)
        except Exception:  # as in `deliver`
            log.exception("request %d: processing a chunk failed", chunk.key)

    async def tokenize(
        self, served: ServedModel, text: str | None, ids: tuple[int, ...], field: str
    ) -> messages.Event:
        """Tokenize a text, or name ids. The event has the ids as output `ids`, and the tokens.

        Raises:
            ServingError: BAD_INPUT, the text cannot be tokenized.
        """
        future: asyncio.Future[messages.Event] = asyncio.get_running_loop().create_future()
        key = next(self._keys)
        self._tokenizing[key] = future
        self._send(messages.Tokenize(key, served.spec.name, served.spec.version, text, ids, field))
        try:
            event = await future
        finally:
            if self._tokenizing.pop(key, None) is not None and not future.done():
                self._send(messages.Cancel(key))
        if event.error is not None:
            raise event.error
        return event

    def send(self, message: messages.Message) -> None:
        """Send the engine a message that has no reply."""
        self._send(message)

    def fail_all(self, error: ServingError) -> None:
        """End all requests in flight with `error`, after the engine process was lost."""
        for key, future in list(self._tokenizing.items()):
            if not future.done():  # its task may not have run yet
                future.set_result(messages.Event(key, None, error))
        for key, entry in list(self._in_flight.items()):
            spec = entry.request.served.spec
            self.deliver(messages.Events(spec.name, spec.version, [messages.Event(key, None, error)]))

    def _end(self, key: int, entry: _InFlight, event: messages.Event | None) -> float:
        """Record a request's end. Returns the seconds since it was accepted. No event: it was cancelled."""
        del self._in_flight[key]
        request, trace, seconds = entry.request, entry.trace, self._clock() - entry.accepted
        served, outcome = request.served, _outcome(event)
        served.admission.leave(entry.price_s)
        served.meters.record_ended(request.method, outcome, seconds, trace.id if trace is not None else "")
        if trace is not None or self._request_log.is_enabled_for(outcome):
            summary = RequestSummary(
                served.spec, request.method, request.field, request.text, entry.on_chunk is not None,
                entry.accepted, seconds, outcome, event, isinstance(request.how, messages.Feed),
            )  # fmt: skip
            self._request_log.ended(summary, trace)
            if trace is not None:
                trace.request_ended(summary)
        if not self._in_flight:
            self._idle.set()
        return seconds

    async def drain(self, within_s: float) -> bool:
        """Refuse new requests and wait for those in flight. False if some are left after `within_s`."""
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
