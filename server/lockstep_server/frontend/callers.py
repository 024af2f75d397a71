"""Who calls, and what each caller may do.

auth file -> `AuthFile` -> `CallerTable` -> a token's digest or a certificate's names -> `Caller`. Without an
auth file, a caller is the address that it calls from, and may do everything.

The name of a caller is the unit of fairness: in admission control, tokenization, queues and slots.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import os
import re
import secrets
import time
import tomllib
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ..errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

log = logging.getLogger(__name__)

PERMISSIONS = frozenset(("health", "read", "infer", "admin", "priority", "metrics"))

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_NEVER = float("inf")


@dataclass(frozen=True)
class Caller:
    """One caller. The defaults are those of a server without an auth file: everything is allowed."""

    name: str
    permissions: frozenset[str] = PERMISSIONS
    models: tuple[str, ...] = ()  # patterns of model names; empty: all models
    slots: int | None = None  # the most in each model; None: as many as it has
    bytes: int = 0  # most bytes of requests in flight; 0: no limit of its own
    requests_per_second: float = 0.0  # 0: no limit
    tokens_per_second: float = 0.0  # 0: no limit
    expires: float = _NEVER  # seconds since the epoch
    forwards: bool = False  # a proxy, which names the callers behind it
    account: str = ""  # its name in the auth file, or that of the proxy before it; "": it is not in the file

    @property
    def authenticated(self) -> bool:
        return bool(self.account)

    def may_use(self, model: str) -> bool:
        """Whether this caller may use a model; the step-wise form of a model counts as the model."""
        if not self.models:
            return True
        names = {model, model.removesuffix(".step")}
        return any(fnmatchcase(name, pattern) for name in names for pattern in self.models)


UNKNOWN = Caller("")
current: ContextVar[Caller] = ContextVar("caller", default=UNKNOWN)
"""The caller of the RPC whose task this is."""


@dataclass(frozen=True)
class Credential:
    """What a call showed: the digest of its token as in `CallerTable`, or the names in its certificate."""

    token: bytes = b""
    certificate: tuple[str, ...] = ()


class CallerTable:
    """The callers of an auth file by their credentials.

    Tokens are found by an HMAC of their digest with a key that only this process knows, so the time of a
    look-up says nothing about the tokens in the file.
    """

    def __init__(
        self, callers: Iterable[tuple[Caller, Mapping[str, float], Iterable[str]]], anonymous: frozenset[str]
    ) -> None:
        """
        Args:
            callers: each with its tokens (SHA-256 in hexadecimal -> end of its validity) and the names of
                its certificates.
            anonymous: permissions of calls without credentials.
        """
        self.anonymous = Caller("", anonymous)
        self._by_token: dict[bytes, tuple[bytes, Caller, float]] = {}
        self._by_certificate: dict[str, Caller] = {}
        for caller, tokens, certificates in callers:
            for digest, expires in tokens.items():
                raw = bytes.fromhex(digest)
                self._by_token[_blinded(raw)] = raw, caller, min(expires, caller.expires)
            for name in certificates:
                self._by_certificate[name] = caller

    def find(self, shown: Credential) -> tuple[Caller, float] | None:
        """The caller of a credential and the end of its validity, in seconds since the epoch; None if no
        caller has it."""
        if shown.token:
            entry = self._by_token.get(_blinded(shown.token))
            known = entry is not None and hmac.compare_digest(entry[0], shown.token)
            return (entry[1], entry[2]) if known and entry is not None else None
        for name in shown.certificate:
            if (caller := self._by_certificate.get(name)) is not None:
                return caller, caller.expires
        return None

    def names(self) -> list[str]:
        callers = [*(entry[1] for entry in self._by_token.values()), *self._by_certificate.values()]
        return sorted({caller.name for caller in callers})


_KEY = secrets.token_bytes(32)


def _blinded(digest: bytes) -> bytes:
    return hmac.digest(_KEY, digest, "sha256")


def token_digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("ascii")).digest()


@dataclass
class AuthFile:
    """An auth file that is read again when it changes. A change that cannot be read is logged, and the
    table stays.

    Raises:
        LoadError: the file cannot be read, is not valid, or others can read it.
    """

    path: str
    table: CallerTable = field(init=False)
    _content: bytes = field(init=False, default=b"")
    _seen: tuple[int, ...] | None = field(init=False, default=None)
    _invalid: str = field(init=False, default="")  # why the last change was not taken over

    def __post_init__(self) -> None:
        self._seen, self.table = self._read()

    def refresh(self) -> bool:
        """Read the file again if it has changed. Returns whether the table is a new one."""
        try:
            if self._seen is not None and _signature(os.stat(self.path)) == self._seen:
                return False
        except OSError as error:
            self._keep(f"cannot be read: {error.strerror}")
            return False
        content = self._content
        try:
            self._seen, self.table = self._read()
        except LoadError as error:
            self._keep(error.message)
            return False
        if self._content == content:
            return False
        log.info("auth file read again", extra={"fields": {"callers": len(self.table.names())}})
        return True

    def _keep(self, why: str) -> None:
        if self._invalid != why:
            log.error("the auth file has changed and is not valid; the callers stay as they were: %s", why)
        self._invalid, self._seen = why, None

    def _read(self) -> tuple[tuple[int, ...] | None, CallerTable]:
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                content = file.read()
        except OSError as error:
            raise LoadError(f"--auth-file {self.path}: cannot be read: {error.strerror}") from None
        _check_mode(self.path, status)
        # A file may change twice within one tick of its time stamp.
        settled = time.time_ns() - status.st_mtime_ns > 2_000_000_000
        table = self.table if content == self._content else parse(self.path, content)
        self._content, self._invalid = content, ""
        return _signature(status) if settled else None, table


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


def _check_mode(path: str, status: os.stat_result) -> None:
    """
    Raises:
        LoadError: others than the owner can read or write the file.
    """
    if (mode := readable_mode(status)) is not None:
        raise LoadError(f"--auth-file {path}: others can read it (mode {mode:03o}); run chmod 600 {path}")


def readable_mode(status: os.stat_result) -> int | None:
    """The mode of a secret's file if others than its owner can read or write it. A group may read a file of
    root: that is how Kubernetes gives a secret to a user who is not root."""
    mode = status.st_mode & 0o777
    allowed = 0o740 if status.st_uid == 0 and hasattr(os, "geteuid") and os.geteuid() != 0 else 0o700
    return mode if os.name == "posix" and mode & ~allowed else None


class _Invalid(Exception):
    """What is wrong in an auth file."""


def parse(path: str, content: bytes) -> CallerTable:
    """The table of an auth file's content.

    Raises:
        LoadError: it is not valid. The message names the key.
    """
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LoadError(f"--auth-file {path}: not valid TOML: {error}") from None
    try:
        return _table(document)
    except _Invalid as error:
        raise LoadError(f"--auth-file {path}: {error}") from None


def _table(document: dict[str, Any]) -> CallerTable:
    _check_keys("", document, ("anonymous", "callers"))
    anonymous = _permissions("anonymous", document.get("anonymous", []))
    tables = document.get("callers", {})
    if not isinstance(tables, dict) or not tables:
        raise _Invalid("callers: missing; add a table [callers.NAME] for each caller")
    owners: dict[str, str] = {}
    callers = []
    for name, table in tables.items():
        where = f"callers.{name}"
        if not _NAME.fullmatch(name):
            raise _Invalid(f"{where}: use 1 to 64 letters, digits, '_', '-' and '.' as a name")
        if not isinstance(table, dict):
            raise _Invalid(f"{where}: expected a table")
        caller = _caller(name, where, table)
        tokens = _tokens(f"{where}.tokens", table.get("tokens", []))
        certificates = _texts(f"{where}.certificates", table.get("certificates", []))
        if not tokens and not certificates:
            raise _Invalid(f"{where}: has neither tokens nor certificates; add one")
        for credential in (*tokens, *certificates):
            if (other := owners.setdefault(credential, name)) != name:
                raise _Invalid(f"{where}: shares a token or certificate with {other!r}; give each its own")
        callers.append((caller, tokens, certificates))
    return CallerTable(callers, anonymous)


_KEYS = ("tokens", "certificates", "permissions", "models", "slots", "bytes", "requests_per_second",
         "tokens_per_second", "expires", "forwards")  # fmt: skip


def _caller(name: str, where: str, table: dict[str, Any]) -> Caller:
    _check_keys(f"{where}.", table, _KEYS)
    forwards = table.get("forwards", False)
    if not isinstance(forwards, bool):
        raise _Invalid(f"{where}.forwards: {forwards!r} is not valid; use true or false")
    models = _texts(f"{where}.models", table.get("models", []))
    if "models" in table and not models:
        raise _Invalid(f"{where}.models: empty; name models, or leave the key out to allow all")
    return Caller(
        name,
        permissions=_permissions(
            f"{where}.permissions", table.get("permissions", ["health", "read", "infer"])
        ),
        models=models,
        slots=_count(f"{where}.slots", table.get("slots")) or None,
        bytes=_count(f"{where}.bytes", table.get("bytes")),
        requests_per_second=_rate(f"{where}.requests_per_second", table.get("requests_per_second")),
        tokens_per_second=_rate(f"{where}.tokens_per_second", table.get("tokens_per_second")),
        expires=_expiry(f"{where}.expires", table.get("expires")),
        forwards=forwards,
        account=name,
    )


def _count(where: str, value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _Invalid(f"{where}: {value!r} is not valid; use an integer of 1 or more")
    return value


def _rate(where: str, value: Any) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise _Invalid(f"{where}: {value!r} is not valid; use a number above 0")
    return float(value)


def _check_keys(prefix: str, table: dict[str, Any], known: Iterable[str]) -> None:
    for key in table:
        if key not in known:
            raise _Invalid(f"{prefix}{key}: unknown key; use {', '.join(known)}")


def _texts(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise _Invalid(f"{where}: expected a list of strings")
    return tuple(value)


def _permissions(where: str, value: Any) -> frozenset[str]:
    found = frozenset(_texts(where, value))
    if unknown := sorted(found - PERMISSIONS):
        raise _Invalid(f"{where}: unknown permission {unknown[0]!r}; use {', '.join(sorted(PERMISSIONS))}")
    return found


def _tokens(where: str, value: Any) -> dict[str, float]:
    if not isinstance(value, list):
        raise _Invalid(f"{where}: expected a list")
    found = {}
    for number, entry in enumerate(value):
        expires = None
        digest = entry
        if isinstance(entry, dict):
            _check_keys(f"{where}[{number}].", entry, ("sha256", "expires"))
            digest, expires = entry.get("sha256"), entry.get("expires")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            # The value may be a token by mistake, so the message does not quote it.
            raise _Invalid(
                f"{where}[{number}]: expected the SHA-256 of a token, as 64 hexadecimal digits:"
                ' printf %s "$TOKEN" | sha256sum'
            )
        found[digest.lower()] = _expiry(f"{where}[{number}].expires", expires)
    return found


def _expiry(where: str, value: Any) -> float:
    if value is None:
        return _NEVER
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise _Invalid(f"{where}: {value.isoformat()} has no time zone; add Z for UTC")
        return value.timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    raise _Invalid(f"{where}: {value!r} is not a date; use 2027-01-31 or 2027-01-31T12:00:00Z")
