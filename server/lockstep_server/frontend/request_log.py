"""Logs requests: refused and failed ones at info, all others at debug.

Request texts, and error messages that may quote them, are logged only if `texts` is set.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from ..errors import ErrorCode, ServingError
from .recorder import request_id
from .tracing import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from .tracing import RequestSummary, Trace

log = logging.getLogger(__name__)

_DEBUG_OUTCOMES = ("ok", ErrorCode.CANCELLED.value)
_QUOTING = (ErrorCode.BAD_INPUT, ErrorCode.NOT_FOUND)
"""Codes whose messages may quote the request."""

_LINES_PER_SECOND, _BURST = 10.0, 50.0
"""Rate limit for refusals and failures: an overload makes thousands, and a line costs more than a refusal."""

_MAX_TEXT_CHARACTERS = 400


_PARAMETERS = ("priority", "timeout", "sequence_id", "sequence_start", "sequence_end")


def _without_names(field: str) -> str:
    """A field without the name of a parameter that the caller made up."""
    kind, _, name = field.partition(".")
    return kind if kind == "parameters" and name not in _PARAMETERS else field


class RequestLog:
    """Writes one line per request. Event loop only."""

    def __init__(self, *, texts: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._texts, self._clock = texts, clock
        self._lines_left, self._refilled_at = _BURST, clock()
        self._unlogged = 0

    def is_enabled_for(self, outcome: str) -> bool:
        """Whether requests with this outcome are logged."""
        return log.isEnabledFor(logging.DEBUG if outcome in _DEBUG_OUTCOMES else logging.INFO)

    def ended(self, request: RequestSummary, trace: Trace | None) -> None:
        """Log the end of an accepted request."""
        if not self.is_enabled_for(request.outcome):
            return
        if request.outcome in _DEBUG_OUTCOMES:
            log.debug("request ended", extra={"fields": self._fields(request, trace)})
        elif self._may_write():
            fields = self._fields(request, trace)
            error = request.event.error if request.event is not None else None
            if error is not None:
                fields |= self._error_fields(error)
            log.info("request failed", extra={"fields": fields | self._take_unlogged()})

    def refused(self, model: str, version: str, method: str, error: ServingError) -> None:
        """Log a request that was not accepted."""
        if not log.isEnabledFor(logging.INFO) or not self._may_write():
            return
        fields: dict[str, Any] = {"model": model, "version": version, "method": method}
        fields["code"] = error.code.value
        trace = current.get()
        if trace is not None:
            fields["trace_id"] = trace.id
        fields |= self._error_fields(error) | self._take_unlogged()
        log.info("request refused", extra={"fields": fields})

    def _fields(self, request: RequestSummary, trace: Trace | None) -> dict[str, Any]:
        spec, event = request.spec, request.event
        fields: dict[str, Any] = {
            "model": spec.model,
            "version": str(spec.version),
            "method": request.method,
            "outcome": request.outcome,
            "seconds": round(request.seconds, 6),
        }
        if event is not None:
            fields["request_id"] = request_id(event.key)
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
            fields["text"] = request.text[:_MAX_TEXT_CHARACTERS]
        return fields

    def _error_fields(self, error: ServingError) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if error.field:
            fields["field"] = error.field if self._texts else _without_names(error.field)
        if self._texts or error.code not in _QUOTING:
            fields["why"] = error.message
        return fields

    def _may_write(self) -> bool:
        if log.isEnabledFor(logging.DEBUG):
            return True  # at debug level every request is logged
        now = self._clock()
        self._lines_left = min(self._lines_left + (now - self._refilled_at) * _LINES_PER_SECOND, _BURST)
        self._refilled_at = now
        if self._lines_left < 1:
            self._unlogged += 1
            return False
        self._lines_left -= 1
        return True

    def _take_unlogged(self) -> dict[str, Any]:
        """The number of lines dropped since the last one written."""
        count, self._unlogged = self._unlogged, 0
        return {"unlogged": count} if count else {}
