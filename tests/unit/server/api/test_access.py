"""Tokens never cross a network unencrypted, and a server is not open to a network unasked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from security import certificates, digest, tls, write_auth

from lockstep_server.api import access
from lockstep_server.errors import LoadError
from lockstep_server.metrics.families import Metrics
from lockstep_server.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("more", "grpc_host", "http_host"),
    [
        ({}, "127.0.0.1", "127.0.0.1"),
        ({"auth_file": "a"}, "127.0.0.1", "127.0.0.1"),
        ({"tls_cert": "a"}, "0.0.0.0", "0.0.0.0"),
        ({"host": "::"}, "::", "::"),
        ({"tls_cert": "a", "metrics_host": "127.0.0.1"}, "0.0.0.0", "127.0.0.1"),
        ({"metrics_host": "0.0.0.0"}, "127.0.0.1", "0.0.0.0"),
    ],
)
def test_the_default_address_is_loopback_without_tls(more: Any, grpc_host: str, http_host: str) -> None:
    settings = Settings(**more)
    assert (settings.grpc_host, settings.http_host) == (grpc_host, http_host)


@pytest.mark.parametrize(
    ("more", "flag"),
    [
        ({"host": "0.0.0.0"}, "--host"),
        ({"host": "::"}, "--host"),
        ({"host": "server.example"}, "--host"),
        ({"metrics_host": "0.0.0.0"}, "--metrics-host"),
        ({"metrics_tls": False, "tls": True}, "--metrics-host"),
    ],
)
def test_tokens_without_tls_off_loopback_are_refused(tmp_path: Path, more: Any, flag: str) -> None:
    auth = write_auth(tmp_path / "auth.toml", f'[callers.a]\ntokens = ["{digest("a")}"]')
    encrypted: Any = tls(certificates()) if more.pop("tls", False) else {}
    with pytest.raises(LoadError, match=f"{flag} .*unencrypted"):
        access.guard(Settings(auth_file=auth, **encrypted, **more), Metrics())


@pytest.mark.parametrize("host", ["", "127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_tokens_on_loopback_need_no_tls(tmp_path: Path, host: str) -> None:
    auth = write_auth(tmp_path / "auth.toml", f'[callers.a]\ntokens = ["{digest("a")}"]')
    assert access.guard(Settings(auth_file=auth, host=host), Metrics()).on


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tls_cert": "{certs}/server.pem"}, "--tls-key"),
        ({"tls_key": "{certs}/server.key"}, "--tls-cert"),
        ({"tls_client_ca": "{certs}/ca.pem"}, "--tls-cert and --tls-key"),
        ({"tls_cert": "{certs}/server.pem", "tls_key": "{certs}/alice.key"}, "alice.key: not a certificate"),
        ({"tls_cert": "{certs}/none.pem", "tls_key": "{certs}/server.key"}, "none.pem: cannot be read"),
        (
            {
                "tls_cert": "{certs}/server.pem",
                "tls_key": "{certs}/server.key",
                "tls_client_ca": "{certs}/server.key",
            },
            "not certificates of authorities",
        ),
    ],
)
def test_incomplete_tls_settings_are_refused(more: dict[str, str], words: str) -> None:
    filled: Any = {key: value.format(certs=certificates()) for key, value in more.items()}
    with pytest.raises(LoadError, match=words):
        access.certificate_files(Settings(**filled))


def test_an_invalid_proxy_is_refused() -> None:
    with pytest.raises(LoadError, match="--trusted-proxies"):
        access.guard(Settings(trusted_proxies="10.0.0.0/33"), Metrics())
