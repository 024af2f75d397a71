"""What a chaos run records: requests, replies, ends, faults, counters, levels. The validator reads only this.

Times are seconds of one clock. A request is what must end exactly once: a unary call, a stream, each text of
a Many stream, each message of a ModelStreamInfer stream.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

Answer = tuple[Any, ...]
"""Parts of an answer in their order: tokens, predictions, rows. Parts are tuples, strings and numbers."""

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Sent(NamedTuple):
    """A request that was sent."""

    at: float
    key: int
    rpc: str
    expected: Answer | None
    """The answer that the request gets alone; None: it must not be answered."""
    may: frozenset[str] = frozenset()
    """Statuses besides OK that the caller's own doing explains."""
    model: str = ""
    is_call: bool = True
    """Whether it is an RPC, and not a part of one."""
    weight: int = 0
    """Inference requests that the server counts for it."""
    how: str = ""
    """What its caller does to it."""


class Reply(NamedTuple):
    """Parts of an answer that arrived."""

    at: float
    key: int
    parts: Answer


class End(NamedTuple):
    """The name of a gRPC status that a request ended with."""

    at: float
    key: int
    status: str
    details: str = ""


Event = Sent | Reply | End


class Fault(NamedTuple):
    """A fault, from its beginning until the server had recovered; infinity: it has not."""

    begun: float
    ended: float
    name: str
    explains: frozenset[str] = frozenset()
    """Statuses of requests that were under way meanwhile."""
    model: str = ""
    """The model whose requests are affected; empty: all."""


class Level(NamedTuple):
    """Something that must be back where it was."""

    name: str
    before: float
    after: float
    slack: float = 0.0
    """By how much it may have grown."""


@dataclass
class History:
    """A recorder. `events` are in the order in which they happened."""

    events: list[Event] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    counted: tuple[Mapping[Any, float], Mapping[Any, float]] | None = None
    """The samples of /metrics before the first request and after the last."""
    _keys: itertools.count[int] = field(default_factory=itertools.count)

    def sent(self, rpc: str, expected: Answer | None, **more: Any) -> int:
        """Record a request. Returns its key."""
        key = next(self._keys)
        self.events.append(Sent(time.monotonic(), key, rpc, expected, **more))
        return key

    def replied(self, key: int, parts: Answer) -> None:
        self.events.append(Reply(time.monotonic(), key, parts))

    def ended(self, key: int, status: str, details: str = "") -> None:
        self.events.append(End(time.monotonic(), key, status, details))

    def fault(self, begun: float, name: str, *explains: str, model: str = "", recovered: bool = True) -> None:
        """Record a fault that has just ended, or that did not."""
        ended = time.monotonic() if recovered else math.inf
        self.faults.append(Fault(begun, ended, name, frozenset(explains), model))
