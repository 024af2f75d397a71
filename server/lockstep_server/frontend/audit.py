"""The audit log: one line for each admin call and each call that is refused for who sent it.

A line has the caller's name, the method and the reason; never a token or anything else that a caller sent.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..metrics.families import Metrics
    from .callers import Caller

log = logging.getLogger("lockstep_server.audit")

_LINES_PER_SECOND, _BURST = 10.0, 50.0


class Audit:
    """Writes audit lines and counts refusals. Event loop only.

    Refusals are limited to 10 lines per second; the next line counts those left out.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.metrics, self._clock = metrics, clock
        self._lines_left, self._refilled_at, self._unlogged = _BURST, clock(), 0

    def admin(self, caller: str, method: str, model: str, outcome: str) -> None:
        fields = {"caller": caller, "method": method, "model": model, "outcome": outcome}
        log.info("admin call", extra={"fields": fields})

    def refused(self, caller: Caller, method: str, reason: str) -> None:
        self.metrics.auth_refused.labels(reason).inc()
        if caller.account:
            self.metrics.caller_refused.labels(caller.account, reason).inc()
        now = self._clock()
        self._lines_left = min(self._lines_left + (now - self._refilled_at) * _LINES_PER_SECOND, _BURST)
        self._refilled_at = now
        if self._lines_left < 1:
            self._unlogged += 1
            return
        self._lines_left -= 1
        fields: dict[str, Any] = {"caller": caller.name, "method": method, "reason": reason}
        if self._unlogged:
            fields["unlogged"], self._unlogged = self._unlogged, 0
        log.warning("call refused", extra={"fields": fields})
