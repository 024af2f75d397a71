"""What a call shows of its sender: the names in its certificate, and its address without the port."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Sequence

    Metadata = Sequence[tuple[str, str | bytes]] | None
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def certificate_names(auth_context: Any) -> tuple[str, ...]:
    """The names in a verified client certificate: its alternative names, then its common name."""
    if not auth_context:
        return ()
    values = (
        *auth_context.get("x509_subject_alternative_name", ()),
        *auth_context.get("x509_common_name", ()),
    )
    return tuple(dict.fromkeys(value.decode("utf-8", "replace") for value in values))


@lru_cache(4096)
def peer_host(peer: str) -> str:
    """The part of a peer's address that stays the same from connection to connection: no port, and of an IPv6
    address the first 64 bits, which are what a host is given."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind or "unknown"
    return host_of(unquote(rest)) or peer


def host_of(text: str) -> str:
    """The host of `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`; "" if it is not an address."""
    address = text.strip()
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        if not parsed.is_loopback:
            return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)


def networks(text: str) -> tuple[Network, ...]:
    """
    Raises:
        ValueError: an address or network is not valid.
    """
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def is_in(host: str, among: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_network(host)
    except ValueError:
        return False
    return any(one.version == address.version and address.overlaps(one) for one in among)


def values(metadata: Metadata, key: str) -> list[str]:
    """The values of a metadata key, as text."""
    return [value for name, value in metadata or () if name == key and isinstance(value, str)]
