"""Why there is no gRPC connection to an address, and what listens there.

address → its addresses → TCP → TLS, or an HTTP request → a sentence for the command's error message

gRPC reports the failure of one of the addresses that a name has; this looks at all of them.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from lockstep_client import address as addresses

_TIMEOUT_S = 2.0
_GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_MUCH = 1 << 16


class Endpoint(NamedTuple):
    """Where a client connects to, and how: the arguments of the functions below."""

    address: str
    tls: str = ""
    """"", "system", or the file of the authorities that the client trusts."""
    certificate: str = ""
    """The file of the client's certificate; "" if it has none."""


def why_unreachable(address: str, tls: str = "", certificate: str = "") -> str:
    """Why no gRPC call reaches `address`, and what to do; "" if that cannot be found out.

    Args:
        tls: "", "system", or the file of the authorities that the client trusts.
        certificate: the file of the client's certificate; "" if it has none.
    """
    if len(several := addresses.split(address)) > 1:
        found = {one: why for one in several if (why := why_unreachable(one, tls, certificate))}
        return "; ".join(f"{one}: {why}" for one, why in found.items())
    try:
        reach = _reach(address)
    except OSError as error:
        return f"the host {address.rpartition(':')[0]!r} is not known ({error.strerror}); correct --address"
    if reach is None:
        return ""
    if reach.speaks_tls():
        return _with_tls(reach, tls, certificate)
    if tls:
        return "the server does not use TLS; leave --tls out"
    return _without_tls(reach)


def listener(address: str) -> str:
    """What listens at an address of this machine that is in use."""
    from lockstep_client.client import Client
    from lockstep_client.errors import LockstepError

    try:
        with Client(address, timeout_s=_TIMEOUT_S) as client:
            about = client.server()
        return f"a server: {'Lockstep' if about.name == 'lockstep' else about.name} {about.version}"
    except LockstepError:
        pass
    reach = None
    with suppress(OSError):
        reach = _reach(address)
    if reach is None:
        return "a program that accepts no connections"
    if reach.speaks_tls():
        return "a server with TLS"
    answer = reach.answer(_GET)
    if b"lockstep_" in answer:
        return "the HTTP port of a Lockstep server"
    return "an HTTP server" if answer.startswith(b"HTTP/1") else "another program"


def expiry(address: str, tls: str, certificate: str = "") -> datetime | None:  # noqa: ARG001 - an Endpoint
    """When the server's certificate expires; None if it is not trusted or has no end."""
    with suppress(OSError, ValueError):
        if (reach := _reach(address)) is not None:
            ends = reach.certificate("" if tls == "system" else tls).get("notAfter")
            return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(ends)), UTC)
    return None


def _reach(address: str) -> _Reach | None:
    """The first of the host's addresses that accepts connections.

    Raises:
        OSError: the host is not known.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():  # a gRPC target such as unix:/run/lockstep.sock
        return None
    host = host.strip("[]")
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    connected = [one[4] for one in found if _accepts(one)]
    return _Reach(str(connected[0][0]), int(port), host) if connected else None


def _accepts(found: tuple[Any, ...]) -> bool:
    family, kind, protocol, _, place = found
    try:
        with socket.socket(family, kind, protocol) as one:
            one.settimeout(_TIMEOUT_S)
            one.connect(place)
    except OSError:
        return False
    return True


class _Reach:
    """An address that accepts connections."""

    def __init__(self, ip: str, port: int, host: str) -> None:
        self._place, self._host = (ip, port), host

    def speaks_tls(self) -> bool:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            self._handshake(context)
        except ssl.SSLError as error:  # an alert of the other side is TLS too: it wants a certificate
            return "ALERT" in str(error).upper()
        except OSError:
            return False
        return True

    def distrust(self, authorities: str) -> str:
        """Why the server's certificate is not trusted; "" if it is."""
        context = ssl.create_default_context(cafile=authorities or None)
        try:
            self._handshake(context)
        except ssl.SSLCertVerificationError as error:
            return error.verify_message or str(error)
        except OSError:  # another failure than that of the certificate
            return ""
        return ""

    def certificate(self, authorities: str) -> dict[str, Any]:
        """The server's certificate.

        Raises:
            OSError: it is not trusted, or there is no TLS.
        """
        return self._handshake(ssl.create_default_context(cafile=authorities or None))

    def answer(self, request: bytes) -> bytes:
        """The beginning of what it answers to these bytes."""
        with self._connect() as connection, suppress(OSError):
            connection.sendall(request)
            answer = b""
            while len(answer) < _MUCH and (more := connection.recv(_MUCH)):
                answer += more
            return answer
        return b""

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._place, _TIMEOUT_S)

    def _handshake(self, context: ssl.SSLContext) -> dict[str, Any]:
        context.set_alpn_protocols(["h2"])
        with (
            self._connect() as connection,
            context.wrap_socket(connection, server_hostname=self._host) as secured,
        ):
            return dict(secured.getpeercert() or {})


def _with_tls(reach: _Reach, tls: str, certificate: str) -> str:
    if not tls:
        return "the server uses TLS; set --tls system, or --tls CA.pem with the authority of its certificate"
    if reason := reach.distrust("" if tls == "system" else tls):
        return f"the server's certificate is not trusted: {reason}; set --tls to the file of its authority"
    if not certificate:
        return "the server ended the connection; if it requires a certificate, set --tls-cert and --tls-key"
    return f"the server did not accept the certificate of {Path(certificate).name}; ask its operator"


def _without_tls(reach: _Reach) -> str:
    answer = reach.answer(_GET)
    if not answer.startswith(b"HTTP/1"):
        return "what listens there does not speak gRPC; correct --address"
    if b"lockstep_" in answer:
        return "this is the metrics port of a Lockstep server; use its gRPC port, 8001 by default"
    return "an HTTP server listens there, which does not speak gRPC; correct --address"
