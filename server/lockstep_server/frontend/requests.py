"""Requests in flight: each accepted request ends exactly once.

InferenceRequest -> its text tokenized -> admission -> a message to the engine -> Chunks and one Event ->
the caller's callback, metrics, request log and trace. Futures and callbacks stay in the front end; the
engine knows keys only.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, NoReturn, Protocol

import msgspec

from .. import memory, messages
from ..errors import ErrorCode, ServingError, bad_input, deadline_passed, in_field, unavailable
from ..model.spec import measure_request, text_inputs
from .admission import deadline_of, is_past
from .callers import current as caller_of_task
from .inference_request import elements
from .recorder import EndedRequest, EndedRequests
from .request_log import RequestLog
from .request_log import log as request_logger
from .tokenization import SHORT_TEXT
from .tracing import RequestSummary, Trace, current
from .usage import CallerUsage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..text.tokenizer import EncodedText
    from .callers import Caller
    from .inference_request import InferenceRequest
    from .pulls import Pulls
    from .registry import ModelRegistry
    from .served_model import ServedModel
    from .tokenization import Tokenizers

log = logging.getLogger(__name__)

_TRIM_S = 0.5
"""How long after a burst its memory is given back."""

_NOW, _COALESCE = messages.SendPolicy.NOW, messages.SendPolicy.COALESCE

_STOPPING = "the server is stopping; send to another server"
_STEPWISE_CALLS = "call Generate, Translate or Follow, or ModelInfer with a sequence_id"


class Send(Protocol):
    """The type of `Transport.send`."""

    def __call__(
        self, message: messages.Message, when: messages.SendPolicy = messages.SendPolicy.TURN
    ) -> None: ...


class _InFlight(msgspec.Struct, eq=False):
    """A request, from its arrival to its end."""

    key: int
    request: InferenceRequest
    caller: Caller
    arrived: float
    trace: Trace | None
    on_event: Callable[[messages.Event], None] | None  # None: `waiter` gets the event
    on_chunk: Callable[[messages.Chunk, float], None] | None = None
    waiter: asyncio.Future[messages.Event] | None = None
    sent: float = 0.0  # to the engine
    price_s: float = 0.0  # device seconds it was admitted with
    before_s: float = 0.0  # device seconds queued before it
    size: int = 0  # bytes of its tensors

    def ended(self, event: messages.Event) -> None:
        """Pass the event on."""
        if self.on_event is not None:
            self.on_event(event)
        elif self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(event)


class InFlightRequests:
    """The accepted requests that have not ended, by key. Event loop only.

    `observe_lag` gets the age in seconds of each engine update when it is processed. `usage` has what callers
    use, and their limits. Without `priorities`, those of requests are ignored. `number` is that of this front
    end, if there are several.
    """

    def __init__(
        self,
        send: Send,
        registry: ModelRegistry,
        request_log: RequestLog | None = None,
        observe_lag: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        tokenizers: Tokenizers | None = None,
        usage: CallerUsage | None = None,
        ended: EndedRequests | None = None,
        *,
        priorities: bool = True,
        number: int = 0,
    ) -> None:
        self._ended = ended or EndedRequests(0)
        self._send, self._registry, self._clock = send, registry, clock
        self._request_log = request_log or RequestLog()
        self._tokenizers = tokenizers or registry.tokenizers
        self._observe_lag, self._priorities = observe_lag, priorities
        self._own_sequences = itertools.count(number * messages.FRONT_END_KEYS + 1)
        self._draw_key = _key_drawer(number)
        self._in_flight: dict[int, _InFlight] = {}
        self.usage = usage or CallerUsage()
        self._tokenizing: dict[int, tuple[Caller, int]] = {}  # who waits for ids, with a text of what size
        self._idle: asyncio.Future[None] | None = None  # of `drain`: there are no requests any more
        self.draining = False
        self.pulls: Pulls | None = None  # where steps of sequences of other servers go
        """With peers, a server that stops goes on stepping the sequences that it holds."""
        self.sequence_streams: dict[messages.SequenceId, Callable[[ServingError], None]] = {}
        """Streams that step a sequence, by its id: each is called when the sequence has moved."""

    def __len__(self) -> int:
        return len(self._in_flight) + len(self._tokenizing)

    def start(
        self,
        request: InferenceRequest,
        on_event: Callable[[messages.Event], None],
        on_chunk: Callable[[messages.Chunk, float], None] | None = None,
    ) -> int:
        """Tokenize a request's text, accept the request and send it to the engine. Returns its key.

        Args:
            on_event: called once with the request's event, unless the request is cancelled. A request with a
                long text may be refused after this returns: its event is that refusal.
            on_chunk: called with each chunk and the time the engine sent it, before the event.

        Raises:
            ServingError: the request is refused, and recorded as such.
        """
        return self._start(request, on_event, on_chunk).key

    def _start(
        self,
        request: InferenceRequest,
        on_event: Callable[[messages.Event], None] | None,
        on_chunk: Callable[[messages.Chunk, float], None] | None = None,
        waiter: asyncio.Future[messages.Event] | None = None,
    ) -> _InFlight:
        if self.draining or request.served.spec.is_stepwise:
            self._check(request)
        if request.message.priority and not self._priorities:
            request.message.priority = 0
        caller = caller_of_task.get()
        if caller.requests_per_second or caller.tokens_per_second:
            try:
                self.usage.admit(caller, request.call)
            except ServingError as error:
                self._refuse(request, error, caller)
        key = self._draw_key()
        while key in self._in_flight or key in self._tokenizing:
            key = self._draw_key()
        arrival = _InFlight(key, request, caller, self._clock(), current.get(), on_event, on_chunk, waiter)
        if request.text is None:
            self._accept(arrival)
        else:
            self._check_room(arrival)
            self._tokenize(arrival, request.text)
        return arrival

    def _tokenize(self, arrival: _InFlight, text: str) -> None:
        """Accept a request once its text is tokenized: at once, or later if it is long.

        Raises:
            ServingError: the request is refused at once.
        """
        key, request, size = arrival.key, arrival.request, 0
        if len(text) > SHORT_TEXT:  # it may wait
            size = len(text)
            if (no_room := self.usage.take(size, arrival.caller)) is not None:
                self._refuse(request, no_room, arrival.caller)
        self._tokenizing[key] = arrival.caller, size
        refusal: list[ServingError] = []
        returned = False

        def encoded(result: EncodedText | ServingError) -> None:
            if key not in self._tokenizing:  # cancelled
                return
            self._stop_tokenizing(key)
            try:
                self._check(request)  # the server may have begun to stop meanwhile
                self._take_ids(request, result)
                self._accept(arrival)
            except ServingError as error:
                self._set_idle()
                if returned:
                    arrival.ended(messages.Event(key=key, error=error))
                else:
                    refusal.append(error)

        vocabulary = request.served.vocabulary
        assert vocabulary is not None  # the API refuses texts for a model without a tokenizer
        self._tokenizers.encode(
            vocabulary,
            text,
            request.message.field,
            encoded,
            places=request.needs_places,
            caller=request.message.caller,
            wanted=lambda: key in self._tokenizing,
        )
        returned = True
        if refusal:
            raise refusal[0]

    def _stop_tokenizing(self, key: int) -> None:
        caller, size = self._tokenizing.pop(key)
        if size:
            self.usage.free(size, caller)

    def _take_ids(self, request: InferenceRequest, encoded: EncodedText | ServingError) -> None:
        """Complete the request's message with the ids of its text.

        Raises:
            ServingError: BAD_INPUT, the text cannot be tokenized, or it has no ids, or too many.
        """
        spec, message = request.served.spec, request.message
        try:
            if isinstance(encoded, ServingError):
                raise encoded
            request.encoded = encoded
            if not encoded.ids and spec.manifest.task != "generate":
                raise bad_input(request.field, "the text has no tokens; send at least one word")
            if isinstance(message, messages.Generate):
                message.prompt = tuple(encoded.ids)
            else:
                assert isinstance(message, messages.Infer)
                message.inputs = text_inputs(spec, encoded.ids)
                message.size = measure_request(spec, message.inputs)
        except ServingError as error:
            self._refuse(request, error)

    def _refuse(
        self, request: InferenceRequest, error: ServingError, caller: Caller | None = None
    ) -> NoReturn:
        request.served.record_refusal(request.method, error, caller=caller)
        raise in_field(error, request.field) from None

    def check_not_draining(self) -> None:
        """
        Raises:
            ServingError: UNAVAILABLE, the server stops.
        """
        if self.draining:
            raise unavailable(_STOPPING)

    def _check(self, request: InferenceRequest) -> None:
        if self.draining and not self._goes_on(request.message):
            self._refuse(request, unavailable(_STOPPING))
        spec = request.served.spec
        if spec.is_stepwise and isinstance(request.message, messages.Infer):
            if spec.name != spec.model:
                why = f"{spec.name!r} is a step-wise form; use {spec.model!r}, or {_STEPWISE_CALLS}"
            else:
                why = f"model {spec.model!r} has no one-shot form; {_STEPWISE_CALLS}"
            self._refuse(request, bad_input("model", why))

    def _goes_on(self, message: messages.Request) -> bool:
        """Whether a server that stops takes a request: a step, as the engine knows where its sequence is."""
        return self.pulls is not None and isinstance(message, messages.Step) and not message.start

    def _check_room(self, arrival: _InFlight) -> None:
        """Refuse a request for which there is no room, whatever the length of its text."""
        request = arrival.request
        if isinstance(request.message, messages.Infer) and request.served.admission.requests:
            deadline = deadline_of(arrival.arrived, request.remaining_s, request.queue_timeout_s)
            try:
                request.served.admission.refuse_if_full(
                    arrival.arrived, deadline, request.call, request.message.caller
                )
            except ServingError as error:
                self._refuse(request, error)

    def _accept(self, arrival: _InFlight) -> None:
        """
        Raises:
            ServingError: the request is refused, and recorded as such.
        """
        request, caller, arrived = arrival.request, arrival.caller, arrival.arrived
        served, message, remaining_s = request.served, request.message, request.remaining_s
        admission = served.admission
        deadline = None
        if remaining_s is not None or request.queue_timeout_s:
            deadline = deadline_of(arrived, remaining_s, request.queue_timeout_s)
        price_s = run_s = 0.0  # of a sequence, which the engine gives a slot or refuses
        if isinstance(message, messages.Infer):
            price_s, run_s = admission.demand(message.size)
            message.due = None if remaining_s is None else arrived + remaining_s
        size = 0
        for array in () if isinstance(message, messages.Generate) else message.inputs.values():
            size += array.nbytes
        if size and (no_room := self.usage.take(size, caller)) is not None:
            self._refuse(request, no_room, caller)
        now = self._clock()
        try:
            before_s = admission.enter(price_s, now, deadline, request.call, run_s, message.caller)
        except ServingError as error:
            self.usage.free(size, caller)
            self._refuse(request, error, caller)
        arrival.sent, arrival.price_s, arrival.before_s, arrival.size = now, price_s, before_s, size
        message.key, message.accepted, message.deadline = arrival.key, arrived, deadline
        self._in_flight[arrival.key] = arrival
        if isinstance(message, messages.Step):
            served.step_sent(message)
        if self.pulls is None or not self.pulls.defers(message):
            # At once, if it may run at once: the model has no more requests in flight than runs at a time.
            # All others are coalesced, so that they can share a run.
            may_run = admission.requests <= served.spec.instances or isinstance(message, messages.Generate)
            self._send(message, _NOW if may_run else _COALESCE)
        if caller.account:
            self.usage.accepted(caller, elements(message))  # while the engine reads it
        served.meters.record_accepted(request.method)

    async def infer(self, request: InferenceRequest) -> messages.Event:
        """Send a request and wait for its event. Cancelling the wait cancels the request.

        Raises:
            ServingError: the request was refused, or failed.
        """
        future: asyncio.Future[messages.Event] = asyncio.get_running_loop().create_future()
        key = self._start(request, None, waiter=future).key
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
        if key in self._tokenizing:  # not accepted yet
            self._stop_tokenizing(key)
            self._set_idle()
            return
        entry = self._in_flight.pop(key, None)
        if entry is None:
            return
        event, remaining_s = None, entry.request.remaining_s
        if remaining_s is not None and is_past(remaining_s - (self._clock() - entry.arrived)):
            event = messages.Event(key=key, error=deadline_passed("before the answer"))
        self._end(entry, event, self._clock())
        self._send(messages.Cancel(key))

    def deliver(self, events: messages.Events) -> None:
        """Process an engine update: pass chunks and events on to the requests still in flight. They are
        counted when the callers that this wakes have sent their replies."""
        now, ended, traced = self._clock(), list[tuple[_InFlight, messages.Event]](), False
        for chunk in events.chunks:
            self._pass_on(chunk, events.sent)
        for event in events.events:
            entry = self._in_flight.pop(event.key, None)
            if entry is None:
                continue
            message = entry.request.message
            if self.pulls is not None and self.pulls.missed(message, event.error, entry.caller.name):
                self._in_flight[event.key] = entry
                continue
            ended.append((entry, event))
            traced = traced or entry.trace is not None
            if isinstance(message, messages.Step):
                entry.request.served.step_ended(message, event.error)
            try:
                entry.ended(event)
            except Exception:  # must not affect the other requests of the batch
                log.exception("request %d: processing its result failed", event.key)
        if traced:
            self._record(events, now, ended)  # a trace ends with its call
        else:
            asyncio.get_running_loop().call_soon(self._record, events, now, ended)

    def _record(
        self, events: messages.Events, now: float, ended: list[tuple[_InFlight, messages.Event]]
    ) -> None:
        """Record what an update, delivered at `now`, says of runs and of requests that it ended."""
        if events.sent:
            self._observe_lag(now - events.sent)
        served = self._registry.get(events.model, events.version)
        if served is not None:
            served.record_runs(events)
        for entry, event in ended:
            self._end(entry, event, now)
            if entry.before_s:
                entry.request.served.admission.compare_wait(entry.before_s, event, now)

    def _pass_on(self, chunk: messages.Chunk, sent: float) -> None:
        entry = self._in_flight.get(chunk.key)
        if entry is None or entry.on_chunk is None:
            return
        try:
            entry.on_chunk(chunk, sent)
        except Exception:  # as in `deliver`
            log.exception("request %d: processing a chunk failed", chunk.key)

    async def tokenize(self, served: ServedModel, text: str, field: str) -> EncodedText:
        """The ids and tokens of a text.

        Raises:
            ServingError: BAD_INPUT, the text cannot be tokenized.
        """
        future: asyncio.Future[EncodedText | ServingError] = asyncio.get_running_loop().create_future()

        def resolve(result: EncodedText | ServingError) -> None:
            if not future.done():
                future.set_result(result)

        assert served.vocabulary is not None
        caller = caller_of_task.get().name
        self._tokenizers.encode(
            served.vocabulary, text, field, resolve, caller=caller, wanted=lambda: not future.done()
        )
        result = await future
        if isinstance(result, ServingError):
            raise result
        return result

    async def token_names(self, served: ServedModel, ids: Sequence[int]) -> list[str]:
        """The tokens of ids; "" for an unknown one, and for all if the model has no tokenizer."""
        if served.vocabulary is None:
            return [""] * len(ids)
        return (await asyncio.shield(served.vocabulary)).names(ids)

    def own_sequence(self) -> messages.SequenceId:
        """An id for a sequence of the server's own, which no other front end uses."""
        return ("", next(self._own_sequences))

    def send(self, message: messages.Message) -> None:
        """Send the engine a message that has no reply."""
        self._send(message)

    def movable_texts(self) -> list[messages.LiveSequence]:
        """The streams of texts that another server can go on with: one text, without beams."""
        return [
            messages.LiveSequence(message.model, message.version, ("", key), key)
            for key, entry in self._in_flight.items()
            if isinstance(message := entry.request.message, messages.Generate)
            and message.beams == 1
            and entry.request.call is None
        ]

    def send_again(self, request: messages.Request) -> None:
        """Send a request again whose sequence is here now, unless it was cancelled."""
        if request.key in self._in_flight:
            self._send(request)

    def fail(self, request: messages.Request, error: ServingError) -> None:
        """End a request that could not be run, unless it was cancelled."""
        event = messages.Event(key=request.key, error=copy(error))
        self.deliver(messages.Events(model=request.model, version=request.version, events=[event]))

    def fail_all(self, error: ServingError) -> None:
        """End all requests in flight with `error`, after the engine process was lost."""
        for key, entry in list(self._in_flight.items()):
            spec = entry.request.served.spec
            event = messages.Event(key=key, error=copy(error))  # raised once each: a traceback of its own
            self.deliver(messages.Events(model=spec.name, version=spec.version, events=[event]))

    def _end(self, entry: _InFlight, event: messages.Event | None, now: float) -> None:
        """Record a request's end, at `now`. No event: it was cancelled."""
        request, caller, trace = entry.request, entry.caller, entry.trace
        served, message, seconds = request.served, request.message, now - entry.arrived
        spec, error = served.spec, None
        if entry.size:
            self.usage.free(entry.size, caller)
        if self.usage.peak_bytes >= memory.LARGE_BYTES and not self.usage.bytes:
            self.usage.peak_bytes = 0
            # Later, when the calls have ended and their messages are free.
            asyncio.get_running_loop().call_later(_TRIM_S, _trim)
        outcome, ran, timings, length = "ok", True, messages.NO_TIMINGS, 0
        if event is None:
            outcome, ran = ErrorCode.CANCELLED.value, False
        else:
            error, timings, length = event.error, event.timings, event.length
            if error is not None:
                outcome, ran = error.code.value, error.code is ErrorCode.FAILED
                self.usage.ended(caller, error)
        served.admission.leave(entry.price_s, now, request.call, served=ran, caller=message.caller)
        served.meters.record_ended(request.method, outcome, seconds, "" if trace is None else trace.id)
        if event is not None:
            served.record_end(event, seconds)
        self._ended.add(
            EndedRequest(
                message.key, spec.name, spec.model, spec.version, request.method, outcome,
                entry.arrived, seconds, entry.sent - entry.arrived, length, hash(request.id),
                0 if trace is None else hash(trace.id), *timings,
            )
        )  # fmt: skip
        if trace is not None or error is not None or request_logger.isEnabledFor(logging.DEBUG):
            self._describe(entry, event, outcome, seconds)
        if self._idle is not None:
            self._set_idle()

    def _describe(self, entry: _InFlight, event: messages.Event | None, outcome: str, seconds: float) -> None:
        """Log the end of a request, and pass it to its trace."""
        request = entry.request
        summary = RequestSummary(
            spec=request.served.spec,
            method=request.method,
            field=request.field,
            text=request.text,
            streams=entry.on_chunk is not None,
            accepted=entry.arrived,
            seconds=seconds,
            outcome=outcome,
            event=event,
            client_driven=isinstance(request.message, messages.Step),
        )
        self._request_log.ended(summary, entry.trace)
        if entry.trace is not None:
            entry.trace.request_ended(summary)

    def _set_idle(self) -> None:
        if self._idle is not None and not (self._in_flight or self._tokenizing or self._idle.done()):
            self._idle.set_result(None)

    async def drain(self, within_s: float) -> bool:
        """Refuse new requests and wait for those in flight. False if some are left after `within_s`."""
        self.draining = True
        self._idle = asyncio.get_running_loop().create_future()
        self._set_idle()
        try:
            await asyncio.wait_for(self._idle, within_s)
        except TimeoutError:
            return False
        return True


def _key_drawer(number: int) -> Callable[[], int]:
    """Draws a random key, as callers see it: how many requests there were is nobody's business."""
    if not number:
        return partial(random.getrandbits, 63)
    return lambda: number * messages.FRONT_END_KEYS + random.randrange(messages.FRONT_END_KEYS)


def _trim() -> None:
    asyncio.get_running_loop().run_in_executor(None, memory.collect_and_trim)
