"""The other servers of a fleet, by the addresses that `--peers` names.

names → addresses (DNS, again every few seconds) → `PeerLink` → the server at each → this server left out
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from ..errors import LoadError
from ..settings import host_and_port, host_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .. import messages
    from ..model.spec import ModelSpec
    from .moves import Hold, HoldState

log = logging.getLogger(__name__)

_REFRESH_S = 2.0
"""How long the addresses and incarnations of peers are taken as known."""

_MOST_PEERS = 256
_LONGEST_KEY = 256


class PeerError(Exception):
    """A peer has not answered.

    Args:
        absent: nobody listens at its address, so it holds no sequence.
    """

    def __init__(self, why: str, *, absent: bool = False) -> None:
        super().__init__(why)
        self.absent = absent


class PullResult(Enum):
    """What a peer says when it is asked to move a sequence here."""

    ABSENT = "absent"  # it is not there
    MOVED = "moved"  # it is here now
    BUSY = "busy"  # it is there, and cannot be moved now: ask again
    STAYS = "stays"  # it is there, and stays
    LEFT = "left"  # it was there, and has moved on


@dataclass(frozen=True)
class HelloAnswer:
    incarnation: str
    server: str  # its name


@dataclass(frozen=True)
class OfferAnswer:
    incarnation: str
    number: int = 0  # of the hold; 0: refused
    refusal: str = ""


@dataclass(frozen=True)
class ConfirmAnswer:
    incarnation: str
    state: HoldState
    refusal: str = ""


@dataclass(frozen=True)
class PullAnswer:
    incarnation: str
    result: PullResult
    why: str = ""


class PeerLink(Protocol):
    """Calls of one peer. Each raises `PeerError`. An answer of another incarnation than was asked means
    nothing else."""

    async def hello(self) -> HelloAnswer:
        """Who the peer is."""

    async def offer(
        self,
        incarnation: str,
        spec: ModelSpec,
        sequence: messages.SequenceId,
        state: messages.SequenceState,
    ) -> OfferAnswer: ...

    async def confirm(self, hold: Hold) -> ConfirmAnswer: ...

    async def pull(
        self, incarnation: str, to: str, model: str, sequence: messages.SequenceId
    ) -> PullAnswer: ...

    async def close(self) -> None: ...


@dataclass
class Peer:
    """A server at an address, or one of its front ends, which the connection leads to. `incarnation` and
    `server` are empty until they are known."""

    address: str
    host: str  # as it was named
    link: PeerLink
    name: str  # by which it is ranked
    incarnation: str = ""
    server: str = ""
    named: bool = True  # `--peers` leads to it still
    absent: bool = False  # nobody listened there, lately


class Peers:
    """Event loop only.

    Args:
        names: `HOST:PORT`, separated by commas. A host may have several addresses, and change them.
        own: the name of this server, which all of its front ends share.
        connect: a link to an address, of a host as it was named.

    Raises:
        LoadError: a name is not valid.
    """

    def __init__(
        self,
        names: str,
        own: str,
        connect: Callable[[str, str], PeerLink],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = [_host_and_port(name) for name in names.split(",") if name.strip()]
        self.own, self._connect, self._clock = own, connect, clock
        self._peers: dict[str, Peer] = {}
        self._refreshed = float("-inf")
        self._refreshing = asyncio.Lock()

    async def current(self, *, again: bool = False) -> list[Peer]:
        """The peers that are there, without this server. `again`: ask them all who they are now."""
        async with self._refreshing:
            if again or self._clock() - self._refreshed >= _REFRESH_S:
                await self._refresh(again=again)
                self._refreshed = self._clock()
        return [one for one in self._peers.values() if one.incarnation and one.server != self.own]

    def unreachable(self) -> list[Peer]:
        """The addresses at which somebody may be, who does not answer."""
        silent = [one for one in self._peers.values() if not one.incarnation and not one.absent]
        return [one for one in silent if one.server != self.own]

    async def _refresh(self, *, again: bool) -> None:
        found = await asyncio.gather(*(_addresses(host, port) for host, port in self._names))
        addresses: dict[str, tuple[str, str]] = {}
        for (host, port), of_name in zip(self._names, found, strict=True):
            as_named = len(self._names) > 1 and len(of_name or ()) == 1  # as clients do
            for address in of_name or ():
                addresses[address] = host, host_and_port(host, port) if as_named else address
        for address, (host, name) in list(addresses.items())[:_MOST_PEERS]:
            if address not in self._peers:
                self._peers[address] = Peer(address, host, self._connect(address, host), name)
        for peer in self._peers.values():
            # DNS forgets a server that stops before it has ended.
            peer.named = peer.address in addresses or None in found
        asked = [one for one in self._peers.values() if again or not one.incarnation]
        await asyncio.gather(*map(self._greet, asked))
        for peer in [one for one in self._peers.values() if one.absent and not one.named]:
            del self._peers[peer.address]
            await peer.link.close()

    async def _greet(self, peer: Peer) -> None:
        if peer.absent:  # a link waits before it connects again
            await peer.link.close()
            peer.link = self._connect(peer.address, peer.host)
        try:
            answer = await peer.link.hello()
            peer.incarnation, peer.server, peer.absent = answer.incarnation, answer.server, False
        except PeerError as error:
            if error.absent != peer.absent or not error.absent:
                log.info("peer %s does not answer: %s", peer.address, error)
            peer.absent = error.absent

    def failed(self, peer: Peer, error: PeerError) -> None:
        """A call of the peer has failed: it may have ended, or been restarted."""
        peer.incarnation, peer.absent = "", error.absent
        self._refreshed = float("-inf")

    async def close(self) -> None:
        for peer in self._peers.values():
            await peer.link.close()


def ranked(peers: Iterable[Peer], sequence: messages.SequenceId) -> list[Peer]:
    """Peers in the order in which they are asked to take a sequence: that in which clients look for it
    (rendezvous hashing; docs/scaling.md, Which server has a sequence)."""
    key = _key_of(sequence[1] if isinstance(sequence, tuple) else sequence)

    def weight(peer: Peer) -> bytes:
        return hashlib.sha256(f"{peer.name}\n{key}".encode()).digest()

    return sorted(peers, key=weight)


def _key_of(sequence_id: int | str) -> str:
    """An id as the metadata `lockstep-sequence-id` has it."""
    text = str(sequence_id)
    if text.isascii() and text.isprintable() and text == text.strip() and len(text) <= _LONGEST_KEY:
        return text
    return hashlib.sha256(text.encode()).hexdigest()


def _host_and_port(name: str) -> tuple[str, int]:
    host, _, port = name.strip().rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise LoadError(f"--peers: {name.strip()!r} is not HOST:PORT; name the gRPC port of each server")
    return host_name(host), int(port)


async def _addresses(host: str, port: int) -> list[str] | None:
    """The addresses of a host with the port; None if they cannot be looked up now."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        log.warning("peer %s cannot be looked up: %s", host, error.strerror)
        return None
    return list(dict.fromkeys(host_and_port(str(address[0]), port) for *_, address in found))
