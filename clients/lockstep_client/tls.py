"""TLS settings: certificates from files or bytes, converted to gRPC credentials."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from os import PathLike


@dataclass(frozen=True)
class Tls:
    """The certificates that a connection trusts and presents. Each is PEM, as a file path or as bytes.

        Client("inference.example:443", tls=Tls(roots="ca.pem"), token=token)

    Raises ValueError if a file cannot be read, or if only one of `certificate` and `key` is given.
    """

    roots: str | PathLike[str] | bytes = b""
    """Certificate authorities that are trusted to sign the server's certificate; default: the system's."""
    certificate: str | PathLike[str] | bytes = b""
    """The client's certificate chain, for servers that require one (mutual TLS)."""
    key: str | PathLike[str] | bytes = field(default=b"", repr=False)
    """The private key of `certificate`."""
    server_name: str = ""
    """The name in the server's certificate, if it differs from the host in the address."""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            missing = "key" if self.certificate else "certificate"
            raise ValueError(f"tls: {missing} is missing: certificate and key must be given together")
        self.credentials()

    def credentials(self) -> grpc.ChannelCredentials:
        """The gRPC channel credentials."""
        return grpc.ssl_channel_credentials(
            root_certificates=_pem("roots", self.roots),
            private_key=_pem("key", self.key),
            certificate_chain=_pem("certificate", self.certificate),
        )

    @property
    def options(self) -> dict[str, Any]:
        """gRPC channel arguments that override the expected server name."""
        if not self.server_name:
            return {}
        return {
            "grpc.ssl_target_name_override": self.server_name,
            "grpc.default_authority": self.server_name,
        }


def _pem(field: str, source: str | PathLike[str] | bytes) -> bytes | None:
    if not source:
        return None
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ValueError(f"tls: {field} {str(source)!r} cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in content:
        raise ValueError(f"tls: {field} is not PEM: no line starts with -----BEGIN")
    return content
