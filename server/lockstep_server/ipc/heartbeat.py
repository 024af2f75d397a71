"""Whether the process at the other end is alive: it answers a heartbeat, or reads, or writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Connection

_TICK_S = 1.0
_HUNG_TICKS, _START_TICKS = 5, 120
"""Heartbeats without any sign of life after which a process is hung: while it serves, while it starts."""


class Heartbeat:
    """Asks one process for a sign of life every second, from `start` to `stop`.

    Ticks are counted and not seconds, so that a pause of this process calls no other hung.

    Args:
        serves: whether the process has started. Until then it is asked nothing, and has more time.
        ask: sends it a heartbeat.
        hung: called once, with the seconds without a sign of life, if there were too many.
    """

    def __init__(
        self, serves: Callable[[], bool], ask: Callable[[], None], hung: Callable[[float], None]
    ) -> None:
        self._serves, self._ask, self._hung = serves, ask, hung
        self._silent_ticks = 0
        self._task: asyncio.Task[None] | None = None

    def start(self, connection: Connection) -> None:
        self._silent_ticks = 0
        self._task = asyncio.ensure_future(self._run(connection))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, connection: Connection) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            if connection.heard:
                self._silent_ticks = 0
            elif connection.drained:  # it has read something, which may not have been a heartbeat yet
                self._silent_ticks = min(self._silent_ticks, 1)
            connection.heard = connection.drained = False
            serves = self._serves()
            if self._silent_ticks >= (_HUNG_TICKS if serves else _START_TICKS):
                self._hung(self._silent_ticks * _TICK_S)
                return
            if serves and not self._silent_ticks:
                self._ask()
            self._silent_ticks += 1
