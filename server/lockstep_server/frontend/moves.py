"""How a sequence goes from one server to another, so that it is live on one at most.

The server that has it (the holder) freezes it and offers its state. The other one (the taker) keeps the
state inactive, as a hold with a number, and answers with it. The holder asks to confirm the hold. The
sequence has moved when the taker makes it live, which it does once at most. Until the holder knows what
became of the hold, its own copy stays frozen.

A hold ends after a while by the taker's clock, so the clocks of two servers are never compared. A taker has
another incarnation after each start of its engine: it does not know what an earlier one did.

Deterministic: no clock, no network. `now` is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

What = TypeVar("What")

_REMEMBERED = 65_536
"""Ends of holds that are remembered. A holder that asks for an earlier one learns that nobody knows."""


class HoldState(Enum):
    """What a taker says of a hold."""

    ACTIVATING = "activating"  # ask again
    LIVE = "live"  # it became live here. It may have ended, or moved on, meanwhile
    GONE = "gone"  # it never became live here, and never will
    UNKNOWN = "unknown"  # too long ago


class MoveState(Enum):
    """What a holder knows of a move to one taker."""

    OFFERED = "offered"  # nothing was confirmed: the sequence can go on here at any time
    CONFIRMING = "confirming"  # the sequence may be live at the taker
    MOVED = "moved"  # it is
    STAYS = "stays"  # it is not, and will not be
    LOST = "lost"  # nobody knows: the taker was restarted meanwhile, or never answered


@dataclass(frozen=True)
class Hold:
    """The name of a hold: which start of the taker's engine, and the number that it gave."""

    incarnation: str
    number: int


class Move:
    """The holder's side of a move of one sequence to one taker."""

    def __init__(self) -> None:
        self.state = MoveState.OFFERED
        self.hold: Hold | None = None

    def held(self, hold: Hold) -> None:
        """The taker keeps the state: from now on it may be asked to confirm."""
        assert self.state is MoveState.OFFERED
        self.state, self.hold = MoveState.CONFIRMING, hold

    def not_held(self) -> None:
        """The offer was refused, or nobody knows whether it arrived. A hold that was made of it ends."""
        assert self.state is MoveState.OFFERED
        self.state = MoveState.STAYS

    def answered(self, incarnation: str, state: HoldState) -> None:
        """The taker has answered a confirm. Late answers change nothing."""
        if self.state is not MoveState.CONFIRMING or state is HoldState.ACTIVATING:
            return
        assert self.hold is not None
        if incarnation != self.hold.incarnation or state is HoldState.UNKNOWN:
            self.state = MoveState.LOST
        else:
            self.state = MoveState.MOVED if state is HoldState.LIVE else MoveState.STAYS

    def give_up(self) -> None:
        """The taker has not answered for so long that nobody waits for the sequence any more."""
        self.state = MoveState.LOST


class Holds(Generic[What]):
    """The taker's side: the states that it keeps, and what became of earlier ones.

    Args:
        hold_s: how long a state is kept without a confirm.
        most: the most states that are kept.
    """

    def __init__(self, hold_s: float, most: int) -> None:
        self._hold_s, self._most = hold_s, most
        self._held: OrderedDict[int, tuple[float, What]] = OrderedDict()  # with the ends, the earliest first
        self._known: OrderedDict[int, HoldState] = OrderedDict()  # of those that are not held
        self._last = 0

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, what: What, now: float) -> int | None:
        """Keep a state. Returns its number; None if there are too many."""
        self.expire(now)
        if len(self._held) >= self._most:
            return None
        self._last += 1
        self._held[self._last] = now + self._hold_s, what
        return self._last

    def confirm(self, number: int, now: float) -> tuple[HoldState, What | None]:
        """What becomes of a hold that is to be confirmed. With a state: make it live, then call `settle`."""
        self.expire(now)
        if (held := self._held.pop(number, None)) is not None:
            self._note(number, HoldState.ACTIVATING)
            return HoldState.ACTIVATING, held[1]
        return self._known.get(number, HoldState.UNKNOWN), None

    def settle(self, number: int, *, live: bool) -> HoldState:
        """A state that was to be made live is, or cannot be."""
        state = HoldState.LIVE if live else HoldState.GONE
        if self._known.get(number) is HoldState.ACTIVATING:
            self._known[number] = state
        return state

    def expire(self, now: float) -> None:
        """Drop the states that nobody has confirmed in time."""
        while self._held and next(iter(self._held.values()))[0] <= now:
            number, _ = self._held.popitem(last=False)
            self._note(number, HoldState.GONE)

    def _note(self, number: int, state: HoldState) -> None:
        self._known[number] = state
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
