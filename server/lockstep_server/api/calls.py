"""One call as it is counted: its start and end, its messages, and the status of its error.

An unexpected exception becomes INTERNAL with a log id; gRPC itself would send its text to the client.

gRPC tells the size of a message when all of it is there, so that admission control cannot bound what arrives:
`ArrivingCalls` does.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import secrets
import time
from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pool

from .. import memory
from ..errors import ErrorCode, ServingError, overloaded
from ..frontend import tracing
from ..frontend.admission import is_past
from ..frontend.callers import UNKNOWN
from . import status, wire
from .auth import Guard, Refusal

if TYPE_CHECKING:
    from ..frontend.callers import Caller
    from ..metrics.families import Metrics
    from ..metrics.types import Counter
    from .auth import Grant
    from .status import Context

log = logging.getLogger(__name__)


Refuse = Callable[[str, ServingError], None]
"""Records that a message of a method was refused before it was read."""

_OK = grpc.StatusCode.OK
_ENDLESS = ("Watch", "ServerReflectionInfo", "Runs")
"""Methods whose calls end with the server only."""

_QUIET_LOOKS, _POLL_S = 20, 0.01

_EVERY_S = 0.05
_SLOW_S = 0.02


class OpenCalls:
    """The calls that are open, for a server that stops.

    `hold`: keep new calls open, unanswered, until the server closes their connections.
    `open`, `last`: their number, and when the last one arrived.
    """

    def __init__(self) -> None:
        self.hold = False
        self.open = 0
        self.last = 0.0

    async def settle(self, within_s: float) -> None:
        """Wait until no call has arrived for a moment and none is open, for at most `within_s`.

        The moment is counted in looks, between which the event loop reads what has come: if it is late, time
        passes in which calls arrive that it has not seen.
        """
        now = time.perf_counter()
        end, quiet = now + within_s, 0 if now - self.last < _QUIET_LOOKS * _POLL_S else _QUIET_LOOKS - 2
        while time.perf_counter() < end and (quiet < _QUIET_LOOKS or (self.open and not self.hold)):
            before = self.last
            await asyncio.sleep(_POLL_S)
            quiet = quiet + 1 if self.last == before else 0


class ArrivingCalls:
    """Calls whose only message is still arriving. Event loop only.

    What does not arrive within moments is large, or its caller slow. If the process grows too much meanwhile,
    only as many of those calls go on as there may be messages of the largest size: the oldest of each caller,
    in turn. The others are refused, which frees what has arrived of them.

    Args:
        limit_bytes: how much the process may grow while messages arrive.
        largest_bytes: size of the largest message.
        clock: that of `Call.begun`.
    """

    def __init__(
        self,
        limit_bytes: int = 1 << 62,
        largest_bytes: int = 1,
        resident_bytes: Callable[[], int] = memory.resident_bytes,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._limit_bytes, self._most = limit_bytes, max(limit_bytes // largest_bytes, 1)
        self._resident_bytes, self._clock = resident_bytes, clock
        self.calls: dict[Call, None] = {}  # the oldest first
        self._before_bytes = 0  # resident, when nothing was arriving slowly
        self._next_check = 0.0
        self._is_trimmed = True

    def end(self, call: Call) -> None:
        """The message is there, or the call has ended."""
        self.calls.pop(call, None)
        if self.calls and self._clock() >= self._next_check:  # large messages keep the loop from `watch`
            self.check()

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                self.check()
                if not self.calls and not self._is_trimmed:
                    self._is_trimmed = True
                    await asyncio.to_thread(memory.trim)
            except Exception:  # the next check must come
                log.exception("checking the calls that arrive failed")

    def check(self) -> None:
        """Refuse some of the calls that arrive slowly, if these take too much."""
        now = self._clock()
        self._next_check = now + _EVERY_S
        slow = list(takewhile(lambda call: now - call.begun > _SLOW_S, self.calls))
        if not slow:
            self._before_bytes = self._resident_bytes()
        elif len(slow) > self._most and self._resident_bytes() - self._before_bytes > self._limit_bytes:
            self._refuse(self._in_turn(slow)[self._most :])

    def _in_turn(self, calls: list[Call]) -> list[Call]:
        """The first call of each caller, then the second of each, and so on."""
        count = collections.Counter[str]()
        turns = {}
        for call in calls:
            count[call.caller.name] += 1
            turns[call] = count[call.caller.name]
        return sorted(calls, key=turns.__getitem__)

    def _refuse(self, calls: list[Call]) -> None:
        error = overloaded(
            f"messages that are arriving take more than {self._limit_bytes >> 20} MB (twice max_inflight_mb);"
            " retry after 1 s",
            1.0,
        )
        for call in calls:
            del self.calls[call]
            call.end(error)
        self._is_trimmed = False


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
        self.has_one_message = not handler.request_streaming
        self.is_stream = bool(handler.request_streaming or handler.response_streaming)
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
        self._codes: dict[grpc.StatusCode, Counter] = {}
        self._succeeded: Counter | None = None

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
        counter = self._succeeded if code is _OK else self._codes.get(code)  # the hash of a code is slow
        if counter is None:
            counter = self._codes[code] = self._handled.labels(*self._labels, code.name)
            if code is _OK:
                self._succeeded = counter
        counter.value += 1
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


class Call:
    """One open RPC. Counts its start and end, and converts an exception from its handler to a status.

    It may be refused while it is open: a stream whose credentials end, a message that takes too much memory.
    """

    __slots__ = ("_arrives", "_context", "_counters", "_task", "begun", "caller", "grant", "refusal")

    def __init__(self, context: Context, counters: MethodCounters) -> None:
        self._context, self._counters = context, counters
        self._task: asyncio.Task[Any] | None = None
        self._arrives = False
        self.caller: Caller = UNKNOWN
        self.grant: Grant | None = None
        self.refusal: ServingError | None = None
        self.begun = time.perf_counter()
        counters.started.value += 1
        counters.calls.open += counters.counted
        counters.calls.last = self.begun

    def admit(self) -> None:
        """Find out who calls. A stream ends if its credentials do. The one message of a call is read
        next, and passed to `arrived`.

        Raises:
            Refusal: the call is not allowed.
        """
        counters = self._counters
        self.caller, self.grant = counters.guard.admit(counters.method, self._context)
        if counters.has_one_message:
            self._task, self._arrives = asyncio.current_task(), True
            counters.arriving.calls[self] = None
        if counters.is_stream and self.grant is not None:
            self._task = asyncio.current_task()
            counters.guard.open(self)

    def arrived(self, message: Any) -> Any:
        """The only message of the call.

        Raises:
            ServingError: BAD_INPUT, the call has no message, or it cannot be read.
        """
        counters = self._counters
        self._arrives = False
        counters.arriving.end(self)
        if message is grpc.aio.EOF:
            raise ServingError(ErrorCode.BAD_INPUT, "the call has no message; send one")
        counters.received.value += 1
        if counters.guard.on or type(message) is wire.Unreadable:
            counters.check(message)
        return message

    def end(self, refusal: ServingError) -> None:
        """Cancel the task that answers the call, which then ends with this error."""
        if self.refusal is None and self._task is not None:
            self.refusal = refusal
            self._task.cancel()

    async def hold(self) -> None:
        """Wait for the end of the server."""
        try:
            await asyncio.Event().wait()
        finally:
            self._counters.calls.open -= self._counters.counted
            self._ended(grpc.StatusCode.UNAVAILABLE)

    async def __aenter__(self) -> Call:
        if self._counters.calls.hold:
            await self.hold()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is None:
            self.succeeded()
            return False
        return await self.failed(error)

    def succeeded(self) -> None:
        """Record that the handler has returned."""
        counters = self._counters
        counters.calls.open -= counters.counted
        if self.grant is not None:
            counters.guard.close(self)
        counters.ended(_OK, self.begun)
        if (trace := tracing.current.get()) is not None:
            trace.call_ended(_OK.name, _OK.value[0])

    async def failed(self, error: BaseException) -> bool:
        """End the call with the status of an exception of its handler. Returns whether that is all; otherwise
        the exception goes on.

        Raises:
            grpc.aio.AbortError: the status is sent.
        """
        self._close()
        if self.refusal is not None and isinstance(error, asyncio.CancelledError):
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            error = self.refusal
            if not isinstance(error, Refusal):
                self._counters.refused(error)
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

    def _close(self) -> None:
        counters = self._counters
        counters.calls.open -= counters.counted
        if self._arrives:
            counters.arriving.end(self)
        if self.grant is not None:
            counters.guard.close(self)

    def _cancelled(self) -> grpc.StatusCode:
        """The status that the client saw: gRPC cancels a call at its deadline and when it stops, too."""
        if self._counters.calls.hold:
            return grpc.StatusCode.UNAVAILABLE
        late = is_past(self._context.time_remaining())
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED

    def _ended(self, code: grpc.StatusCode) -> None:
        self._counters.ended(code, self.begun)
        if (trace := tracing.current.get()) is not None:
            trace.call_ended(code.name, code.value[0])


def _internal(error: BaseException) -> ServingError:
    log_id = secrets.token_hex(4)
    log.error("RPC failed (log id %s)", log_id, exc_info=error)
    return ServingError(ErrorCode.FAILED, f"internal server error (log id {log_id}); see the server's log")


def _code(code: Any) -> grpc.StatusCode:
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN
