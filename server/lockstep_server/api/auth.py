"""Who may call which method: decided from a call's metadata and certificate, before its message is read.

metadata -> token -> caller -> permission of the method -> the method, or a refusal that reads nothing.
What depends on the message (model, priority) is checked once it is read: `Guard.check_message`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import ErrorCode, ServingError
from ..frontend.callers import UNKNOWN, Caller, Credential, current, token_digest
from .identity import certificate_names, host_of, is_in, networks, peer_host, values
from .permissions import PERMISSIONS_OF, SIGNED, model_of, priority_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..frontend.audit import Audit
    from ..frontend.callers import AuthFile
    from .calls import Call
    from .identity import Metadata
    from .status import Context

log = logging.getLogger(__name__)

_RECHECK_S = 1.0
"""How often the auth file and the credentials of open calls are checked."""

_MAX_TOKEN_CHARACTERS = 4096
_SCHEME = "bearer "


class Refusal(ServingError):
    """A call that is refused for its credentials or permissions. `reason` is the metric's label."""

    def __init__(self, reason: str, code: ErrorCode, message: str, caller: Caller = UNKNOWN) -> None:
        super().__init__(code, message)
        self.reason, self.caller = reason, caller


class Guard:
    """Decides who calls and what is allowed, and ends calls whose credentials end.

    Args:
        auth_file: the callers; None: everybody may call everything.
        certificates: whether clients show certificates.
        proxies: addresses of proxies that name the callers behind them, comma-separated, as addresses or
            networks.
        header: the metadata key with that name; of `x-forwarded-for`, the last address that is no proxy.

    Raises:
        ValueError: an address in `proxies` is not valid.
    """

    def __init__(
        self,
        audit: Audit,
        auth_file: AuthFile | None = None,
        *,
        certificates: bool = False,
        proxies: str = "",
        header: str = "x-forwarded-for",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.audit, self._file, self._certificates = audit, auth_file, certificates
        self._proxies = networks(proxies)
        self._header, self._clock = header.lower(), clock
        self.on = auth_file is not None
        self._asks_address_only = not (self.on or certificates or self._proxies)
        self._open: dict[Call, None] = {}
        self._export_usage()

    # --- before the message is read ------------------------------------------------------------------

    def early(self, method: str, metadata: Metadata) -> Grant | None:
        """The right to call a method, as far as metadata shows it. None: the certificate decides.

        Raises:
            Refusal: the call is not allowed.
        """
        if self._file is None:
            return None
        token = _bearer(metadata)
        if token is None and self._certificates:
            return None
        credential = Credential(token_digest(token)) if token is not None else Credential()
        return self._grant(method, credential, metadata)

    def late(self, method: str, context: Context) -> Grant:
        """The right to call a method, as the certificate shows it.

        Raises:
            Refusal: the call is not allowed.
        """
        credential = Credential(certificate=certificate_names(context.auth_context()))
        return self._grant(method, credential, context.invocation_metadata())

    def admit(self, method: str, context: Context) -> tuple[Caller, Grant | None]:
        """Set `current` to the caller of this call. Returns it and its grant; None without an auth file.

        Raises:
            Refusal: the call is not allowed.
        """
        grant = None
        if self._asks_address_only:
            caller = _at(context.peer())
        elif not self.on:
            caller = self.identify(context)
        else:
            grant = granted.get() or self.late(method, context)
            caller = grant.caller
            if not caller.name:  # without credentials, which the auth file allows
                caller = replace(caller, name=self.identify(context).name)
        current.set(caller)
        return caller, grant

    def identify(self, context: Context) -> Caller:
        """The caller on a server without an auth file: its certificate, or the address that it calls from."""
        if self._certificates and (names := certificate_names(context.auth_context())):
            return Caller(names[0])
        host = peer_host(context.peer())
        if self._proxies and is_in(host, self._proxies):
            return self._behind_proxy(host, context.invocation_metadata())
        return _anybody(host)

    def _grant(self, method: str, credential: Credential, metadata: Metadata) -> Grant:
        if method in SIGNED:
            return Grant(UNKNOWN, credential, method)
        caller = self._caller(credential)
        permissions = PERMISSIONS_OF.get(method, ())
        if caller.permissions.isdisjoint(permissions):
            raise _not_permitted(caller, " or ".join(permissions), method)
        if caller.forwards:
            caller = self._forwarded(caller, metadata)
        return Grant(caller, credential, method)

    def _caller(self, credential: Credential) -> Caller:
        """
        Raises:
            Refusal: the credential is unknown or has expired.
        """
        assert self._file is not None
        table = self._file.table
        found = table.find(credential)
        if found is None:
            if credential.token:
                raise _unauthenticated("unknown", "the token is not valid; ask the operator for another")
            if credential.certificate and not table.anonymous.permissions:
                shown = ", ".join(credential.certificate)
                raise _unauthenticated("unknown", f"no caller has a certificate for {shown}")
            return table.anonymous
        caller, expires = found
        if self._clock() >= expires:
            raise _unauthenticated("expired", "the credentials have expired; ask for others", caller)
        return caller

    def _forwarded(self, proxy: Caller, metadata: Metadata) -> Caller:
        name = "".join(values(metadata, self._header)[-1:])
        return replace(proxy, name=f"{proxy.name}/{name[:64]}") if name else proxy

    def _behind_proxy(self, host: str, metadata: Metadata) -> Caller:
        found = values(metadata, self._header)
        if self._header != "x-forwarded-for":
            return _anybody(f"{host}/{found[-1][:64]}") if found else _anybody(host)
        for address in reversed(",".join(found).split(",")):
            host = host_of(address) or host
            if not is_in(host, self._proxies):
                break
        return _anybody(host)

    # --- once it is read -------------------------------------------------------------------------------

    def check_message(self, message: Any) -> None:
        """
        Raises:
            Refusal: the caller may not use the model that the message names, or may not set a priority.
        """
        caller = current.get()
        if not caller.authenticated and self._file is None:
            return
        if caller.models:
            model = model_of(message)
            if model and not caller.may_use(model):
                raise Refusal(
                    "model", ErrorCode.DENIED, f"caller {caller.name!r} may not use model {model!r}", caller
                )
        if "priority" not in caller.permissions and priority_of(message):
            raise Refusal(
                "priority",
                ErrorCode.DENIED,
                f"caller {caller.name!r} may not set a priority; leave it out",
                caller,
            )

    # --- while it is open ------------------------------------------------------------------------------

    def open(self, call: Call) -> None:
        self._open[call] = None

    def close(self, call: Call) -> None:
        self._open.pop(call, None)

    async def watch(self) -> None:
        """Read the auth file again when it changes, and end calls whose credentials ended."""
        while True:
            await asyncio.sleep(_RECHECK_S)
            self.recheck()

    def recheck(self) -> None:
        if self._file is None:
            return
        try:
            if self._file.refresh():
                self._export_usage()
            for call in list(self._open):
                try:
                    assert call.grant is not None
                    self._grant(call.grant.method, call.grant.credential, None)
                except Refusal as refusal:
                    call.end(refusal)
        except Exception:  # the next check must come
            log.exception("checking the auth file failed")

    def _export_usage(self) -> None:
        if self._file is not None:
            self.audit.metrics.add_callers(self._file.table.names())

    # --- other ways in ---------------------------------------------------------------------------------

    def check_scrape(self, authorization: str, certificate: Sequence[str]) -> None:
        """Whether /metrics may be read. Safe to call from any thread.

        Raises:
            Refusal: it may not.
        """
        if self._file is None:
            return
        token = _bearer((("authorization", authorization),) if authorization else ())
        credential = (
            Credential(token_digest(token))
            if token is not None
            else Credential(certificate=tuple(certificate))
        )
        caller = self._caller(credential)
        if "metrics" not in caller.permissions:
            raise _not_permitted(caller, "metrics", "/metrics")


class Grant:
    """A caller's right to one call."""

    __slots__ = ("caller", "credential", "method")

    def __init__(self, caller: Caller, credential: Credential, method: str) -> None:
        self.caller, self.credential, self.method = caller, credential, method


granted: ContextVar[Grant | None] = ContextVar("grant", default=None)
"""The grant of the RPC whose task this is, if its metadata showed it."""


@lru_cache(4096)
def _at(peer: str) -> Caller:
    return _anybody(peer_host(peer))


@lru_cache(4096)
def _anybody(host: str) -> Caller:
    return Caller(f"@{host}")  # no name in an auth file begins with @


def _bearer(metadata: Metadata) -> str | None:
    """The token in a call's metadata; None if there is none.

    Raises:
        Refusal: it is not `Bearer TOKEN`, or sent twice.
    """
    sent = [value for key, value in metadata or () if key == "authorization"]
    if not sent:
        return None
    if len(sent) > 1:
        raise _unauthenticated("malformed", "authorization is sent more than once; send one token")
    value = sent[0]
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    token = value[len(_SCHEME) :].strip()
    if not value.isascii() or value[: len(_SCHEME)].lower() != _SCHEME or not token:
        raise _unauthenticated("malformed", "authorization is not valid; send 'Bearer TOKEN', in ASCII")
    if len(token) > _MAX_TOKEN_CHARACTERS:
        raise _unauthenticated("malformed", f"the token has more than {_MAX_TOKEN_CHARACTERS} characters")
    return token


def _unauthenticated(reason: str, message: str, caller: Caller = UNKNOWN) -> Refusal:
    return Refusal(reason, ErrorCode.UNAUTHENTICATED, message, caller)


def _not_permitted(caller: Caller, permission: str, method: str) -> Refusal:
    if not permission:
        return Refusal("method", ErrorCode.DENIED, f"{method} has no permission, and is denied", caller)
    if not caller.authenticated:
        return _unauthenticated(
            "missing", "no credentials; send metadata 'authorization: Bearer TOKEN', or a client certificate"
        )
    return Refusal(
        "permission", ErrorCode.DENIED, f"caller {caller.name!r} has no permission {permission!r}", caller
    )
