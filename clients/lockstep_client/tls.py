"""TLS settings: certificates from files or bytes, converted to gRPC credentials."""

from __future__ import annotations

import ssl
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

    def context(self) -> ssl.SSLContext:
        """The same for HTTPS. The certificate and key must be files."""
        context = ssl.create_default_context()
        if roots := _pem("roots", self.roots):
            context = ssl.create_default_context(cadata=roots.decode("ascii"))
        if self.certificate:
            if isinstance(self.certificate, bytes) or isinstance(self.key, bytes):
                raise ValueError("tls: certificate and key must be files for HTTPS")
            context.load_cert_chain(self.certificate, self.key)
        return context

    @property
    def options(self) -> dict[str, Any]:
        """gRPC channel arguments that override the expected server name."""
        if not self.server_name:
            return {}
        return {
            "grpc.ssl_target_name_override": self.server_name,
            "grpc.default_authority": self.server_name,
        }


def of_options(tls: str, certificate: str = "", key: str = "") -> bool | Tls:
    """The `tls` argument of a client from the options of a command: "", `system` or the file of an authority,
    and the files of the client's certificate and key.

    Raises ValueError if a file cannot be read, or if a certificate is given without TLS.
    """
    if not tls:
        if certificate or key:
            raise ValueError("a client certificate needs TLS: set tls to system or to the authority's file")
        return False
    if tls == "system" and not (certificate or key):
        return True
    return Tls(roots="" if tls == "system" else tls, certificate=certificate, key=key)


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
