"""Server addresses: HOST:PORT, checked before connecting."""

from __future__ import annotations

import ipaddress
import socket

DEFAULT = "localhost:8001"
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")


def checked(address: str) -> str:
    """Return `address` unchanged. Raises ValueError if it is invalid.

    Accepts HOST:PORT, [IPV6]:PORT, several of them separated by commas, or a gRPC target with its scheme
    (`unix:/run/lockstep.sock`).
    """
    if address.startswith(_SCHEMES):
        return address
    if "," in address:
        for one in address.split(","):
            checked(one)
        return address
    if "://" in address:
        raise ValueError(f"address {address!r} must not be a URL: remove {address.split('://')[0]}://")
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise ValueError(f"address {address!r} has no host or no port: use HOST:PORT, such as {DEFAULT}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"address {address!r} is ambiguous: write IPv6 addresses as [ADDRESS]:PORT")
    if any(c.isspace() or c == "/" for c in host):
        raise ValueError(f"address {address!r} has no valid host: use HOST:PORT, such as {DEFAULT}")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"address {address!r} has no valid port: {port!r} is not an integer from 1 to 65535")
    return address


def is_target(address: str) -> bool:
    """Whether the address is a gRPC target with a scheme."""
    return address.startswith(_SCHEMES)


def split(address: str) -> list[str]:
    """The servers of an address; a gRPC target is one."""
    return [address] if address.startswith(_SCHEMES) else list(dict.fromkeys(address.split(",")))


def is_loopback(address: str) -> bool:
    """Whether the address, or each of several, is on this machine."""
    return all(one.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]") for one in split(address))


def is_name(address: str) -> bool:
    """Whether the address is one host name, which may stand for several servers."""
    host = address.rpartition(":")[0]
    if address.startswith(_SCHEMES) or "," in address or host == "localhost":
        return False
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return True
    return False


def resolved(address: str) -> list[str]:
    """The addresses that a host name stands for now, by IPv4 if it has any. Raises OSError if it has none."""
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    by_4 = sorted({f"{one[4][0]}:{port}" for one in found if one[0] == socket.AF_INET})
    return by_4 or sorted({f"[{one[4][0]}]:{port}" for one in found if one[0] == socket.AF_INET6})
