"""Coalesces messages to the engine: put -> wait for more if `SendPolicy` allows -> send as one batch.

Each send wakes the engine and costs more than a small request does. An engine woken for one request
starts it unbatched, although the event loop is about to read the next. So the event loop first reads
all requests that have arrived, then sends them together (docs/decisions/0015).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ..messages import SendPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import messages

_NOW, _TURN = SendPolicy.NOW, SendPolicy.TURN

IDLE_TURNS = 16
"""Send after this many turns of the event loop without a new message: no request is left to read. gRPC
takes about six turns for one call."""

MAX_MESSAGES = 16
"""Wait beyond the current turn for at most this many messages: larger batches save little."""

MAX_DELAY_S = 0.004
"""Longest time a busy event loop delays a message."""


class MessageCoalescer:
    """Passes each message to `send` exactly once, in order, in batches. Used on the event loop only."""

    def __init__(
        self, send: Callable[[list[messages.Message]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock = send, clock
        self._messages: list[messages.Message] = []
        self._turns_left = IDLE_TURNS  # until the batch is sent
        self._deadline = 0.0
        self._scheduled = False  # `_turn` runs in the next turn of the event loop
        self._next_turn = self._turn  # bound once: a busy loop calls it several times for each message

    def put(self, message: messages.Message, when: SendPolicy = SendPolicy.TURN) -> None:
        """Queue a message. Earlier messages are sent with it at the latest."""
        if when is _NOW and not self._messages:
            self._send([message])
            return
        self._messages.append(message)
        if when is _NOW:
            self.flush()
            return
        if when is _TURN or len(self._messages) >= MAX_MESSAGES:
            self._turns_left = 0
        elif self._turns_left:
            self._turns_left = IDLE_TURNS
        if len(self._messages) == 1:
            self._deadline = self._clock() + MAX_DELAY_S
        if not self._scheduled:
            self._scheduled = True
            self._call_soon = asyncio.get_running_loop().call_soon
            self._call_soon(self._next_turn)

    def flush(self) -> None:
        """Send all queued messages now."""
        batch, self._messages, self._turns_left = self._messages, [], IDLE_TURNS
        if batch:
            self._send(batch)

    def _turn(self) -> None:
        """Runs once per turn of the event loop while messages are queued."""
        if self._turns_left > 0 and self._messages and self._clock() < self._deadline:
            self._turns_left -= 1
            self._call_soon(self._next_turn)
        else:
            self._scheduled = False
            self.flush()
