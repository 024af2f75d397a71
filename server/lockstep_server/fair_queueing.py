"""The order in which waiting work is served: by urgency, and fair among callers.

Urgency: by priority, then by the start tag. Where priorities differ, what has waited longer than `patience_s`
comes first, oldest first, so that no priority starves another. Start tags are those of start-time fair
queueing (Goyal, Vin, Cheng 1996), so that a caller with a thousand requests does not delay a caller with one.
`QueuedWork` is what this order means for a request that arrives: how much is served before it.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MOST_CALLERS = 4096

_PRIORITY = attrgetter("priority")
_AMONG_EQUALS = attrgetter("start_tag", "accepted")


class Waiting(Protocol):
    """Something that waits to be served."""

    accepted: float  # time of its acceptance
    priority: int  # larger is sooner
    start_tag: float  # smaller is sooner


def by_urgency(
    now: float, patience_s: float, among: Iterable[Waiting]
) -> Callable[[Waiting], tuple[float, ...]]:
    """A sort key for what waits, `among` which it is sorted; the most urgent comes first."""
    # Among equals age is no claim: a caller with a long queue, all of it old, would go before all others.
    if len(set(map(_PRIORITY, among))) <= 1:
        return _AMONG_EQUALS

    def urgency(waiting: Waiting) -> tuple[float, ...]:
        if now - waiting.accepted > patience_s:
            return (0, waiting.accepted, 0, 0)
        return (1, -waiting.priority, waiting.start_tag, waiting.accepted)

    return urgency


class QueuedWork:
    """How much work of each caller waits, in any unit."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[int, float]] = {}  # requests and work

    def add(self, caller: str, work: float) -> None:
        requests, before = self._of.get(caller, (0, 0.0))
        self._of[caller] = requests + 1, before + work

    def remove(self, caller: str, work: float) -> None:
        requests, before = self._of.get(caller, (0, 0.0))
        if requests > 1:
            self._of[caller] = requests - 1, before - work
        else:
            self._of.pop(caller, None)

    def change(self, caller: str, requests: int, work: float) -> None:
        """Add, or remove, several requests."""
        before = self._of.get(caller, (0, 0.0))
        if before[0] + requests > 0:
            self._of[caller] = before[0] + requests, before[1] + work
        else:
            self._of.pop(caller, None)

    def requests(self, caller: str) -> int:
        return self._of.get(caller, (0, 0.0))[0]

    def work(self, caller: str) -> float:
        return self._of.get(caller, (0, 0.0))[1]

    def callers(self) -> Iterable[str]:
        """The callers that have work waiting."""
        return self._of

    def ahead(self, caller: str, work: float, apart: float = 0.0) -> float:
        """The work that is served before new `work` of a caller: what it has waiting, except `apart` of it,
        and as much of each other caller's."""
        if not self._of:
            return 0.0
        own = self._of.get(caller, (0, 0.0))[1] - apart
        total = max(own, 0.0)
        for name, (_, other) in self._of.items():
            if name != caller:
                total += min(other, own + work)
        return total


class FairQueueing:
    """Computes start tags. A caller's start tag is the finish tag of what it queued before (start tag +
    cost), or the virtual time if that is later; so a caller that was idle has neither credit nor debt."""

    def __init__(self) -> None:
        self._virtual_time = 0.0  # the largest start tag served
        self._finish_tags: dict[str, float] = {}  # of each caller's latest request

    def start_tag(self, caller: str, cost: float) -> float:
        """The tag of the caller's next request, of which `cost` is the amount of service it needs."""
        if len(self._finish_tags) > _MOST_CALLERS:  # those of the past say nothing any more
            later = self._finish_tags.items()
            self._finish_tags = {name: tag for name, tag in later if tag > self._virtual_time}
        tag = max(self._virtual_time, self._finish_tags.get(caller, 0.0))
        self._finish_tags[caller] = tag + cost
        return tag

    def serve(self, start_tag: float) -> None:
        """Record that the request with this tag is served."""
        self._virtual_time = max(self._virtual_time, start_tag)

    def forget_callers(self) -> None:
        """Free the memory of all callers. Call it when nothing waits."""
        self._finish_tags.clear()
