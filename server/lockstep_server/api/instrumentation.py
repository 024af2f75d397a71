"""Wraps every RPC: counts it, converts errors to gRPC statuses, ends its trace.

An unexpected exception becomes INTERNAL with a log id; gRPC itself would send its text to the client.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pool

from ..errors import ErrorCode, ServingError
from ..frontend import tracing
from ..frontend.admission import is_past
from ..frontend.audit import Audit
from ..frontend.callers import current
from . import status, wire
from .auth import PERMISSION_OF, Guard, OpenCall, Refusal, granted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ..metrics.families import Metrics
    from .status import Context

log = logging.getLogger(__name__)


Refuse = Callable[[str, ServingError], None]
"""Records that a message of a method was refused before it was read."""

_ENDLESS = ("Watch", "ServerReflectionInfo")
"""Methods whose calls end with the server only."""

_QUIET_S = 0.2
_POLL_S = 0.01


class OpenCalls:
    """The calls that are open, for a server that stops.

    `hold`: keep new calls open, unanswered, until the server closes their connections.
    """

    def __init__(self) -> None:
        self.hold = False
        self._open = 0
        self._last = 0.0

    async def settle(self, within_s: float) -> None:
        """Wait until no call has arrived for a moment and none is open, for at most `within_s`."""
        end = time.perf_counter() + within_s
        while (now := time.perf_counter()) < end and (  # noqa: ASYNC110
            now - self._last < _QUIET_S or (self._open and not self.hold)
        ):
            await asyncio.sleep(_POLL_S)

    def begin(self, now: float, count: int) -> None:
        self._open += count
        self._last = now

    def end(self, count: int) -> None:
        self._open -= count


class InstrumentedService(grpc.GenericRpcHandler):
    """A gRPC service with instrumented methods; each handler is wrapped once, at its first call.

    A gRPC interceptor would do the same at the cost of three more coroutines per call.
    """

    def __init__(
        self,
        service: grpc.GenericRpcHandler,
        metrics: Metrics,
        begin: tracing.BeginTrace,
        calls: OpenCalls | None = None,
        refuse: Refuse = lambda *_: None,
        admit: wire.Admit = lambda _: None,
        guard: Guard | None = None,
    ) -> None:
        self._service, self._metrics, self._begin = service, metrics, begin
        self._calls, self._refuse, self._admit = calls or OpenCalls(), refuse, admit
        self._guard = guard or Guard(Audit(metrics))
        self._wrapped: dict[str, _Wrapped] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = self._service.service(handler_call_details)
            if handler is None:
                return None  # unknown methods are not cached
            counters = _Counters(self._metrics, self._calls, method, handler, self._refuse, self._guard)
            self._wrapped[method] = _Wrapped(handler, counters, self._admit)
        wrapped, metadata = self._wrapped[method], handler_call_details.invocation_metadata
        # gRPC calls `service` in the task that runs the handler, so the context variables reach it.
        if (trace := self._begin(method, metadata)) is not None:
            tracing.current.set(trace)
        if not self._guard.on:
            return wrapped.handler
        try:
            grant = self._guard.early(method, metadata)
        except Refusal as refusal:
            return _refusing(refusal, wrapped.counters)
        granted.set(grant)
        return wrapped.handler if grant is not None else wrapped.late


class InstrumentingServer:
    """Instruments services and adds them to a server. For the generated `add_..._to_server` functions."""

    def __init__(
        self,
        server: grpc.aio.Server,
        metrics: Metrics,
        begin: tracing.BeginTrace,
        calls: OpenCalls,
        refuse: Refuse,
        admit: wire.Admit,
        guard: Guard,
    ) -> None:
        self._server = server
        self._shared = metrics, begin, calls, refuse, admit, guard

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(
            tuple(InstrumentedService(one, *self._shared) for one in handlers)
        )

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Does nothing: the same handlers again, for a fast path that grpc.aio does not have."""


class _Counters:
    """One method's grpc_server_* metrics, and its part in the calls that are open."""

    def __init__(
        self, metrics: Metrics, calls: OpenCalls, method: str, handler: Any, refuse: Refuse, guard: Guard
    ) -> None:
        _, service, name = method.split("/")
        self.method, self.guard = method, guard
        self.descriptor = _request_type(service, name)
        self._refuse, self._name = refuse, name
        kind = {
            (False, False): "unary",
            (False, True): "server_stream",
            (True, False): "client_stream",
            (True, True): "bidi_stream",
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        labels = (kind, service, name)
        self.calls = calls
        self.counted = int(name not in _ENDLESS)
        self.started = metrics.grpc_started.labels(*labels)
        self.received = metrics.grpc_received.labels(*labels)
        self.sent = metrics.grpc_sent.labels(*labels)
        self._seconds = metrics.grpc_seconds.labels(*labels)
        self._handled = metrics.grpc_handled
        self._labels = labels
        self._codes: dict[str, Any] = {}

    def check(self, message: Any) -> Any:
        """The message.

        Raises:
            ServingError: BAD_INPUT, it cannot be read. It is recorded as refused. DENIED, its caller may
                not send it.
        """
        if type(message) is wire.Unreadable:
            self._refuse(self._name, message.error)
            raise message.error
        if self.guard.on:
            self.guard.check_message(message)
        return message

    def ended(self, code: str, begun: float) -> None:
        if code not in self._codes:
            self._codes[code] = self._handled.labels(*self._labels, code)
        self._codes[code].inc()
        self._seconds.observe(time.perf_counter() - begun)


def _request_type(service: str, name: str) -> Any:
    """The descriptor of a method's requests; None if it is not known."""
    try:
        found: Any = descriptor_pool.Default().FindServiceByName(service)
        return found.FindMethodByName(name).input_type
    except KeyError:
        return None


class _Wrapped:
    """The handlers of one method: `handler`, and `late`, for calls whose certificate is to be checked before
    their message is read. gRPC reads the message of a unary call first, so `late` is a handler of streams."""

    def __init__(self, handler: Any, counters: _Counters, admit: wire.Admit) -> None:
        self.counters = counters
        serializers = (wire.reader(handler.request_deserializer, counters.descriptor, admit), wire.serialized)
        if handler.request_streaming:
            streams = _streams(handler.stream_stream, counters)
            self.handler = self.late = grpc.stream_stream_rpc_method_handler(streams, *serializers)
        elif handler.response_streaming:
            replies = handler.unary_stream
            self.handler = grpc.unary_stream_rpc_method_handler(_replies(replies, counters), *serializers)
            self.late = grpc.stream_stream_rpc_method_handler(_late_replies(replies, counters), *serializers)
        else:
            behaviour = handler.unary_unary
            if PERMISSION_OF.get(counters.method) == "admin":
                behaviour = _audited(behaviour, counters)
            self.handler = grpc.unary_unary_rpc_method_handler(_unary(behaviour, counters), *serializers)
            self.late = grpc.stream_stream_rpc_method_handler(_late_unary(behaviour, counters), *serializers)


def _refusing(refusal: Refusal, counters: _Counters) -> Any:
    """A handler that refuses a call without reading its message: gRPC reads none of a stream by itself."""

    async def refuse(_: Any, context: Context) -> None:
        async with _Call(counters, context):
            raise refusal

    return grpc.stream_stream_rpc_method_handler(refuse)


def _audited(behaviour: Any, counters: _Counters) -> Any:
    async def audited(request: Any, context: Context) -> Any:
        outcome, model = ErrorCode.FAILED.value, ""
        try:
            reply = await behaviour(request, context)
            outcome, model = "ok", request.model_name
        except ServingError as error:
            outcome = error.code.value
            raise
        finally:
            counters.guard.audit.admin(current.get().name, counters.method, model, outcome)
        return reply

    return audited


def _unary(behaviour: Any, counters: _Counters) -> Any:
    async def unary(request: Any, context: Context) -> Any:
        counters.received.inc()
        async with _Call(counters, context) as call:
            call.admit()
            reply = await behaviour(counters.check(request), context)
            counters.sent.inc()
            return reply

    return unary


def _late_unary(behaviour: Any, counters: _Counters) -> Any:
    async def unary(_: Any, context: Context) -> None:
        async with _Call(counters, context) as call:
            call.admit()
            reply = await behaviour(await _only_message(context, counters), context)
            counters.sent.inc()
            await context.write(reply)

    return unary


async def _only_message(context: Context, counters: _Counters) -> Any:
    """
    Raises:
        ServingError: BAD_INPUT, the call has no message, or it cannot be read.
    """
    message = await context.read()
    if message is grpc.aio.EOF:
        raise ServingError(ErrorCode.BAD_INPUT, "the call has no message; send one")
    counters.received.inc()
    return counters.check(message)


def _streams(behaviour: Any, counters: _Counters) -> Any:
    async def streams(requests: AsyncIterator[Any], context: Context) -> None:
        async with _Call(counters, context) as call:
            call.admit(long=True)
            await _drain(
                behaviour(_checked(requests, counters), _Counting(context, counters)), context, counters
            )

    return streams


async def _checked(requests: AsyncIterator[Any], counters: _Counters) -> AsyncIterator[Any]:
    async for request in requests:
        yield counters.check(request)


def _replies(behaviour: Any, counters: _Counters) -> Any:
    async def replies(request: Any, context: Context) -> None:
        counters.received.inc()
        async with _Call(counters, context) as call:
            call.admit(long=True)
            await _drain(behaviour(counters.check(request), _Counting(context, counters)), context, counters)

    return replies


def _late_replies(behaviour: Any, counters: _Counters) -> Any:
    async def replies(_: Any, context: Context) -> None:
        async with _Call(counters, context) as call:
            call.admit(long=True)
            request = await _only_message(context, counters)
            await _drain(behaviour(request, _Counting(context, counters)), context, counters)

    return replies


async def _drain(result: Any, context: Context, counters: _Counters) -> None:
    """Run a streaming handler: a coroutine that writes replies, or an async generator that yields them."""
    if not hasattr(result, "__aiter__"):
        await result
        return
    async for reply in result:
        counters.sent.inc()
        await context.write(reply)


class _Counting:
    """A context that counts messages read and written.

    A message is counted before it is written: if the client takes it and cancels, `write` does not return.
    """

    def __init__(self, context: Context, counters: _Counters) -> None:
        self._context = context
        self._received, self._sent, self._check = counters.received.inc, counters.sent.inc, counters.check

    async def read(self) -> Any:
        message = await self._context.read()
        if message is grpc.aio.EOF:
            return message
        self._received()
        return self._check(message)

    async def write(self, message: Any) -> None:
        self._sent()
        await self._context.write(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class _Call:
    """Counts an RPC's start and end, and converts an exception from its handler to a status."""

    __slots__ = ("_begun", "_context", "_counters", "_open")

    def __init__(self, counters: _Counters, context: Context) -> None:
        self._counters, self._context = counters, context
        self._open: OpenCall | None = None

    def admit(self, *, long: bool = False) -> None:
        """Find out who calls. A `long` call ends if its credentials do.

        Raises:
            Refusal: the call is not allowed.
        """
        guard = self._counters.guard
        grant = guard.admit(self._counters.method, self._context)
        if long and grant is not None:
            self._open = OpenCall(grant, asyncio.current_task())
            guard.open(self._open)

    async def __aenter__(self) -> _Call:
        self._begun = time.perf_counter()
        self._counters.started.inc()
        calls = self._counters.calls
        calls.begin(self._begun, self._counters.counted)
        if calls.hold:
            try:
                await asyncio.Event().wait()
            finally:
                calls.end(self._counters.counted)
                self._ended(grpc.StatusCode.UNAVAILABLE)
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self._counters.calls.end(self._counters.counted)
        if self._open is not None:
            self._counters.guard.close(self._open)
            if self._open.refusal is not None and isinstance(error, asyncio.CancelledError):
                if (task := asyncio.current_task()) is not None:
                    task.uncancel()
                error = self._open.refusal
        if error is None:
            self._ended(grpc.StatusCode.OK)
            return False
        if isinstance(error, grpc.aio.AbortError):
            self._ended(_code(self._context.code()))
            return False
        if isinstance(error, asyncio.CancelledError):
            self._ended(self._cancelled())
            return False
        if isinstance(error, grpc.aio.InternalError):
            self._ended(self._cancelled())  # the client cancelled during a write
            return True
        reported = error if isinstance(error, ServingError) else _internal(error)
        if isinstance(reported, Refusal):
            self._counters.guard.audit.refused(reported.caller, self._counters.method, reported.reason)
        self._ended(status.CODES[reported.code])
        await status.abort(self._context, reported)
        return False

    def _cancelled(self) -> grpc.StatusCode:
        """The status that the client saw: gRPC cancels a call at its deadline and when it stops, too."""
        if self._counters.calls.hold:
            return grpc.StatusCode.UNAVAILABLE
        late = is_past(self._context.time_remaining())
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED

    def _ended(self, code: grpc.StatusCode) -> None:
        self._counters.ended(code.name, self._begun)
        if (trace := tracing.current.get()) is not None:
            trace.call_ended(code.name, code.value[0])


def _internal(error: BaseException) -> ServingError:
    log_id = secrets.token_hex(4)
    log.error("RPC failed (log id %s)", log_id, exc_info=error)
    return ServingError(ErrorCode.FAILED, f"internal server error (log id {log_id}); see the server's log")


def _code(code: Any) -> grpc.StatusCode:
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN
