"""One call as it is counted: its start and end, its messages, and the status of its error.

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
from . import status, wire
from .auth import Guard, OpenCall, Refusal

if TYPE_CHECKING:
    from ..metrics.families import Metrics
    from .arriving import ArrivingCalls
    from .status import Context

log = logging.getLogger(__name__)


Refuse = Callable[[str, ServingError], None]
"""Records that a message of a method was refused before it was read."""

_ENDLESS = ("Watch", "ServerReflectionInfo", "Runs")
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


class MethodCounters:
    """One method's grpc_server_* metrics, and its part in the calls that are open."""

    def __init__(
        self,
        metrics: Metrics,
        calls: OpenCalls,
        method: str,
        handler: Any,
        refuse: Refuse,
        guard: Guard,
        arriving: ArrivingCalls,
    ) -> None:
        _, service, name = method.split("/")
        self.method, self.guard, self.arriving = method, guard, arriving
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
        self._codes: dict[grpc.StatusCode, Any] = {}

    def check(self, message: Any) -> Any:
        """The message.

        Raises:
            ServingError: BAD_INPUT, it cannot be read. It is recorded as refused. DENIED, its caller may
                not send it.
        """
        if type(message) is wire.Unreadable:
            self.refused(message.error)
            raise message.error
        if self.guard.on:
            self.guard.check_message(message)
        return message

    def refused(self, error: ServingError) -> None:
        """Record the refusal of a message that was not read."""
        self._refuse(self._name, error)

    def ended(self, code: grpc.StatusCode, begun: float) -> None:
        if code not in self._codes:
            self._codes[code] = self._handled.labels(*self._labels, code.name)
        self._codes[code].inc()
        self._seconds.observe(time.perf_counter() - begun)


def _request_type(service: str, name: str) -> Any:
    """The descriptor of a method's requests; None if it is not known."""
    try:
        found: Any = descriptor_pool.Default().FindServiceByName(service)
        return found.FindMethodByName(name).input_type
    except KeyError:
        return None


class CountingContext:
    """A context that counts messages read and written.

    A message is counted before it is written: if the client takes it and cancels, `write` does not return.
    """

    def __init__(self, context: Context, counters: MethodCounters) -> None:
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


class CountedCall:
    """Counts an RPC's start and end, and converts an exception from its handler to a status."""

    __slots__ = ("_begun", "_context", "_counters", "_open")

    def __init__(self, counters: MethodCounters, context: Context) -> None:
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

    async def read(self) -> Any:
        """The only message of the call.

        Raises:
            ServingError: BAD_INPUT, the call has no message, or it cannot be read.
        """
        counters = self._counters
        if self._open is None:
            self._open = OpenCall(None, asyncio.current_task())
        counters.arriving.begin(self._open)
        try:
            message = await self._context.read()
        finally:
            counters.arriving.end(self._open)
        if message is grpc.aio.EOF:
            raise ServingError(ErrorCode.BAD_INPUT, "the call has no message; send one")
        counters.received.inc()
        return counters.check(message)

    async def __aenter__(self) -> CountedCall:
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
                if not isinstance(error, Refusal):
                    self._counters.refused(error)
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
        self._counters.ended(code, self._begun)
        if (trace := tracing.current.get()) is not None:
            trace.call_ended(code.name, code.value[0])


def _internal(error: BaseException) -> ServingError:
    log_id = secrets.token_hex(4)
    log.error("RPC failed (log id %s)", log_id, exc_info=error)
    return ServingError(ErrorCode.FAILED, f"internal server error (log id {log_id}); see the server's log")


def _code(code: Any) -> grpc.StatusCode:
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN
