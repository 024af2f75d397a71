"""The host in this process, its engines on threads beside the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from .. import messages
from .coalescing import MessageCoalescer

if TYPE_CHECKING:
    from collections.abc import Callable


class InProcess:
    """Implements `Transport`: calls in, `call_soon_threadsafe` out."""

    def __init__(self, make_engine: Callable[[], messages.Engine]) -> None:
        self._make_engine = make_engine
        self._host: messages.Engine | None = None
        self._coalescer = MessageCoalescer(self._cross)
        self._inbox: deque[messages.EngineUpdate] = deque()
        self._woken = False

    @classmethod
    def of(cls, config: messages.EngineConfig) -> InProcess:
        """An engine with this configuration; its modules are imported when it starts."""

        def make_engine() -> messages.Engine:
            from ..engine.models import LoadedModels

            return LoadedModels(config)

        return cls(make_engine)

    @property
    def pid(self) -> int:
        return 0

    @property
    def up(self) -> bool:
        return self._host is not None

    async def start(self, deliver: Callable[[messages.EngineUpdate], None]) -> messages.EngineInfo:
        loop = asyncio.get_running_loop()

        def drain() -> None:
            self._woken = False  # before the news are taken: what comes now wakes the loop again
            while self._inbox:
                deliver(self._inbox.popleft())

        def report(update: messages.EngineUpdate) -> None:
            self._inbox.append(update)
            if not self._woken and not loop.is_closed():
                self._woken = True
                loop.call_soon_threadsafe(drain)

        self._host = host = self._make_engine()
        host.start(report)
        drain()
        return host.info

    def send(self, message: messages.Message, when: messages.SendPolicy = messages.SendPolicy.TURN) -> None:
        self._coalescer.put(message, when)

    def _cross(self, batch: list[messages.Message]) -> None:
        if self._host is not None:
            self._host.receive(batch)

    async def stop(self, within_s: float) -> None:
        """Away from the event loop, so that the last news are still delivered."""
        self._coalescer.flush()
        if self._host is not None:
            await asyncio.to_thread(self._host.stop, within_s)
        await asyncio.sleep(0)
