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
class Share:
    """One engine's account at a gate."""

    name: str
    lets_others_first: bool = False  # its runs yield the processor to the front end
    used_s: float = 0.0  # device time, fading
    charged: float = 0.0  # when it was last brought up to date

    def used_lately(self, now: float) -> float:
        return self.used_s * math.exp2((self.charged - now) / _HALF_LIFE_S)

    def charge(self, seconds: float, now: float) -> None:
        self.used_s = self.used_lately(now) + seconds
        self.charged = now


@dataclass
class Turn:
    """A permit, while it is held."""

    waited_s: float
    max_run_s: float | None  # no run above this may be planned; None: no bound


@dataclass(eq=False)
class _Waiter:
    share: Share
    deadline: float
    permits: int
    granted: threading.Event = field(default_factory=threading.Event)


class _Held:
    """The context of a turn: a class, for a turn is taken at every step."""

    __slots__ = ("_begun", "_deadline", "_gate", "_share")

    def __init__(self, gate: Gate, share: Share, deadline: float) -> None:
        self._gate, self._share, self._deadline = gate, share, deadline

    def __enter__(self) -> Turn:
        gate, share = self._gate, self._share
        asked = gate._clock()
        gate._acquire(share, self._deadline, 1)
        self._begun = begun = gate._clock()
        return Turn(begun - asked, gate.max_run_s if gate._contended(share, begun) else None)

    def __exit__(self, *_: object) -> None:
        gate = self._gate
        gate._release(self._share, 1, gate._clock() - self._begun)


class Gate:
    """A device's permits. Thread-safe. Holding one while asking for another is not allowed."""

    def __init__(
        self,
        device: str,
        permits: int = 1,
        max_run_s: float = 0.020,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device, self.permits, self.max_run_s = device, permits, max_run_s
        self._free = permits
        self._firm = 0  # runs at this moment that do not let others go first
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._last_seen: dict[Share, float] = {}

    def most(self, share: Share) -> int:
        """Runs at one time that the share's kind may have."""
        return self.permits if share.lets_others_first else max(self.permits - 1, 1)

    def turn(self, share: Share, deadline: float) -> _Held:
        """Wait for a permit, hold it, and be charged for the time."""
        return _Held(self, share, deadline)

    @contextmanager
    def alone(self, share: Share) -> Iterator[None]:
        """Hold every permit: for measuring."""
        self._acquire(share, self._clock() + 1.0, self.permits)
        begun = self._clock()
        try:
            yield
        finally:
            self._release(share, self.permits, self._clock() - begun)

    def waiting(self) -> int:
        with self._lock:
            return len(self._waiting)

    def _acquire(self, share: Share, deadline: float, permits: int) -> None:
        with self._lock:
            self._last_seen[share] = self._clock()
            if not self._waiting and self._fits(share, permits):
                self._hold(share, permits)
                return
            waiter = _Waiter(share, deadline, permits)
            self._waiting.append(waiter)
            self._grant()
        waiter.granted.wait()

    def _release(self, share: Share, permits: int, seconds: float) -> None:
        with self._lock:
            now = self._clock()
            share.charge(seconds, now)
            self._last_seen[share] = now
            self._free += permits
            self._firm -= not share.lets_others_first
            self._grant()

    def _grant(self) -> None:
        """Hand out what is free, in order. Who needs more permits than are free holds up the rest,
        or it would never run; whose kind has all that it may waits for its kind only."""
        now = self._clock()
        for waiter in sorted(self._waiting, key=lambda w: (w.share.used_lately(now), w.deadline)):
            if waiter.permits > self._free:
                return
            if self._fits(waiter.share, waiter.permits):
                self._hold(waiter.share, waiter.permits)
                self._waiting.remove(waiter)
                waiter.granted.set()

    def _fits(self, share: Share, permits: int) -> bool:
        return permits <= self._free and (share.lets_others_first or self._firm < self.most(share))

    def _hold(self, share: Share, permits: int) -> None:
        self._free -= permits
        self._firm += not share.lets_others_first

    def _contended(self, share: Share, now: float) -> bool:
        """Another engine waits, or was here within a half-life and so may come back during a run."""
        with self._lock:
            if len(self._last_seen) == 1 and share in self._last_seen:
                return False
            for other, seen in list(self._last_seen.items()):
                if now - seen > _HALF_LIFE_S and all(waiter.share is not other for waiter in self._waiting):
                    del self._last_seen[other]
            return any(other is not share for other in self._last_seen)
