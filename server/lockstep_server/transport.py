"""How the port's messages travel between the gRPC side and a host.

`InProcess`: calls in, `call_soon_threadsafe` out. The event loop sees news in the order in which
the host reported them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from . import port


class InProcess:
    """The host in this process, its engines on threads beside the event loop."""

    def __init__(self, host: port.Host) -> None:
        self._host = host
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, deliver: Callable[[port.News], None]) -> None:
        """Start the host; `deliver` is called on the running event loop, once for each piece of news.

        Raises:
            LoadError: there is no repository.
        """
        loop = self._loop = asyncio.get_running_loop()

        def report(news: port.News) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(deliver, news)

        self._host.start(report)

    def send(self, message: port.Message) -> None:
        """Hand a message to the host. Never blocks."""
        self._host.receive(message)

    async def stop(self, within_s: float) -> None:
        """Stop the host, away from the event loop, so that its last news are still delivered."""
        await asyncio.to_thread(self._host.stop, within_s)
        await asyncio.sleep(0)
