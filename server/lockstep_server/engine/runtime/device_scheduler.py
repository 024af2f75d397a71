"""Shares a device fairly between engines, so that one model with long runs does not stall the others.

An engine acquires a lease, plans a run while holding it, so that the plan is never stale, and runs. The
waiting engine with the least recent device time goes first; ties go to the earliest deadline. One that was
idle, or is new, is ahead of the others by `max_run_s` at most, or they would wait until it has used as much
as they have. While several engines use the device, no run longer than `max_run_s` is planned.

If there are several leases, one is reserved for accounts with `yields_cpu`. All others together hold at
most `leases - 1`, so that the front end has a core.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_HALF_LIFE_S = 1.0
"""Half-life of used device time in `recent_s`."""


@dataclass(eq=False)
class DeviceAccount:
    """The device time used by one engine."""

    name: str
    yields_cpu: bool = False  # its runs have a lower priority than the front end
    used_s: float = 0.0  # decayed device time, as of `charged`
    charged: float = 0.0  # time of the last `charge`

    def recent_s(self, now: float) -> float:
        """Device time in seconds, decayed exponentially."""
        return self.used_s * math.exp2((self.charged - now) / _HALF_LIFE_S)

    def charge(self, seconds: float, now: float) -> None:
        self.used_s = self.recent_s(now) + seconds
        self.charged = now


class DeviceLease(NamedTuple):
    """The right to run on the device, until its context ends."""

    waited_s: float
    max_run_s: float | None  # the longest run that may be planned; None: no limit


@dataclass(eq=False)
class _Waiter:
    account: DeviceAccount
    deadline: float
    leases: int
    granted: threading.Event = field(default_factory=threading.Event)


class _LeaseContext:
    """The context manager of `lease`. A class, because a generator would be slower at every step."""

    __slots__ = ("_account", "_begun", "_deadline", "_device_scheduler", "_leases")

    def __init__(
        self, device_scheduler: DeviceScheduler, account: DeviceAccount, deadline: float, leases: int = 1
    ) -> None:
        self._device_scheduler, self._account, self._deadline = device_scheduler, account, deadline
        self._leases = leases

    def __enter__(self) -> DeviceLease:
        device_scheduler, account = self._device_scheduler, self._account
        requested = device_scheduler._clock()
        waited = device_scheduler._acquire(account, self._deadline, self._leases, requested)
        self._begun = begun = device_scheduler._clock() if waited else requested
        device_scheduler._held[self] = threading.get_ident()
        contended = device_scheduler._is_contended(account, begun)
        return DeviceLease(begun - requested, device_scheduler.max_run_s if contended else None)

    def __exit__(self, *_: object) -> None:
        if self._device_scheduler._held.pop(self, None) is not None:  # otherwise it was given up
            self.release()

    def release(self) -> None:
        device_scheduler = self._device_scheduler
        device_scheduler._release(self._account, self._leases, device_scheduler._clock() - self._begun)


class DeviceScheduler:
    """Grants the leases of a device. Thread-safe. A thread must not request a lease while it holds one."""

    def __init__(
        self, leases: int = 1, max_run_s: float = 0.020, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.leases, self.max_run_s = leases, max_run_s
        self._free = leases
        self._not_yielding = 0  # running accounts without `yields_cpu`
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._turn = DeviceAccount("turn")  # the recent time of whoever got the device last
        self._last_used: dict[DeviceAccount, float] = {}
        self._held: dict[_LeaseContext, int] = {}  # with the threads that hold them

    def max_leases(self, account: DeviceAccount) -> int:
        """The most leases that accounts with the same `yields_cpu` may hold together."""
        return self.leases if account.yields_cpu else max(self.leases - 1, 1)

    def lease(self, account: DeviceAccount, deadline: float) -> _LeaseContext:
        """A context that waits for a lease, holds it, and charges the account for the time."""
        return _LeaseContext(self, account, deadline)

    def exclusive(self, account: DeviceAccount) -> _LeaseContext:
        """A context that holds all leases, for measurements."""
        return _LeaseContext(self, account, self._clock() + 1.0, self.leases)

    def give_up(self, thread: int) -> None:
        """Let others run in place of a thread whose run takes too long. Its lease ends before its context."""
        for lease, holder in list(self._held.items()):
            if holder == thread and self._held.pop(lease, None) is not None:
                lease.release()

    @property
    def is_wanted(self) -> bool:
        """Whether an engine waits for a lease. It may be out of date at once, and takes no lock."""
        return bool(self._waiting)

    def waiting(self) -> int:
        with self._lock:
            return len(self._waiting)

    def _acquire(self, account: DeviceAccount, deadline: float, leases: int, now: float) -> bool:
        """Take leases. Returns whether it had to wait for them."""
        with self._lock:
            self._last_used[account] = now
            least_s = self._turn.recent_s(now) - self.max_run_s
            if account.recent_s(now) < least_s:
                account.used_s, account.charged = least_s, now
            if not self._waiting and self._may_run(account, leases):
                self._take(account, leases, now)
                return False
            waiter = _Waiter(account, deadline, leases)
            self._waiting.append(waiter)
            self._grant()
        waiter.granted.wait()
        return True

    def _release(self, account: DeviceAccount, leases: int, seconds: float) -> None:
        with self._lock:
            now = self._clock()
            account.charge(seconds, now)
            self._last_used[account] = now
            self._free += leases
            self._not_yielding -= not account.yields_cpu
            if self._waiting:
                self._grant()

    def _grant(self) -> None:
        """Grant the free leases, least recent device time first.

        A waiter that needs more leases than are free blocks all after it, or it would never run: but runs
        with a high priority go on while it waits for one that yields the CPU, as that may end late. A waiter
        that only lacks the right to the reserved lease blocks nobody.
        """
        if not self._waiting:
            return
        now, kept = self._clock(), False
        for waiter in sorted(self._waiting, key=lambda w: (w.account.recent_s(now), w.deadline)):
            if waiter.leases > self._free:
                kept = True
            elif kept and (waiter.account.yields_cpu or not self._is_yielding_run()):
                continue
            elif self._may_run(waiter.account, waiter.leases):
                self._take(waiter.account, waiter.leases, now)
                self._waiting.remove(waiter)
                waiter.granted.set()

    def _is_yielding_run(self) -> bool:
        """Whether a run with `yields_cpu` holds a lease."""
        return self.leases - self._free > self._not_yielding

    def _may_run(self, account: DeviceAccount, leases: int) -> bool:
        if leases > self._free:
            return False
        return account.yields_cpu or self._not_yielding < self.max_leases(account)

    def _take(self, account: DeviceAccount, leases: int, now: float) -> None:
        self._turn.used_s, self._turn.charged = account.recent_s(now), now
        self._free -= leases
        self._not_yielding += not account.yields_cpu

    def _is_contended(self, account: DeviceAccount, now: float) -> bool:
        """Whether another engine waits, or used the device within a half-life and so may return soon."""
        if len(self._last_used) == 1:  # `account`, which has just acquired a lease
            return False
        with self._lock:
            for other, used in list(self._last_used.items()):
                if now - used > _HALF_LIFE_S and all(waiter.account is not other for waiter in self._waiting):
                    del self._last_used[other]
            return any(other is not account for other in self._last_used)
