"""Messages on their way to a host, and when they cross.

Each crossing wakes an engine and costs more than a small request does, and an engine that is woken
for one request takes it alone from the loop that is about to read the next. So the loop reads what
there is before it tells of it: see `port.When`, and docs/decisions/0015.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ..messages import SendPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import messages

QUIET_TURNS = 16
"""Turns of the event loop without another message: nothing more is there to be read. An answered call
takes gRPC about six."""

MOST = 16
"""Messages that wait beyond a turn: more in one crossing save little."""

LONGEST_S = 0.004
"""How long a loop that is never quiet holds a message."""


class MessageCoalescer:
    """Keeps messages in order, and hands each over exactly once, to `cross`. All on the event loop."""

    def __init__(
        self, cross: Callable[[list[messages.Message]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cross, self._clock = cross, clock
        self._messages: list[messages.Message] = []
        self._turns = QUIET_TURNS  # that may yet pass before they cross
        self._until = 0.0
        self._turning = False

    def put(self, message: messages.Message, when: SendPolicy) -> None:
        """Add a message. Those before it cross with it at the latest."""
        self._messages.append(message)
        if when is SendPolicy.NOW:
            self.flush()
            return
        if when is SendPolicy.TURN or len(self._messages) >= MOST:
            self._turns = 0
        elif self._turns:
            self._turns = QUIET_TURNS
        if len(self._messages) == 1:
            self._until = self._clock() + LONGEST_S
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def flush(self) -> None:
        """Let what waits cross now."""
        batch, self._messages, self._turns = self._messages, [], QUIET_TURNS
        if batch:
            self._cross(batch)

    def _turn(self) -> None:
        """The end of a turn of the loop."""
        self._turning = bool(self._messages) and self._turns > 0 and self._clock() < self._until
        if self._turning:
            self._turns -= 1
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self.flush()
