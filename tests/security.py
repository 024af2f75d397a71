"""Certificates and auth files for tests. Certificates are made by the script of `make certs`."""

from __future__ import annotations

import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from made_once import RUN_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[1]
CLIENTS = ("alice", "bob", "stranger")


@cache
def certificates(name: str = "certs") -> Path:
    """A folder with an authority and the certificates of a server and of `CLIENTS`."""
    folder = Path(os.environ[RUN_FOLDER]) / f"{name}-{os.getpid()}"
    make_certificates(folder, CLIENTS)
    return folder


def make_certificates(folder: Path, clients: Iterable[str] = (), **environment: str) -> None:
    command = [str(ROOT / "deploy" / "certs.sh"), str(folder), *clients]
    subprocess.run(command, check=True, env={**os.environ, **environment}, capture_output=True)


def tls(folder: Path, *, mutual: bool = False) -> dict[str, str]:
    """The settings of a server with the certificates of a folder."""
    files = {"tls_cert": str(folder / "server.pem"), "tls_key": str(folder / "server.key")}
    return {**files, "tls_client_ca": str(folder / "ca.pem")} if mutual else files


def credentials(folder: Path, client: str = "", authority: Path | None = None) -> grpc.ChannelCredentials:
    """What a client shows and trusts."""
    key, chain = (
        ((folder / f"{client}.{kind}").read_bytes() for kind in ("key", "pem")) if client else (None,) * 2
    )
    return grpc.ssl_channel_credentials(((authority or folder) / "ca.pem").read_bytes(), key, chain)


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def write_auth(path: Path, text: str, mode: int = 0o600) -> str:
    """Write an auth file, in one step as a careful operator does. Returns its path."""
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.chmod(mode)
    new.rename(path)
    return str(path)


def bearer(token: str) -> Any:
    return (("authorization", f"Bearer {token}"),)
