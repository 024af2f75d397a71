"""Runs the engine in the server process, on threads beside the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from .coalescing import MessageCoalescer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import messages


log = logging.getLogger(__name__)


class InProcess:
    """Implements `Transport`: direct calls to the engine, `call_soon_threadsafe` for its updates."""

    def __init__(self, make_engine: Callable[[], messages.Engine]) -> None:
        self._make_engine = make_engine
        self.engine: messages.Engine | None = None  # since `start`
        self._coalescer = MessageCoalescer(self._send_batch)
        self.send = self._coalescer.put
        self._inbox: deque[messages.EngineUpdate] = deque()
        self._wakeup_scheduled = False

    @classmethod
    def of(cls, config: messages.EngineConfig) -> InProcess:
        """A transport to an engine with this configuration. `start` imports the engine's modules."""

        def make_engine() -> messages.Engine:
            from ..engine.models import LoadedModels

            return LoadedModels(config)

        return cls(make_engine)

    @property
    def pid(self) -> int:
        return 0

    @property
    def up(self) -> bool:
        return self.engine is not None

    @property
    def recovers(self) -> bool:
        return True

    async def start(self, deliver: Callable[[messages.EngineUpdate], None]) -> messages.EngineInfo:
        loop = asyncio.get_running_loop()

        def drain() -> None:
            # First, so that an update that arrives while this runs schedules another call.
            self._wakeup_scheduled = False
            while self._inbox:
                update = self._inbox.popleft()
                try:
                    deliver(update)
                except Exception:  # concerns this update only
                    log.exception("processing a %s of the engine failed", type(update).__name__)

        def report(update: messages.EngineUpdate) -> None:
            self._inbox.append(update)
            if not self._wakeup_scheduled and not loop.is_closed():
                self._wakeup_scheduled = True
                loop.call_soon_threadsafe(drain)

        self.engine = engine = self._make_engine()
        engine.start(report)
        drain()
        return engine.info

    def _send_batch(self, batch: list[messages.Message]) -> None:
        if self.engine is not None:
            self.engine.receive(batch)

    async def stop(self, within_s: float) -> None:
        # In a thread, so that the event loop can still deliver the last updates.
        self._coalescer.flush()
        if self.engine is not None:
            await asyncio.to_thread(self.engine.stop, within_s)
        await asyncio.sleep(0)
