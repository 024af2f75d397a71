"""The host in this process, its engines on threads beside the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from .. import port
from .outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable


class InProcess:
    """Implements `Transport`: calls in, `call_soon_threadsafe` out."""

    def __init__(self, make_host: Callable[[], port.Host]) -> None:
        self._make_host = make_host
        self._host: port.Host | None = None
        self._outbox = Outbox(self._cross)
        self._inbox: deque[port.News] = deque()
        self._woken = False

    @property
    def pid(self) -> int:
        return 0

    @property
    def up(self) -> bool:
        return self._host is not None

    async def start(self, deliver: Callable[[port.News], None]) -> port.About:
        loop = asyncio.get_running_loop()

        def drain() -> None:
            self._woken = False  # before the news are taken: what comes now wakes the loop again
            while self._inbox:
                deliver(self._inbox.popleft())

        def report(news: port.News) -> None:
            self._inbox.append(news)
            if not self._woken and not loop.is_closed():
                self._woken = True
                loop.call_soon_threadsafe(drain)

        self._host = host = self._make_host()
        host.start(report)
        drain()
        return host.about

    def send(self, message: port.Message, when: port.When = port.When.TURN) -> None:
        self._outbox.put(message, when)

    def _cross(self, messages: list[port.Message]) -> None:
        if self._host is not None:
            self._host.receive(messages)

    async def stop(self, within_s: float) -> None:
        """Away from the event loop, so that the last news are still delivered."""
        self._outbox.flush()
        if self._host is not None:
            await asyncio.to_thread(self._host.stop, within_s)
        await asyncio.sleep(0)
