"""What the callers of all front ends have queued, hold and spend, so that all enforce the same bounds.

admission, usage → `SharedUsage` → `Usage` → supervisor → `SharedUsage` of the other front ends → their
admission and usage. A large change, as a share of its bound, is sent at once, a small one after
`_SEND_AFTER_S`. A bound may be exceeded by what the other front ends accept meanwhile. A quota that is
exceeded in this way is owed later.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

from ..supervision import Amount, Spent, Usage

_SEND_AFTER_S = 0.05
"""A small change is sent after this time."""

_MUCH = 1 / 32
"""A change of this share of its bound is sent at once,"""

_PAUSE_S = 0.002
"""but no sooner than this after the last message."""

_Key = tuple[str, int, str]
"""Model, version and caller. The model "" stands for bytes in flight."""

_NOTHING = (0, 0.0)


class Timer(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Timer]


class Totals(Protocol):
    """Where a front end counts what others hold beside what it holds itself."""

    def add_held(self, caller: str, size: int) -> None:
        """Bytes in flight."""

    def add_queued(self, model: str, version: int, caller: str, requests: int, seconds: float) -> None:
        """Accepted requests of a model that have not ended, in device seconds."""

    def add_served(self, model: str, version: int, seconds: float) -> None:
        """Device seconds of requests that have ended."""

    def add_spent(self, spent: Spent) -> None:
        """Units of a quota."""


class SharedUsage:
    """What this front end holds, and what each other one has sent. Event loop only."""

    def __init__(
        self,
        number: int,
        send: Callable[[Usage], None],
        totals: Totals,
        call_later: CallLater | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._number, self._send, self._totals = number, send, totals
        self._call_later = call_later or asyncio.get_running_loop().call_later
        self._clock = clock
        self._own: dict[_Key, tuple[int, float]] = {}
        self._sent: dict[_Key, tuple[int, float]] = {}
        self._changed: set[_Key] = set()
        self._served: defaultdict[tuple[str, int], float] = defaultdict(float)
        self._spent: defaultdict[tuple[str, str, float], float] = defaultdict(float)
        self._weight = 0.0  # of all changes since the last message, as shares of their bounds
        self._timer: Timer | None = None
        self._hurries = False
        self._last = 0.0
        self._others: dict[int, dict[_Key, tuple[int, float]]] = {}

    # --- what this front end holds ------------------------------------------------------------------

    def change(
        self, model: str, version: int, caller: str, requests: int, amount: float, share: float
    ) -> None:
        """Count `requests` and an `amount` more or less. `share`: of the bound, for the whole change."""
        key = model, version, caller
        before = self._own.get(key, _NOTHING)
        now = before[0] + requests, before[1] + amount
        if now[0]:
            self._own[key] = now
        else:
            self._own.pop(key, None)
        self._changed.add(key)
        self._schedule(share)

    def serve(self, model: str, version: int, seconds: float) -> None:
        self._served[model, version] += seconds
        self._schedule(0.0)

    def spend(self, caller: str, unit: str, rate: float, units: float) -> None:
        self._spent[caller, unit, rate] += units
        self._schedule(units / max(rate, 1.0))

    def begin_model(self, model: str, version: int) -> None:
        """A model version begins with an empty queue, here and at the others."""
        for amounts in (self._own, self._sent, *self._others.values()):
            for key in [key for key in amounts if key[:2] == (model, version)]:
                del amounts[key]

    def _schedule(self, share: float) -> None:
        self._weight += share
        hurries = self._weight >= _MUCH
        if self._timer is not None:
            if self._hurries or not hurries:
                return
            self._timer.cancel()
        self._hurries = hurries
        delay_s = max(self._last + _PAUSE_S - self._clock(), 0.0) if hurries else _SEND_AFTER_S
        self._timer = self._call_later(delay_s, self._send_changes)

    def _send_changes(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._hurries, self._weight = None, False, 0.0
        self._last = self._clock()
        changed = {
            key: now
            for key in self._changed
            if (now := self._own.get(key, _NOTHING)) != self._sent.get(key, _NOTHING)
        }
        served = [(*model, seconds) for model, seconds in self._served.items()]
        spent = [Spent(*who, units) for who, units in self._spent.items()]
        self._changed.clear()
        self._served.clear()
        self._spent.clear()
        for key, now in changed.items():
            if now == _NOTHING:
                self._sent.pop(key, None)
            else:
                self._sent[key] = now
        if changed or served or spent:
            amounts = [Amount(*key, *now) for key, now in changed.items()]
            self._send(Usage(number=self._number, amounts=amounts, served=served, spent=spent))

    def send_all(self) -> None:
        """Send everything, because a new front end knows nothing yet."""
        self._send_changes()
        self._sent.clear()
        self._changed.update(self._own)
        self._send_changes()

    # --- what others hold ---------------------------------------------------------------------------

    def take(self, usage: Usage) -> None:
        """Count what another front end has sent."""
        known = self._others.setdefault(usage.number, {})
        for model, version, caller, requests, amount in usage.amounts:
            key = model, version, caller
            self._count(key, known.get(key, _NOTHING), (requests, amount))
            if requests:
                known[key] = requests, amount
            else:
                known.pop(key, None)
        for model, version, seconds in usage.served:
            self._totals.add_served(model, version, seconds)
        for spent in usage.spent:
            self._totals.add_spent(spent)

    def forget(self, number: int) -> None:
        """Another front end has ended, and with it what it held."""
        for key, before in self._others.pop(number, {}).items():
            self._count(key, before, _NOTHING)

    def _count(self, key: _Key, before: tuple[int, float], now: tuple[int, float]) -> None:
        model, version, caller = key
        if model:
            requests, seconds = now[0] - before[0], now[1] - before[1]
            self._totals.add_queued(model, version, caller, requests, seconds)
        else:
            self._totals.add_held(caller, round(now[1] - before[1]))
