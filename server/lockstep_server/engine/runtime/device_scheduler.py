"""Shares a device fairly between engines, so that one model with long runs does not stall the others.

An engine acquires a lease, plans a run while holding it, so that the plan is never stale, and runs. The
waiting engine with the least recent device time goes first; ties go to the earliest deadline. One that was
idle, or is new, is ahead of the others by `max_run_s` at most, or they would wait until it has used as much
as they have. While several engines use the device, no run longer than `max_run_s` is planned.

What one caller sends to several models should not wait longer for one than for another: an engine whose turn
it is lets another go first in which requests of the same caller have waited longer, and pays for the run. It
keeps a share of the device, so that a flood of one model does not stall another one.

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

_MOST_PASSED = 10.0
"""An engine passes its turn only to one that has run for at most so many times as long as it has."""


class Claim(NamedTuple):
    """The requests that wait in an engine, if all of them are of one caller and priority."""

    caller: str
    priority: int
    since: float  # when the oldest was accepted


def _no_claim() -> Claim | None:
    return None


@dataclass(eq=False)
class DeviceAccount:
    """The device time used by one engine."""

    name: str
    yields_cpu: bool = False  # its runs have a lower priority than the front end
    used_s: float = 0.0  # decayed device time, as of `charged`
    ran_s: float = 0.0  # the same, of its own runs, whoever paid for them
    charged: float = 0.0  # time of the last `charge`

    def recent_s(self, now: float) -> float:
        """Device time in seconds, decayed exponentially."""
        return self.used_s * self._decay(now)

    def recently_ran_s(self, now: float) -> float:
        """As `recent_s`, of its own runs."""
        return self.ran_s * self._decay(now)

    def charge(self, used_s: float, now: float, ran_s: float | None = None) -> None:
        """Add device time. `ran_s`: of its own runs, if that differs."""
        decay = self._decay(now)
        self.used_s = self.used_s * decay + used_s
        self.ran_s = self.ran_s * decay + (used_s if ran_s is None else ran_s)
        self.charged = now

    def _decay(self, now: float) -> float:
        return math.exp2((self.charged - now) / _HALF_LIFE_S)


class DeviceLease(NamedTuple):
    """The right to run on the device, until its context ends."""

    waited_s: float
    max_run_s: float | None  # the longest run that may be planned; None: no limit


@dataclass(eq=False)
class _Waiter:
    account: DeviceAccount
    deadline: float
    leases: int
    claim: Callable[[], Claim | None]
    payer: DeviceAccount  # whose turn it was when it was granted
    granted: threading.Event = field(default_factory=threading.Event)


class _LeaseContext:
    """The context manager of `lease`. A class, because a generator would be slower at every step."""

    __slots__ = ("_account", "_begun", "_claim", "_deadline", "_device_scheduler", "_leases", "_payer")

    def __init__(
        self,
        device_scheduler: DeviceScheduler,
        account: DeviceAccount,
        deadline: float,
        leases: int = 1,
        claim: Callable[[], Claim | None] = _no_claim,
    ) -> None:
        self._device_scheduler, self._account, self._deadline = device_scheduler, account, deadline
        self._leases, self._claim, self._payer = leases, claim, account

    def __enter__(self) -> DeviceLease:
        device_scheduler, account = self._device_scheduler, self._account
        requested = device_scheduler._clock()
        waiter = device_scheduler._acquire(account, self._deadline, self._leases, self._claim, requested)
        begun = requested
        if waiter is not None:
            begun, self._payer = device_scheduler._clock(), waiter.payer
        self._begun = begun
        device_scheduler._held[self] = threading.get_ident()
        # If it is the only one, it is `account`, which has just acquired a lease.
        contended = len(device_scheduler._last_used) > 1 and device_scheduler._is_contended(account, begun)
        return DeviceLease(begun - requested, device_scheduler.max_run_s if contended else None)

    def __exit__(self, *_: object) -> None:
        if self._device_scheduler._held.pop(self, None) is not None:  # otherwise it was given up
            self.release()

    def release(self) -> None:
        device_scheduler = self._device_scheduler
        seconds = device_scheduler._clock() - self._begun
        device_scheduler._release(self._account, self._payer, self._leases, seconds)


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
        self._turn = DeviceAccount("turn")  # the recent time of whoever got the device last, as of then
        self._turn_of: DeviceAccount | None = None  # who that was
        self._last_used: dict[DeviceAccount, float] = {}
        self._held: dict[_LeaseContext, int] = {}  # with the threads that hold them

    def max_leases(self, account: DeviceAccount) -> int:
        """The most leases that accounts with the same `yields_cpu` may hold together."""
        return self.leases if account.yields_cpu else max(self.leases - 1, 1)

    def lease(
        self, account: DeviceAccount, deadline: float, claim: Callable[[], Claim | None] = _no_claim
    ) -> _LeaseContext:
        """A context that waits for a lease, holds it, and charges the account for the time.

        Args:
            claim: returns what waits in the engine; called under the scheduler's lock, on any thread.
        """
        return _LeaseContext(self, account, deadline, claim=claim)

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

    def _acquire(
        self,
        account: DeviceAccount,
        deadline: float,
        leases: int,
        claim: Callable[[], Claim | None],
        now: float,
    ) -> _Waiter | None:
        """Take leases. Returns how it waited for them; None: it did not have to."""
        with self._lock:
            self._last_used[account] = now
            if account is not self._turn_of:  # which has at least what it had then
                least_s = self._turn.recent_s(now) - self.max_run_s
                if account.recent_s(now) < least_s:
                    account.used_s, account.charged = least_s, now
            if not self._waiting and self._may_run(account, leases):
                self._take(account, account, leases)
                return None
            waiter = _Waiter(account, deadline, leases, claim, payer=account)
            self._waiting.append(waiter)
            self._grant()
        waiter.granted.wait()
        return waiter

    def _release(self, account: DeviceAccount, payer: DeviceAccount, leases: int, seconds: float) -> None:
        with self._lock:
            now = self._clock()
            if payer is account:
                account.charge(seconds, now)
            else:
                account.charge(0.0, now, ran_s=seconds)
                payer.charge(seconds, now, ran_s=0.0)
            self._last_used[account] = now
            self._free += leases
            self._not_yielding -= not account.yields_cpu
            if self._waiting:
                self._grant()

    def _grant(self) -> None:
        """Grant the free leases, one after another."""
        now = self._clock()
        while self._waiting and (turn := self._next(now)) is not None:
            waiter = self._older(turn, now)
            waiter.payer = turn.account
            self._take(waiter.account, waiter.payer, waiter.leases)
            self._waiting.remove(waiter)
            waiter.granted.set()

    def _next(self, now: float) -> _Waiter | None:
        """The waiter whose turn it is: of those that may run, the one with the least recent device time.

        A waiter that needs more leases than are free blocks all after it, or it would never run: but runs
        with a high priority go on while it waits for one that yields the CPU, as that may end late. A waiter
        that only lacks the right to the reserved lease blocks nobody.
        """
        kept = False
        for waiter in sorted(self._waiting, key=lambda w: (w.account.recent_s(now), w.deadline)):
            if waiter.leases > self._free:
                kept = True
            elif kept and (waiter.account.yields_cpu or not self._is_yielding_run()):
                continue
            elif self._may_run(waiter.account, waiter.leases):
                return waiter
        return None

    def _older(self, turn: _Waiter, now: float) -> _Waiter:
        """The waiter that goes first although it is the turn of another: that in which the same caller has
        waited longest. `turn` itself if there is none."""
        if len(self._waiting) == 1 or (claim := turn.claim()) is None:
            return turn
        oldest, since, ran_s = turn, claim.since, turn.account.recently_ran_s(now)
        for other in self._waiting:
            if (
                other.account is not turn.account
                and other.account.recently_ran_s(now) <= _MOST_PASSED * ran_s
                and self._may_run(other.account, other.leases)
                and (theirs := other.claim()) is not None
                and theirs[:2] == claim[:2]
                and theirs.since < since
            ):
                oldest, since = other, theirs.since
        return oldest

    def _is_yielding_run(self) -> bool:
        """Whether a run with `yields_cpu` holds a lease."""
        return self.leases - self._free > self._not_yielding

    def _may_run(self, account: DeviceAccount, leases: int) -> bool:
        if leases > self._free:
            return False
        return account.yields_cpu or self._not_yielding < self.max_leases(account)

    def _take(self, account: DeviceAccount, payer: DeviceAccount, leases: int) -> None:
        self._turn.used_s, self._turn.charged, self._turn_of = payer.used_s, payer.charged, payer
        self._free -= leases
        self._not_yielding += not account.yields_cpu

    def _is_contended(self, account: DeviceAccount, now: float) -> bool:
        """Whether another engine waits, or used the device within a half-life and so may return soon."""
        with self._lock:
            for other, used in list(self._last_used.items()):
                if now - used > _HALF_LIFE_S and all(waiter.account is not other for waiter in self._waiting):
                    del self._last_used[other]
            return any(other is not account for other in self._last_used)
