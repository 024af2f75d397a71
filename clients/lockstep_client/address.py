"""Server addresses: HOST:PORT, checked before connecting."""

from __future__ import annotations

DEFAULT = "localhost:8001"
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")


def checked(address: str) -> str:
    """Return `address` unchanged. Raises ValueError if it is invalid.

    Accepts HOST:PORT, [IPV6]:PORT, or a gRPC target with its scheme (`unix:/run/lockstep.sock`).
    """
    if address.startswith(_SCHEMES):
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


def is_loopback(address: str) -> bool:
    """Whether the address is on this machine."""
    return address.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]")
