"""The requests that have not ended, by key, with the times at which each must be checked."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .sequence import GenerationSequence, StepRequest

    Request = GenerationSequence | StepRequest


class OpenRequests:
    """A table of requests with timers. A timer of a request that has ended never fires."""

    def __init__(self) -> None:
        self._requests: dict[int, Request] = {}
        self._timers: list[tuple[float, int, Request]] = []  # a heap
        self._tie_break = itertools.count()

    def add(self, request: Request, dues: Iterable[float]) -> None:
        """Add a request with one timer for each time in `dues`."""
        self._requests[request.key] = request
        for due in dues:
            heapq.heappush(self._timers, (due, next(self._tie_break), request))
        if len(self._timers) > 4 * len(self._requests) + 64:  # most belong to ended requests
            self._timers = [entry for entry in self._timers if self._is_open(entry[2])]
            heapq.heapify(self._timers)

    def get(self, key: int) -> Request | None:
        return self._requests.get(key)

    def pop(self, key: int) -> Request | None:
        """Remove a request that ends. Returns None if there is none with this key."""
        return self._requests.pop(key, None)

    def keys(self) -> list[int]:
        return list(self._requests)

    def due(self) -> float:
        """When the next timer fires; infinity if there is none."""
        return self._timers[0][0] if self._timers else math.inf

    def pop_due(self, now: float) -> Iterator[Request]:
        """Remove the timers that have fired, and yield the request of each that is still open."""
        while self.due() <= now:
            _, _, request = heapq.heappop(self._timers)
            if self._is_open(request):
                yield request

    def _is_open(self, request: Request) -> bool:
        return self._requests.get(request.key) is request
