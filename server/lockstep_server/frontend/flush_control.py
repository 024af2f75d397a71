"""Sets the flush interval: how long engines may hold chunks back so that the event loop keeps up.

age of each written message -> moving average -> flush interval -> engines. A message costs the loop
about the same however many tokens it holds, so the number of messages is the limit. The interval is
0 on a lightly loaded server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import messages

if TYPE_CHECKING:
    from collections.abc import Callable

_YOUNG_S = 0.0005
"""If messages are younger than this when they are written, the loop keeps up and the interval is 0."""

_INTERVAL_PER_AGE = 10
"""Interval / average age. The average age is half a burst, so writing takes a fifth of the loop's time."""

_LEARNING_RATE = 0.02
_MIN_CHANGE = 1.25
"""Ratio of the new interval to the last one sent, below which nothing is sent."""


class FlushController:
    """Sends the engines a new flush interval when it changes. Event loop only."""

    def __init__(self, send: Callable[[messages.Message], None], max_s: float) -> None:
        self._send, self._max_s = send, max_s
        self._age_s = 0.0
        self._sent_s = 0.0

    @property
    def interval_s(self) -> float:
        """The interval last sent to the engines."""
        return self._sent_s

    def record_written(self, age_s: float) -> None:
        """Record that a message was written `age_s` seconds after its engine sent it."""
        self._age_s += _LEARNING_RATE * (min(age_s, self._max_s) - self._age_s)
        target_s = min(self._age_s * _INTERVAL_PER_AGE, self._max_s) if self._age_s > _YOUNG_S else 0.0
        sent = self._sent_s
        if (target_s == 0) != (sent == 0) or not sent / _MIN_CHANGE <= target_s <= sent * _MIN_CHANGE:
            self._sent_s = target_s
            self._send(messages.SetFlushInterval(target_s))
