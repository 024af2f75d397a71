"""Wraps every RPC: finds out who calls, counts it, converts errors to gRPC statuses, ends its trace.

A method's handler -> for each call a `Call` around it -> the method's behaviour.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import grpc

from ..errors import ErrorCode, ServingError
from ..frontend import tracing
from ..frontend.audit import Audit
from ..frontend.callers import current
from . import wire
from .auth import Guard, Refusal, granted
from .calls import ArrivingCalls, Call, CountingContext, MethodCounters, OpenCalls
from .permissions import AUDITED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ..metrics.families import Metrics
    from .calls import Refuse
    from .status import Context

log = logging.getLogger(__name__)


class InstrumentedService(grpc.GenericRpcHandler):
    """gRPC services with instrumented methods; each handler is wrapped once, at its first call.

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
        arriving: ArrivingCalls | None = None,
    ) -> None:
        self.services, self._metrics, self._begin = [service], metrics, begin
        self._traces_all = begin is not tracing.begin  # otherwise, calls whose callers ask for it
        self._calls, self._refuse, self._admit = calls or OpenCalls(), refuse, admit
        self._guard = guard or Guard(Audit(metrics))
        self._arriving = arriving or ArrivingCalls()
        self._wrapped: dict[str, _Wrapped] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            found = (one.service(handler_call_details) for one in self.services)
            handler = next((one for one in found if one is not None), None)
            if handler is None:
                return None  # unknown methods are not cached
            counters = MethodCounters(
                self._metrics, self._calls, method, handler, self._refuse, self._guard, self._arriving
            )
            wrapped = self._wrapped[method] = _Wrapped(handler, counters, self._admit)
        metadata = handler_call_details.invocation_metadata
        # gRPC calls `service` in the task that runs the handler, so the context variables reach it.
        if (self._traces_all or tracing.HEADER in dict(metadata)) and (
            trace := self._begin(method, metadata)
        ) is not None:
            tracing.current.set(trace)
        if not self._guard.on:
            return wrapped.handler
        try:
            grant = self._guard.early(method, metadata)
        except Refusal as refusal:
            return _refusing(refusal, wrapped.counters)
        granted.set(grant)
        return wrapped.handler


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
        arriving: ArrivingCalls,
    ) -> None:
        self._server = server
        self._shared = metrics, begin, calls, refuse, admit, guard, arriving
        self._instrumented: InstrumentedService | None = None  # all services: gRPC would ask one by one

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        for one in handlers:
            if self._instrumented is None:
                self._instrumented = InstrumentedService(one, *self._shared)
                self._server.add_generic_rpc_handlers((self._instrumented,))
            else:
                self._instrumented.services.append(one)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Does nothing: the same handlers again, for a fast path that grpc.aio does not have."""


class _Wrapped:
    """The handler of one method. gRPC would read the message of a unary call first, so the handler is one of
    a stream of requests, and reads its only message itself: once the call is allowed, and as long as there
    is memory for it."""

    def __init__(self, handler: Any, counters: MethodCounters, admit: wire.Admit) -> None:
        self.counters = counters
        serializers = (wire.reader(handler.request_deserializer, counters.descriptor, admit), wire.serialized)
        if handler.request_streaming:
            streams = _streams(handler.stream_stream, counters)
            self.handler = grpc.stream_stream_rpc_method_handler(streams, *serializers)
        elif handler.response_streaming:
            replies = _replies(handler.unary_stream, counters)
            self.handler = grpc.stream_stream_rpc_method_handler(replies, *serializers)
        else:
            behaviour = handler.unary_unary
            if counters.method in AUDITED:
                behaviour = _audited(behaviour, counters)
            self.handler = grpc.stream_unary_rpc_method_handler(_unary(behaviour, counters), *serializers)


def _refusing(refusal: Refusal, counters: MethodCounters) -> Any:
    """A handler that refuses a call without reading its message: gRPC reads none of a stream by itself."""

    async def refuse(_: Any, context: Context) -> None:
        async with Call(context, counters):
            raise refusal

    return grpc.stream_stream_rpc_method_handler(refuse)


def _audited(behaviour: Any, counters: MethodCounters) -> Any:
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


def _unary(behaviour: Any, counters: MethodCounters) -> Any:
    async def unary(_: Any, context: Context) -> Any:
        call = Call(context, counters)
        if counters.calls.hold:
            await call.hold()
        try:
            call.admit()
            reply = await behaviour(call.arrived(await context.read()), context)
        except BaseException as error:
            if await call.failed(error):
                return None
            raise
        counters.sent.value += 1
        call.succeeded()
        return reply

    return unary


def _streams(behaviour: Any, counters: MethodCounters) -> Any:
    async def streams(requests: AsyncIterator[Any], context: Context) -> None:
        async with Call(context, counters) as call:
            call.admit()
            await _drain(
                behaviour(_checked(requests, counters), CountingContext(context, counters)), context, counters
            )

    return streams


async def _checked(requests: AsyncIterator[Any], counters: MethodCounters) -> AsyncIterator[Any]:
    async for request in requests:
        yield counters.check(request)


def _replies(behaviour: Any, counters: MethodCounters) -> Any:
    async def replies(_: Any, context: Context) -> None:
        async with Call(context, counters) as call:
            call.admit()
            request = call.arrived(await context.read())
            await _drain(behaviour(request, CountingContext(context, counters)), context, counters)

    return replies


async def _drain(result: Any, context: Context, counters: MethodCounters) -> None:
    """Run a streaming handler: a coroutine that writes replies, or an async generator that yields them."""
    if not hasattr(result, "__aiter__"):
        await result
        return
    async for reply in result:
        counters.sent.inc()
        await context.write(reply)
