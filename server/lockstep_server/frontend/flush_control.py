"""How long chunks may be held back so that the event loop keeps up: 0 on a quiet server.

A message costs the loop about the same whatever it holds, so messages are the limit, not tokens.
Each one's age when it has been written tells how far behind the loop is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import messages

if TYPE_CHECKING:
    from collections.abc import Callable

_QUIET_S = 0.0005
"""Messages younger than this when they are written: nobody waits for anybody."""

_STRETCH = 10
"""The interval, in ages: writing then takes a fifth of the loop's time, for ages are half a burst."""

_LEARNING_RATE = 0.02
_STEP = 1.25
"""A change of the interval that is worth telling."""


class FlushController:
    """Tells the engines the flush interval. All on the event loop."""

    def __init__(self, send: Callable[[messages.Message], None], longest_s: float) -> None:
        self._send, self._longest_s = send, longest_s
        self._age_s = 0.0
        self._sent_s = 0.0

    @property
    def interval_s(self) -> float:
        """That is told at present."""
        return self._sent_s

    def wrote(self, age_s: float) -> None:
        """A message was written `age_s` after its engine sent it."""
        self._age_s += _LEARNING_RATE * (min(age_s, self._longest_s) - self._age_s)
        wanted = min(self._age_s * _STRETCH, self._longest_s) if self._age_s > _QUIET_S else 0.0
        told = self._sent_s
        if (wanted == 0) != (told == 0) or not told / _STEP <= wanted <= told * _STEP:
            self._sent_s = wanted
            self._send(messages.SetFlushInterval(wanted))
