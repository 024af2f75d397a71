"""Carries messages between the front end and the engine: within one process, or over a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import messages


class Transport(Protocol):
    """Carries messages to the engine and its updates back, both in order. Used on the event loop only."""

    @property
    def up(self) -> bool:
        """Whether the engine can be reached."""

    @property
    def recovers(self) -> bool:
        """Whether the engine can be reached, or will be soon: no attempt to restart it has failed."""

    @property
    def pid(self) -> int:
        """Process id of the engine process; 0 if there is none."""

    async def start(self, deliver: Callable[[messages.EngineUpdate], None]) -> messages.EngineInfo:
        """Start the engine and return its description.

        `deliver` is called once per update. The updates that list the models of the repository are
        delivered before this returns.

        Raises:
            LoadError: the repository does not exist, or the device is not available.
        """

    def send(self, message: messages.Message, when: messages.SendPolicy = ...) -> None:
        """Queue a message for the engine. Never blocks, and delivers no update before it returns."""

    async def stop(self, within_s: float) -> None:
        """Stop the engine within `within_s` seconds. Its last updates are still delivered."""
