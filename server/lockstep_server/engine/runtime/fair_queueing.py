"""The order in which both engines serve what waits: by urgency, and fair among callers.

Urgency: what has waited longer than `patience_s` comes first, oldest first; the rest by priority, then by
the start tag. Start tags are those of start-time fair queueing (Goyal, Vin, Cheng 1996), so that a caller
with a thousand requests does not delay a caller with one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Waiting(Protocol):
    """Something that waits to be served."""

    accepted: float  # time of its acceptance
    priority: int  # larger is sooner
    start_tag: float  # smaller is sooner


def by_urgency(now: float, patience_s: float) -> Callable[[Waiting], tuple[float, float, float, float]]:
    """A sort key; the most urgent comes first."""

    def urgency(waiting: Waiting) -> tuple[float, float, float, float]:
        if now - waiting.accepted > patience_s:
            return (0, waiting.accepted, 0, 0)
        return (1, -waiting.priority, waiting.start_tag, waiting.accepted)

    return urgency


class FairQueueing:
    """Computes start tags. A caller's start tag is the finish tag of what it queued before (start tag +
    cost), or the virtual time if that is later; so a caller that was idle has neither credit nor debt."""

    def __init__(self) -> None:
        self._virtual_time = 0.0  # the largest start tag served
        self._finish_tags: dict[str, float] = {}  # of each caller's latest request

    def start_tag(self, caller: str, cost: float) -> float:
        """The tag of the caller's next request, of which `cost` is the amount of service it needs."""
        tag = max(self._virtual_time, self._finish_tags.get(caller, 0.0))
        self._finish_tags[caller] = tag + cost
        return tag

    def serve(self, start_tag: float) -> None:
        """Record that the request with this tag is served."""
        self._virtual_time = max(self._virtual_time, start_tag)

    def forget_callers(self) -> None:
        """Free the memory of all callers. Call it when nothing waits."""
        self._finish_tags.clear()
