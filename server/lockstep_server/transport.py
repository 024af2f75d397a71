"""How the port's messages travel between the gRPC side and a host.

`InProcess`: calls in, `call_soon_threadsafe` out. The event loop sees news in the order in which
the host reported them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from . import port


class InProcess:
    """The host in this process, its engines on threads beside the event loop."""

    def __init__(self, host: port.Host) -> None:
        self._host = host
        self._outbox: list[port.Message] = []
        self._inbox: deque[port.News] = deque()
        self._woken = False

    def start(self, deliver: Callable[[port.News], None]) -> None:
        """Start the host; `deliver` is called on the running event loop, once for each piece of news.

        Raises:
            LoadError: there is no repository.
        """
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

        self._host.start(report)
        drain()  # what is in the repository is known from the start

    def send(self, message: port.Message) -> None:
        """Hand a message to the host. Never blocks.

        Messages of one turn of the event loop cross together: each crossing wakes an engine, and
        costs more than a small request does.
        """
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(message)

    def _flush(self) -> None:
        messages, self._outbox = self._outbox, []
        self._host.receive(messages)

    async def stop(self, within_s: float) -> None:
        """Stop the host, away from the event loop, so that its last news are still delivered."""
        self._flush()
        await asyncio.to_thread(self._host.stop, within_s)
        await asyncio.sleep(0)
