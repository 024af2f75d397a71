"""Which of several servers a call goes to: pure, apart from the clock and random numbers.

A call of a sequence goes to the server that has it: the one where this client saw it last, or else the first
by rendezvous hashing. Any other call goes to a server with the fewest calls of this client in flight.
Servers that cannot be reached or stop are left out, and tried again after a growing pause.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

T = TypeVar("T")

_FIRST_S, _LONGEST_S = 0.2, 5.0
"""How long a server is left out after its first failure, and at most: each time twice as long as before."""

_COMPARED = 8
"""Up to so many servers, all are compared for the least load; of more, two random ones."""

_LATE = 3
"""A server that lets so many deadlines pass, one after another, has failed."""

_PLACES = 65_536
"""Sequences whose server is remembered; those that were used least recently are forgotten."""


def rendezvous(key: str, addresses: Iterable[str]) -> list[str]:
    """The addresses in the order in which they are responsible for a key.

    It depends on nothing but the key and the addresses. When an address comes or goes, the others keep their
    order, so only the keys whose first address it is, or was, change theirs. Servers compute the same order
    (docs/scaling.md, Which server has a sequence).
    """

    def weight(address: str) -> bytes:
        return hashlib.sha256(f"{address}\n{key}".encode()).digest()

    return sorted(set(addresses), key=weight)


def least_loaded(loads: Sequence[tuple[int, T]], rng: random.Random) -> T:
    """One of those with the smallest load, at random; of more than eight, the less loaded of two."""
    if len(loads) > _COMPARED:
        loads = rng.sample(loads, 2)
    least = min(load for load, _ in loads)
    return rng.choice([one for load, one in loads if load == least])


@dataclass
class _Server:
    calls: int = 0
    """In flight, of this client."""
    failures: int = 0
    """Since its last answer."""
    late: int = 0
    """Deadlines that passed since its last answer."""
    out_until: float = 0.0


class Router:
    """The servers of a client, their load and health, and where sequences are. Safe for several threads.

    Args:
        addresses: at least one.
    """

    def __init__(
        self,
        addresses: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._clock, self._rng = clock, rng or random.Random()
        self._lock = threading.Lock()
        self._servers = {address: _Server() for address in addresses}
        self.addresses = tuple(self._servers)
        self._gone: dict[str, _Server] = {}
        """Servers that are no longer in the set, or never were, with calls in flight."""
        self._places: OrderedDict[Hashable, str] = OrderedDict()

    @property
    def is_alone(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.addresses) == 1

    @property
    def any_failed(self) -> bool:
        """Whether a server is left out, or is being tried again."""
        return any(server.failures for server in self._servers.values())

    def unused(self, addresses: Iterable[str]) -> set[str]:
        """Those of the addresses that are no servers any more and have no calls in flight."""
        with self._lock:
            return {one for one in addresses if one not in self._servers and one not in self._gone}

    def replace(self, addresses: Iterable[str]) -> None:
        """Change the set of servers. Those that stay keep their state, and calls in flight go on."""
        with self._lock:
            known = self._servers | self._gone
            self._servers = {address: known.get(address) or _Server() for address in addresses}
            self.addresses = tuple(self._servers)
            self._gone = {one: known[one] for one in known.keys() - self._servers.keys() if known[one].calls}

    def choose(self, key: str = "", place: Hashable = None, avoid: Collection[str] = ()) -> str:
        """The server for the next call.

        Args:
            key: of rendezvous hashing; "": by load.
            place: the sequence, if it may have been seen.
            avoid: servers that are taken only if there is no other.
        """
        with self._lock:
            placed = self._places.get(place) if place is not None else None
            if placed is not None and placed not in avoid:
                self._places.move_to_end(place)
                return placed
            address = self._chosen(key, avoid)
            server = self._servers[address]
            if server.failures:  # one call tries it
                self._leave_out(server)
            return address

    def _chosen(self, key: str, avoid: Collection[str]) -> str:
        now = self._clock()
        others = [address for address in self._servers if address not in avoid] or list(self._servers)
        healthy = [address for address in others if self._servers[address].out_until <= now] or others
        if key:
            return rendezvous(key, healthy)[0]
        return least_loaded([(self._servers[address].calls, address) for address in healthy], self._rng)

    def begin(self, address: str) -> None:
        """A call to a server begins."""
        with self._lock:
            (self._servers.get(address) or self._gone.setdefault(address, _Server())).calls += 1

    def end(self, address: str) -> bool:
        """A call to a server has ended. Returns whether its connection is of no more use."""
        with self._lock:
            server = self._servers.get(address) or self._gone.get(address)
            if server is not None:
                server.calls -= 1
                if not server.calls:
                    self._gone.pop(address, None)
            return address not in self._servers and address not in self._gone

    def answered(self, address: str) -> None:
        """A server works."""
        server = self._servers.get(address)
        if server is not None and (server.failures or server.late):
            with self._lock:
                server.failures = server.late = 0
                server.out_until = 0.0

    def failed(self, address: str) -> None:
        """A server cannot be reached, or stops."""
        with self._lock:
            if (server := self._servers.get(address)) is not None and server.out_until <= self._clock():
                server.failures += 1
                self._leave_out(server)

    def late(self, address: str) -> None:
        """A server let the deadline of a call pass."""
        server = self._servers.get(address)
        if server is not None:
            server.late += 1
            if server.late >= _LATE:
                self.failed(address)

    def _leave_out(self, server: _Server) -> None:
        pause_s = min(_FIRST_S * 2.0 ** min(server.failures - 1, 10), _LONGEST_S)
        server.out_until = self._clock() + pause_s * self._rng.uniform(0.8, 1.2)

    def place(self, sequence: Hashable, address: str) -> None:
        """Remember where a sequence is."""
        with self._lock:
            self._places[sequence] = address
            self._places.move_to_end(sequence)
            if len(self._places) > _PLACES:
                self._places.popitem(last=False)

    def forget(self, sequence: Hashable) -> None:
        """A sequence has ended, or is lost."""
        with self._lock:
            self._places.pop(sequence, None)
