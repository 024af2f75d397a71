"""How a connection is encrypted: certificates as files or bytes, and what gRPC makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from os import PathLike


@dataclass(frozen=True)
class Tls:
    """Which certificates a connection trusts and shows. Each is PEM: the path of a file, or bytes.

        Client("inference.example:443", tls=Tls(roots="ca.pem"), token=token)

    Raises ValueError where a file cannot be read, or one of certificate and key lacks the other.
    """

    roots: str | PathLike[str] | bytes = b""
    """Who may have signed the server's certificate; the system's if not given."""
    certificate: str | PathLike[str] | bytes = b""
    """This client's own, with its chain, for a server that asks for one."""
    key: str | PathLike[str] | bytes = field(default=b"", repr=False)
    """The private key of `certificate`."""
    server_name: str = ""
    """Whom the server's certificate names, where that is not the host of the address."""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            missing = "key" if self.certificate else "certificate"
            raise ValueError(f"tls: {missing} is missing: give certificate and key, or neither")
        self.credentials()

    def credentials(self) -> grpc.ChannelCredentials:
        """As gRPC takes them."""
        return grpc.ssl_channel_credentials(
            root_certificates=_pem("roots", self.roots),
            private_key=_pem("key", self.key),
            certificate_chain=_pem("certificate", self.certificate),
        )

    @property
    def options(self) -> dict[str, Any]:
        """Channel arguments."""
        if not self.server_name:
            return {}
        return {
            "grpc.ssl_target_name_override": self.server_name,
            "grpc.default_authority": self.server_name,
        }


def _pem(field: str, given: str | PathLike[str] | bytes) -> bytes | None:
    if not given:
        return None
    try:
        content = given if isinstance(given, bytes) else Path(given).read_bytes()
    except OSError as error:
        raise ValueError(f"tls: {field} {str(given)!r} cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in content:
        raise ValueError(f"tls: {field} is not PEM: it has no line that begins with -----BEGIN")
    return content
