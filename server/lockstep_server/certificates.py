"""TLS certificates of the server, read again when their files change.

files -> bytes -> checked as a pair -> `Certificates`. Files that cannot be read, are incomplete or do not
belong together are logged, and the certificates before them stay.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

_SETTLED_NS = 2_000_000_000
"""A file may change twice within one tick of its time stamp, so a younger one is read again."""


@dataclass(frozen=True)
class Certificates:
    """A valid set: `chain`, `key` and `client_ca` are PEM, and `context` serves them."""

    chain: bytes
    key: bytes
    client_ca: bytes  # empty: clients need no certificate
    context: ssl.SSLContext

    @property
    def content(self) -> tuple[bytes, bytes, bytes]:
        return self.chain, self.key, self.client_ca


class CertificateFiles:
    """The certificates in files. Thread-safe.

    Args:
        chain: path of the server's certificate, with the certificates between it and its authority.
        key: path of its private key.
        client_ca: path of the authorities that sign clients' certificates; "": clients need none.

    Raises:
        LoadError: the files are not a valid set.
    """

    def __init__(self, chain: str, key: str, client_ca: str = "") -> None:
        self._paths = tuple(Path(path) for path in (chain, key, client_ca) if path)
        self._lock = threading.Lock()
        try:
            self._seen = self._signature()
            self._current = self._read()
        except ValueError as error:
            raise LoadError(str(error)) from None
        self._failed = ""

    def current(self) -> Certificates:
        """The last valid certificates. Looks at the files, and reads them if they have changed."""
        with self._lock:
            try:
                signature = self._signature()
                if signature != self._seen:
                    found = self._read()
                    if found.content != self._current.content:
                        log.info("TLS certificates read again", extra={"fields": {"path": self._paths[0]}})
                        self._current = found
                    self._seen, self._failed = signature, ""
            except ValueError as error:
                if str(error) != self._failed:
                    log.error("TLS certificates stay as they were: %s", error)
                self._failed = str(error)
            return self._current

    def _signature(self) -> tuple[object, ...]:
        """What changes if a file does. Equal to no other one while a file is young."""
        try:
            stats = [os.stat(path) for path in self._paths]
        except OSError as error:
            raise ValueError(f"{error.filename}: cannot be read: {error.strerror}") from None
        young = time.time_ns() - max(one.st_mtime_ns for one in stats) < _SETTLED_NS
        marks = ((one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) for one in stats)
        return (*marks, object() if young else None)

    def _read(self) -> Certificates:
        contents = self._contents()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        chain, key = self._paths[:2]
        try:
            context.load_cert_chain(chain, key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ValueError(
                f"{chain} and {key}: not a certificate and its private key ({_reason(error)}); use PEM files"
                " that belong together, the key without a password"
            ) from None
        if len(contents) > 2:
            try:
                context.load_verify_locations(cadata=contents[2].decode("ascii"))
            except (ssl.SSLError, ValueError) as error:
                raise ValueError(
                    f"{self._paths[2]}: not certificates of authorities in PEM ({_reason(error)})"
                ) from None
            context.verify_mode = ssl.CERT_OPTIONAL
        if self._contents() != contents:
            raise ValueError(f"{chain}: the files change while they are read")
        return Certificates(contents[0], contents[1], contents[2] if len(contents) > 2 else b"", context)

    def _contents(self) -> Sequence[bytes]:
        try:
            return [path.read_bytes() for path in self._paths]
        except OSError as error:
            raise ValueError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
