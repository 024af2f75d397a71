"""Who may run on a device: a few permits, handed out fairly, so that one long run stalls nobody.

An engine takes a turn first and plans inside it, so a plan is never stale. Of those who wait, the
one with the least device time lately goes first, then the earliest deadline. While others want the
device too, an engine plans no run above `max_run_s`.

Runs that let others go first may have every permit: the front end has its core all the same. Of those
that do not, one permit is kept.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HALF_LIFE_S = 1.0
"""Device time counts half after this: "lately"."""


@dataclass(eq=False)
class DeviceAccount:
    """One engine's account at a gate."""

    name: str
    yields_cpu: bool = False  # its runs yield the processor to the front end
    used_s: float = 0.0  # device time, fading
    charged: float = 0.0  # when it was last brought up to date

    def used_lately(self, now: float) -> float:
        return self.used_s * math.exp2((self.charged - now) / _HALF_LIFE_S)

    def charge(self, seconds: float, now: float) -> None:
        self.used_s = self.used_lately(now) + seconds
        self.charged = now


@dataclass
class DeviceLease:
    """A permit, while it is held."""

    waited_s: float
    max_run_s: float | None  # no run above this may be planned; None: no bound


@dataclass(eq=False)
class _Waiter:
    account: DeviceAccount
    deadline: float
    leases: int
    granted: threading.Event = field(default_factory=threading.Event)


class _Held:
    """The context of a turn: a class, for a turn is taken at every step."""

    __slots__ = ("_account", "_begun", "_deadline", "_device_scheduler")

    def __init__(self, device_scheduler: DeviceScheduler, account: DeviceAccount, deadline: float) -> None:
        self._device_scheduler, self._account, self._deadline = device_scheduler, account, deadline

    def __enter__(self) -> DeviceLease:
        device_scheduler, account = self._device_scheduler, self._account
        asked = device_scheduler._clock()
        device_scheduler._acquire(account, self._deadline, 1)
        self._begun = begun = device_scheduler._clock()
        return DeviceLease(
            begun - asked, device_scheduler.max_run_s if device_scheduler._contended(account, begun) else None
        )

    def __exit__(self, *_: object) -> None:
        device_scheduler = self._device_scheduler
        device_scheduler._release(self._account, 1, device_scheduler._clock() - self._begun)


class DeviceScheduler:
    """A device's permits. Thread-safe. Holding one while asking for another is not allowed."""

    def __init__(
        self,
        device: str,
        leases: int = 1,
        max_run_s: float = 0.020,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device, self.leases, self.max_run_s = device, leases, max_run_s
        self._free = leases
        self._firm = 0  # runs at this moment that do not let others go first
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._last_seen: dict[DeviceAccount, float] = {}

    def max_leases(self, account: DeviceAccount) -> int:
        """Runs at one time that the share's kind may have."""
        return self.leases if account.yields_cpu else max(self.leases - 1, 1)

    def lease(self, account: DeviceAccount, deadline: float) -> _Held:
        """Wait for a permit, hold it, and be charged for the time."""
        return _Held(self, account, deadline)

    @contextmanager
    def exclusive(self, account: DeviceAccount) -> Iterator[None]:
        """Hold every permit: for measuring."""
        self._acquire(account, self._clock() + 1.0, self.leases)
        begun = self._clock()
        try:
            yield
        finally:
            self._release(account, self.leases, self._clock() - begun)

    def waiting(self) -> int:
        with self._lock:
            return len(self._waiting)

    def _acquire(self, account: DeviceAccount, deadline: float, leases: int) -> None:
        with self._lock:
            self._last_seen[account] = self._clock()
            if not self._waiting and self._fits(account, leases):
                self._hold(account, leases)
                return
            waiter = _Waiter(account, deadline, leases)
            self._waiting.append(waiter)
            self._grant()
        waiter.granted.wait()

    def _release(self, account: DeviceAccount, leases: int, seconds: float) -> None:
        with self._lock:
            now = self._clock()
            account.charge(seconds, now)
            self._last_seen[account] = now
            self._free += leases
            self._firm -= not account.yields_cpu
            self._grant()

    def _grant(self) -> None:
        """Hand out what is free, in order. Who needs more permits than are free holds up the rest,
        or it would never run; whose kind has all that it may waits for its kind only."""
        now = self._clock()
        for waiter in sorted(self._waiting, key=lambda w: (w.account.used_lately(now), w.deadline)):
            if waiter.leases > self._free:
                return
            if self._fits(waiter.account, waiter.leases):
                self._hold(waiter.account, waiter.leases)
                self._waiting.remove(waiter)
                waiter.granted.set()

    def _fits(self, account: DeviceAccount, leases: int) -> bool:
        return leases <= self._free and (account.yields_cpu or self._firm < self.max_leases(account))

    def _hold(self, account: DeviceAccount, leases: int) -> None:
        self._free -= leases
        self._firm += not account.yields_cpu

    def _contended(self, account: DeviceAccount, now: float) -> bool:
        """Another engine waits, or was here within a half-life and so may come back during a run."""
        with self._lock:
            if len(self._last_seen) == 1 and account in self._last_seen:
                return False
            for other, seen in list(self._last_seen.items()):
                if now - seen > _HALF_LIFE_S and all(waiter.account is not other for waiter in self._waiting):
                    del self._last_seen[other]
            return any(other is not account for other in self._last_seen)
