"""What each caller uses, and its limits: bytes in flight, and requests and tokens per second.

A request that arrives -> `admit` -> its bytes are held, its tokens counted -> its end gives the bytes back.
Bytes are shared among callers: alone, a caller may hold all that the server allows.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

from ..errors import overloaded, quota_exceeded
from ..metrics.families import CALLER_REFUSALS, Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import ServingError
    from ..metrics.types import Counter
    from ..supervision import Spent
    from .admission import CallShare
    from .callers import Caller
    from .shared_usage import SharedUsage

_MOST_BUCKETS = 4096

_OVERCOMMIT = 2
"""The bytes of all callers together, as a multiple of what one caller may hold alone."""


class TokenBucket:
    """Lets `rate` units a second through; after a pause, as many as of one second at once.

    A request may cost more than is left: it passes and the bucket owes it, so that large requests and tokens
    that are counted once they are generated need no special case.
    """

    __slots__ = ("_at", "_left", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate, self._at, self._left = rate, now, self._most(rate)

    @staticmethod
    def _most(rate: float) -> float:
        return max(rate, 1.0)

    def wait_s(self, now: float) -> float:
        """Seconds until the next request passes; 0 if it passes now."""
        self._left = min(self._left + (now - self._at) * self.rate, self._most(self.rate))
        self._at = now
        return 0.0 if self._left >= 1 - 1e-6 else (1 - self._left) / self.rate

    def spend(self, units: float) -> None:
        self._left -= units

    def is_full(self, now: float) -> bool:
        self.wait_s(now)
        return self._left >= self._most(self.rate)


class _Meters(NamedTuple):
    """What a caller of the auth file has used."""

    requests: Counter
    tokens: Counter


class CallerUsage:
    """The bytes and quotas of all callers. Event loop only.

    If there are several front ends, `shared_usage` sends them the changes, and adds theirs.

    Args:
        max_bytes: the most bytes of requests in flight that a caller may hold if no other holds any.
    """

    def __init__(
        self,
        max_bytes: int = 1 << 62,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes, self._clock = max_bytes, clock
        self.shared_usage: SharedUsage | None = None
        self._metrics = metrics or Metrics(enabled=False)
        self._meters: dict[str, _Meters] = {}  # by account
        self.bytes = 0  # of all requests in flight
        self.peak_bytes = 0  # the most that requests held here, until it is reset
        self._held: dict[str, int] = {}  # bytes, of callers that hold any
        self._buckets: dict[tuple[str, str], TokenBucket] = {}  # by caller and unit

    # --- bytes ---------------------------------------------------------------------------------------

    def no_room(self, size: int, caller: Caller) -> ServingError | None:
        """The error of a request of `size` bytes for which those in flight leave no room, if so.

        A caller may hold all bytes that others leave, and its share in any case: an equal part of all, or one
        request. So all callers together hold at most twice `max_bytes`.
        """
        if not self.bytes or not size:
            return None
        held = self.held(caller.name)
        if caller.bytes and held and held + size > caller.bytes:
            return quota_exceeded(
                f"caller {caller.name!r} has {held} bytes in flight, and may have {caller.bytes} (bytes);"
                " wait for answers, or retry after 1 s",
                1.0,
            )
        if self.bytes + size <= self._max_bytes:
            return None
        share = self._max_bytes // len({caller.name, *self._held})
        if self.bytes + size <= _OVERCOMMIT * self._max_bytes and (not held or held + size <= share):
            return None
        return overloaded(
            f"requests in flight hold {self.bytes >> 20} MB of at most {self._max_bytes >> 20} MB"
            " (max_inflight_mb); retry after 1 s",
            1.0,
        )

    def held(self, caller: str) -> int:
        """Bytes of a caller's requests in flight."""
        return self._held.get(caller, 0)

    def take(self, size: int, caller: Caller) -> ServingError | None:
        """Hold `size` bytes of a request, or return the error of `no_room`."""
        if (caller.bytes or self.bytes + size > self._max_bytes) and (error := self.no_room(size, caller)):
            return error
        self.hold(size, caller)
        return None

    def hold(self, size: int, caller: Caller) -> None:
        if not size:
            return
        self.add_held(caller.name, size)
        if self.bytes > self.peak_bytes:
            self.peak_bytes = self.bytes
        if self.shared_usage is not None:
            self.shared_usage.change("", 0, caller.name, 1, size, size / self._max_bytes)

    def free(self, size: int, caller: Caller) -> None:
        if not size:
            return
        self.add_held(caller.name, -size)
        if self.shared_usage is not None:
            self.shared_usage.change("", 0, caller.name, -1, -size, size / self._max_bytes)

    def add_held(self, caller: str, size: int) -> None:
        """Count bytes more or less, here or at another front end."""
        self.bytes += size
        held = self._held.get(caller, 0) + size
        if held:
            self._held[caller] = held
        else:
            self._held.pop(caller, None)

    # --- quotas --------------------------------------------------------------------------------------

    def admit(self, caller: Caller, call: CallShare | None = None) -> None:
        """Count one request that arrives.

        Args:
            call: the message that it is a part of. A message passes or not as a whole.

        Raises:
            ServingError: QUOTA, the caller has used up its requests or tokens per second.
        """
        if not (caller.requests_per_second or caller.tokens_per_second):
            return
        if call is None or not call.passed_quota:
            self._check(caller)
        if call is not None:
            call.passed_quota = call.is_message
        if caller.requests_per_second:
            self._spend(caller, "requests", caller.requests_per_second, 1)

    def _check(self, caller: Caller) -> None:
        rates = {"requests": caller.requests_per_second, "tokens": caller.tokens_per_second}
        for unit, rate in rates.items():
            # The clock is read once the bucket is there: one that is newer than `now` lets nothing pass.
            if rate and (wait_s := self._bucket(caller.name, unit, rate).wait_s(self._clock())):
                retry_s = max(math.ceil(wait_s * 1000) / 1000, 0.001)
                raise quota_exceeded(
                    f"caller {caller.name!r} has used its {rate:g} {unit} per second"
                    f" ({unit}_per_second); retry after {retry_s:.3f} s",
                    retry_s,
                )

    def _spend(self, caller: Caller, unit: str, rate: float, units: float) -> None:
        self._bucket(caller.name, unit, rate).spend(units)
        if self.shared_usage is not None:
            self.shared_usage.spend(caller.name, unit, rate, units)

    def add_spent(self, spent: Spent) -> None:
        """Count what a caller has used at another front end."""
        self._bucket(spent.caller, spent.unit, spent.rate).spend(spent.units)

    def _bucket(self, caller: str, unit: str, rate: float) -> TokenBucket:
        bucket = self._buckets.get((caller, unit))
        if bucket is None:
            now = self._clock()
            if len(self._buckets) >= _MOST_BUCKETS:  # of callers behind a proxy, that came long ago
                self._buckets = {key: one for key, one in self._buckets.items() if not one.is_full(now)}
            bucket = self._buckets[caller, unit] = TokenBucket(rate, now)
        bucket.rate = rate  # the auth file may have changed
        return bucket

    # --- counts --------------------------------------------------------------------------------------

    def accepted(self, caller: Caller, tokens: int) -> None:
        """Count an accepted request and the tokens that it sends."""
        if caller.account:
            self._meters_of(caller.account).requests.inc()
            self.add_tokens(caller, tokens)

    def add_tokens(self, caller: Caller, tokens: int) -> None:
        """Count tokens: sent with a request, or generated."""
        if not caller.account:
            return
        self._meters_of(caller.account).tokens.inc(tokens)
        if caller.tokens_per_second:
            self._spend(caller, "tokens", caller.tokens_per_second, tokens)

    def _meters_of(self, account: str) -> _Meters:
        meters = self._meters.get(account)
        if meters is None:
            requests, tokens = self._metrics.caller_requests, self._metrics.caller_tokens
            meters = self._meters[account] = _Meters(requests.labels(account), tokens.labels(account))
        return meters

    def ended(self, caller: Caller, error: ServingError) -> None:
        """Count an accepted request that found no slot; other errors are not counted."""
        if error.code.value in CALLER_REFUSALS and caller.account:
            self._metrics.caller_refused.labels(caller.account, error.code.value).inc()
