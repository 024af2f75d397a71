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
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

from msgspec.structs import replace

from .. import memory, messages
from ..errors import ErrorCode, ServingError, bad_input, deadline_passed, in_field, unavailable
from ..model.spec import measure_request, text_inputs
from .admission import deadline_of, is_past
from .callers import current as caller_of_task
from .inference_request import accepted_message, elements, send_policy, tensor_bytes
from .recorder import EndedRequest, EndedRequests
from .request_log import RequestLog
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

_STOPPING = "the server is stopping; send to another server"
_STEPWISE_CALLS = "call Generate, Translate or Follow, or ModelInfer with a sequence_id"


class Send(Protocol):
    """The type of `Transport.send`."""

    def __call__(
        self, message: messages.Message, when: messages.SendPolicy = messages.SendPolicy.TURN
    ) -> None: ...


class _Arrival(NamedTuple):
    key: int
    request: InferenceRequest
    caller: Caller
    time: float
    trace: Trace | None
    on_event: Callable[[messages.Event], None]
    on_chunk: Callable[[messages.Chunk, float], None] | None


class _InFlight(NamedTuple):
    request: InferenceRequest
    caller: Caller
    accepted: float
    sent: float  # to the engine
    price_s: float  # device seconds it was admitted with
    before_s: float  # device seconds queued before it
    on_event: Callable[[messages.Event], None]
    on_chunk: Callable[[messages.Chunk, float], None] | None
    trace: Trace | None
    size: int  # bytes of its tensors


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
        self._number, self._own_sequences = number, itertools.count(number * messages.FRONT_END_KEYS + 1)
        self._in_flight: dict[int, _InFlight] = {}
        self.usage = usage or CallerUsage()
        self._peak_bytes = 0  # of the requests in flight, since none was
        self._tokenizing: dict[int, tuple[Caller, int]] = {}  # who waits for ids, with a text of what size
        self._idle = asyncio.Event()
        self._idle.set()
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
        self._check(request)
        if request.message.priority and not self._priorities:
            request.message = replace(request.message, priority=0)
        caller = caller_of_task.get()
        try:
            self.usage.admit(caller, request.call)
        except ServingError as error:
            self._refuse(request, error, caller)
        arrival = _Arrival(self._new_key(), request, caller, self._clock(), current.get(), on_event, on_chunk)
        if request.text is None:
            self._accept(arrival)
        else:
            self._check_room(arrival)
            self._tokenize(arrival, request.text)
        return arrival.key

    def _new_key(self) -> int:
        """A random key, as callers see it: how many requests there were is nobody's business."""
        while (key := self._draw_key()) in self._in_flight or key in self._tokenizing:
            pass
        return key

    def _draw_key(self) -> int:
        if not self._number:
            return random.getrandbits(63)
        return self._number * messages.FRONT_END_KEYS + random.randrange(messages.FRONT_END_KEYS)

    def _tokenize(self, arrival: _Arrival, text: str) -> None:
        """Accept a request once its text is tokenized: at once, or later if it is long.

        Raises:
            ServingError: the request is refused at once.
        """
        key, request, size = arrival.key, arrival.request, 0
        if len(text) > SHORT_TEXT:  # it may wait
            size = len(text)
            self._hold(request, size, arrival.caller)
        self._tokenizing[key] = arrival.caller, size
        self._idle.clear()
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
                    arrival.on_event(messages.Event(key=key, error=error))
                else:
                    refusal.append(error)

        vocabulary = request.served.vocabulary
        assert vocabulary is not None  # the API refuses texts for a model without a tokenizer
        self._tokenizers.encode(
            vocabulary,
            text,
            request.field,
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

    def _hold(self, request: InferenceRequest, size: int, caller: Caller) -> None:
        """
        Raises:
            ServingError: there is no room for a request of `size` bytes. It is recorded as refused.
        """
        if (no_room := self.usage.no_room(size, caller)) is not None:
            self._refuse(request, no_room, caller)
        self.usage.hold(size, caller)
        self._peak_bytes = max(self._peak_bytes, self.usage.bytes)

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
                request.message = replace(message, prompt=tuple(encoded.ids))
            else:
                inputs = text_inputs(spec, encoded.ids)
                size = measure_request(spec, inputs)
                request.message = replace(message, inputs=inputs, size=size)
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

    def _check_room(self, arrival: _Arrival) -> None:
        """Refuse a request for which there is no room, whatever the length of its text."""
        request = arrival.request
        if isinstance(request.message, messages.Infer) and request.served.admission.requests:
            deadline = deadline_of(arrival.time, request.remaining_s, request.queue_timeout_s)
            try:
                request.served.admission.refuse_if_full(
                    arrival.time, deadline, request.call, request.message.caller
                )
            except ServingError as error:
                self._refuse(request, error)

    def _accept(self, arrival: _Arrival) -> None:
        """
        Raises:
            ServingError: the request is refused, and recorded as such.
        """
        key, request, caller, arrived, trace, on_event, on_chunk = arrival
        served, message = request.served, request.message
        deadline = deadline_of(arrived, request.remaining_s, request.queue_timeout_s)
        (price_s, run_s), size = served.admission.demand(message), tensor_bytes(message)
        self._hold(request, size, caller)
        now = self._clock()
        try:
            before_s = served.admission.enter(price_s, now, deadline, request.call, run_s, message.caller)
        except ServingError as error:
            self.usage.free(size, caller)
            self._refuse(request, error, caller)
        self._in_flight[key] = _InFlight(
            request, caller, arrived, now, price_s, before_s, on_event, on_chunk, trace, size
        )
        self._idle.clear()
        if isinstance(message, messages.Step):
            served.step_sent(message)
        message = accepted_message(message, key, arrived, deadline, request.remaining_s)
        request.message = message
        if self.pulls is None or not self.pulls.defers(message):
            may_run = served.admission.requests <= served.spec.instances
            self._send(message, send_policy(message, may_run=may_run))
        self.usage.accepted(caller, elements(message))  # while the engine reads it
        served.meters.record_accepted(request.method)

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
        if key in self._tokenizing:  # not accepted yet
            self._stop_tokenizing(key)
            self._set_idle()
            return
        entry = self._in_flight.pop(key, None)
        if entry is None:
            return
        event, remaining_s = None, entry.request.remaining_s
        if remaining_s is not None and is_past(remaining_s - (self._clock() - entry.accepted)):
            event = messages.Event(key=key, error=deadline_passed("before the answer"))
        seconds = self._end(entry, event)
        if event is not None:
            entry.request.served.record_end(event, seconds)
        self._send(messages.Cancel(key))

    def deliver(self, events: messages.Events) -> None:
        """Process an engine update: pass chunks and events on to the requests still in flight. They are
        counted when the callers that this wakes have sent their replies."""
        now, ended = self._clock(), list[tuple[_InFlight, messages.Event]]()
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
            if isinstance(step := entry.request.message, messages.Step):
                entry.request.served.step_ended(step, event.error)
            try:
                entry.on_event(event)
            except Exception:  # must not affect the other requests of the batch
                log.exception("request %d: processing its result failed", event.key)
        if any(entry.trace is not None for entry, _ in ended):
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
            seconds = self._end(entry, event, now)
            entry.request.served.admission.compare_wait(entry.before_s, event, now)
            entry.request.served.record_end(event, seconds)

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

    def _end(self, entry: _InFlight, event: messages.Event | None, now: float | None = None) -> float:
        """Record a request's end, at `now`. Returns the seconds since it was accepted. No event: it was
        cancelled."""
        self.usage.free(entry.size, entry.caller)
        if not self.usage.bytes and self._peak_bytes >= memory.LARGE_BYTES:
            self._peak_bytes = 0
            # Later, when the calls have ended and their messages are free.
            asyncio.get_running_loop().call_later(_TRIM_S, _trim)
        now = self._clock() if now is None else now
        request, trace, seconds = entry.request, entry.trace, now - entry.accepted
        served, outcome = request.served, _outcome(event)
        ran = event is not None and (event.error is None or event.error.code is ErrorCode.FAILED)
        if event is not None and event.error is not None:
            self.usage.ended(entry.caller, event.error)
        caller = request.message.caller
        served.admission.leave(entry.price_s, now, request.call, served=ran, caller=caller)
        served.meters.record_ended(request.method, outcome, seconds, trace.id if trace is not None else "")
        self._remember(entry, event, outcome, seconds)
        if trace is not None or self._request_log.is_enabled_for(outcome):
            summary = RequestSummary(
                spec=served.spec,
                method=request.method,
                field=request.field,
                text=request.text,
                streams=entry.on_chunk is not None,
                accepted=entry.accepted,
                seconds=seconds,
                outcome=outcome,
                event=event,
                client_driven=isinstance(request.message, messages.Step),
            )
            self._request_log.ended(summary, trace)
            if trace is not None:
                trace.request_ended(summary)
        self._set_idle()
        return seconds

    def _remember(self, entry: _InFlight, event: messages.Event | None, outcome: str, seconds: float) -> None:
        request, spec, trace = entry.request, entry.request.served.spec, entry.trace
        timings, length = (messages.NO_TIMINGS, 0) if event is None else (event.timings, event.length)
        self._ended.add(
            EndedRequest(
                request.message.key, spec.name, spec.model, spec.version, request.method, outcome,
                entry.accepted, seconds, entry.sent - entry.accepted, length, hash(request.id),
                0 if trace is None else hash(trace.id), *timings,
            )
        )  # fmt: skip

    def _set_idle(self) -> None:
        if not self._in_flight and not self._tokenizing:
            self._idle.set()

    async def drain(self, within_s: float) -> bool:
        """Refuse new requests and wait for those in flight. False if some are left after `within_s`."""
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), within_s)
        except TimeoutError:
            return False
        return True


def _trim() -> None:
    asyncio.get_running_loop().run_in_executor(None, memory.collect_and_trim)


def _outcome(event: messages.Event | None) -> str:
    if event is None:
        return ErrorCode.CANCELLED.value
    return "ok" if event.error is None else event.error.code.value
