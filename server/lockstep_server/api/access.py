"""The parts of the server that decide who may connect and call, from the settings."""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING, Any

import grpc

from ..certificates import CertificateFiles
from ..errors import LoadError
from ..frontend.audit import Audit
from ..frontend.callers import AuthFile
from .auth import Guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..certificates import Certificates
    from ..metrics.families import Metrics
    from ..settings import Settings

log = logging.getLogger(__name__)


def certificate_files(settings: Settings) -> CertificateFiles | None:
    """The server's certificates; None: it has no TLS.

    Raises:
        LoadError: one of the files is missing or not valid.
    """
    if not settings.tls_cert and not settings.tls_key:
        if settings.tls_client_ca:
            raise LoadError("--tls-client-ca needs --tls-cert and --tls-key; set them too")
        return None
    if not (settings.tls_cert and settings.tls_key):
        given, missing = ("cert", "key") if settings.tls_cert else ("key", "cert")
        raise LoadError(f"--tls-{given} needs --tls-{missing}; set it too")
    return CertificateFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def guard(settings: Settings, metrics: Metrics) -> Guard:
    """
    Raises:
        LoadError: the auth file is not valid, or tokens would cross a network unencrypted.
    """
    if settings.auth_file:
        ports = [("--host", settings.grpc_host, bool(settings.tls_cert))]
        if settings.metrics:
            ports.append(("--metrics-host", settings.http_host, settings.has_metrics_tls))
        for flag, host, is_encrypted in ports:
            if not (is_encrypted or is_loopback(host)):
                raise LoadError(
                    f"{flag} {host}: tokens would cross the network unencrypted; set --tls-cert and"
                    f" --tls-key, or {flag} 127.0.0.1"
                )
    try:
        return Guard(
            Audit(metrics),
            AuthFile(settings.auth_file) if settings.auth_file else None,
            certificates=bool(settings.tls_client_ca),
            proxies=settings.trusted_proxies,
            header=settings.caller_header,
        )
    except ValueError as error:
        raise LoadError(f"--trusted-proxies: {error}; use addresses or networks such as 10.0.0.0/8") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """gRPC credentials of one port. New connections get the certificates that are in the files then."""
    given = files.current()

    def fetch() -> Any:
        """The certificates, if they have changed since the last connection. Called on a thread of gRPC."""
        nonlocal given
        try:
            found = files.current()
        except Exception:
            log.exception("reading the TLS certificates failed")
            return None
        if found is given:
            return None
        given = found
        return _configuration(found)

    make: Callable[..., grpc.ServerCredentials] = grpc.dynamic_ssl_server_credentials
    return make(_configuration(given), fetch, require_client_authentication=bool(given.client_ca))


def _configuration(found: Certificates) -> Any:
    return grpc.ssl_server_certificate_configuration([(found.key, found.chain)], found.client_ca or None)
