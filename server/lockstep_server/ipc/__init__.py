"""How the port's messages travel between the gRPC side and a host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .. import messages

if TYPE_CHECKING:
    from collections.abc import Callable


class Transport(Protocol):
    """Carries messages to a host and its news back, both in order. All on the event loop."""

    @property
    def up(self) -> bool:
        """The host can be reached."""

    @property
    def pid(self) -> int:
        """Of the process that is the host's alone; 0: there is none."""

    async def start(self, deliver: Callable[[messages.EngineUpdate], None]) -> messages.EngineInfo:
        """Start the host; what it is. `deliver` is called once for each piece of news; what is in
        the repository has been told when this returns.

        Raises:
            LoadError: there is no repository, or no such device.
        """

    def send(self, message: messages.Message, when: messages.SendPolicy = messages.SendPolicy.TURN) -> None:
        """Hand a message to the host. Never blocks."""

    async def stop(self, within_s: float) -> None:
        """Stop the host; its last news are still delivered."""
