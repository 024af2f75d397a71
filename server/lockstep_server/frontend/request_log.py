"""What the log says of requests: a line for each that was refused or failed, at info, and for each
that ended otherwise, at debug.

No text of a caller is written unless it is asked for; nor is a message that may echo one.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from ..errors import ErrorCode, ServingError
from .tracing import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from .tracing import RequestSummary, Trace

log = logging.getLogger(__name__)

_QUIET = ("ok", ErrorCode.CANCELLED.value)
_ECHOING = (ErrorCode.BAD_INPUT, ErrorCode.NOT_FOUND)
"""Meanings whose messages may hold what the caller sent."""

_LINES_A_SECOND, _BURST = 10.0, 50.0
"""Of refusals and failures: an overload makes thousands, and each line costs more than a refusal."""

_LONGEST_TEXT = 400


class RequestLog:
    """Writes the lines. All on the event loop."""

    def __init__(self, *, texts: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._texts, self._clock = texts, clock
        self._room, self._filled = _BURST, clock()
        self._unlogged = 0

    def listens(self, outcome: str) -> bool:
        """A request that ended so has a line."""
        return log.isEnabledFor(logging.DEBUG if outcome in _QUIET else logging.INFO)

    def ended(self, request: RequestSummary, trace: Trace | None) -> None:
        """An accepted request has ended."""
        if not self.listens(request.outcome):
            return
        if request.outcome in _QUIET:
            log.debug("request ended", extra={"fields": self._story(request, trace)})
        elif self._may_write():
            fields = self._story(request, trace)
            error = request.event.error if request.event is not None else None
            if error is not None:
                fields |= self._why(error)
            log.info("request failed", extra={"fields": fields | self._left_out()})

    def refused(self, model: str, version: str, method: str, error: ServingError) -> None:
        """A request was refused at the door."""
        if not log.isEnabledFor(logging.INFO) or not self._may_write():
            return
        fields: dict[str, Any] = {"model": model, "version": version, "method": method}
        fields["code"] = error.code.value
        trace = current.get()
        if trace is not None:
            fields["trace_id"] = trace.id
        log.info("request refused", extra={"fields": fields | self._why(error) | self._left_out()})

    def _story(self, request: RequestSummary, trace: Trace | None) -> dict[str, Any]:
        spec, event = request.spec, request.event
        fields: dict[str, Any] = {
            "model": spec.model,
            "version": str(spec.version),
            "method": request.method,
            "outcome": request.outcome,
            "seconds": round(request.seconds, 6),
        }
        if event is not None and event.timings.steps:
            timings = event.timings
            fields["queue_seconds"] = round(timings.queue_s, 6)
            fields["compute_seconds"] = round(timings.compute_s, 6)
            fields["runs"] = timings.steps
            fields["rows"] = round(timings.rows, 1)
            fields["length"] = event.length
        if trace is not None:
            fields["trace_id"] = trace.id
        if self._texts and request.text is not None:
            fields["text"] = request.text[:_LONGEST_TEXT]
        return fields

    def _why(self, error: ServingError) -> dict[str, Any]:
        told: dict[str, Any] = {}
        if error.field:
            told["field"] = error.field
        if self._texts or error.code not in _ECHOING:
            told["why"] = error.message
        return told

    def _may_write(self) -> bool:
        if log.isEnabledFor(logging.DEBUG):
            return True  # there every request has its line
        now = self._clock()
        self._room = min(self._room + (now - self._filled) * _LINES_A_SECOND, _BURST)
        self._filled = now
        if self._room < 1:
            self._unlogged += 1
            return False
        self._room -= 1
        return True

    def _left_out(self) -> dict[str, Any]:
        """Lines that were not written since the last one."""
        count, self._unlogged = self._unlogged, 0
        return {"unlogged": count} if count else {}
