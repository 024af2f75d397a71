"""The loads and unloads that callers asked for."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from .. import messages
from ..errors import not_found, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable


class Loads:
    """Loads and unloads that have not ended, and what those that have ended are to mean after a restart of
    the engine. Event loop only.

    `keys`: numbers of messages to the engine that it answers.
    `unloaded`, `loaded`: names of the models that were last unloaded, or loaded, by a request.
    """

    def __init__(self, first_key: int = 1) -> None:
        self.keys = itertools.count(first_key)
        self._waiting: dict[int, asyncio.Future[messages.LoadDone]] = {}
        self.unloaded: set[str] = set()
        self.loaded: set[str] = set()

    async def change(
        self,
        kind: type[messages.Load | messages.Unload],
        name: str,
        send: Callable[[messages.Message], None],
    ) -> None:
        """Load or unload a model, and wait for the end.

        Raises:
            ServingError: NOT_FOUND, with the engine's reason for the failure; UNAVAILABLE, the engine stops
                or restarts.
        """
        key = next(self.keys)
        done = self._waiting[key] = asyncio.get_running_loop().create_future()
        send(kind(name, key))
        end = await done
        if end.reason:
            raise unavailable(end.reason) if end.temporary else not_found(name, end.reason)

    def done(self, update: messages.LoadDone) -> None:
        """A load or unload has ended."""
        if update.verb == "load" and not update.temporary:
            self.unloaded.discard(update.model)  # even if it failed: its other versions may be served
        if not update.reason:
            became, was = (
                (self.loaded, self.unloaded) if update.verb == "load" else (self.unloaded, self.loaded)
            )
            became.add(update.model)
            was.discard(update.model)
        future = self._waiting.pop(update.key, None)
        if future is not None and not future.done():
            future.set_result(update)

    def engine_lost(self) -> None:
        """The engine process ended, and will not answer."""
        for key, future in self._waiting.items():
            if not future.done():
                reason = "the engine process ended; retry"
                future.set_result(messages.LoadDone("", "", reason, key=key, temporary=True))
        self._waiting.clear()
