"""Both clients over TLS: trusted and presented certificates, and the token.

The fake server with a certificate stands in for the TLS proxy in front of a Lockstep server.
"""

from __future__ import annotations

import shutil
import subprocess
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from patience import PATIENCE_S
from unit.client.conftest import FakeServer

import lockstep_client as lc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
NAME = "lockstep.test"


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=PATIENCE_S)


def signed(folder: Path, name: str, subject: str) -> None:
    """A key and a certificate for `subject`, signed by the folder's authority."""
    key, request, extensions = folder / f"{name}.key", folder / f"{name}.csr", folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName=DNS:{subject}\n")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(request),
            "-subj", f"/CN={subject}")  # fmt: skip
    openssl("x509", "-req", "-in", str(request), "-CA", str(folder / "ca.pem"), "-CAkey",
            str(folder / "ca.key"), "-CAcreateserial", "-days", "2", "-extfile", str(extensions),
            "-out", str(folder / f"{name}.pem"))  # fmt: skip


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, server, local and client: NAME.pem and NAME.key."""
    folder = tmp_path_factory.mktemp("certificates")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(folder / "ca.key"), "-out",
            str(folder / "ca.pem"), "-days", "2", "-subj", "/CN=an authority")  # fmt: skip
    signed(folder, "server", NAME)
    signed(folder, "local", "localhost")
    signed(folder, "client", "a client")
    return folder


@pytest.fixture(params=[False, True], ids=["server only", "both sides"])
def mutual(request: pytest.FixtureRequest) -> bool:
    return request.param


@contextmanager
def behind_tls(certificates: Path, name: str, *, mutual: bool) -> Iterator[FakeServer]:
    """The fake server, with a certificate."""
    fake = FakeServer()
    fake.answers.set()
    read = lambda name: (certificates / name).read_bytes()  # noqa: E731
    credentials = grpc.ssl_server_credentials(
        [(read(f"{name}.key"), read(f"{name}.pem"))], read("ca.pem") if mutual else None, mutual
    )
    with futures.ThreadPoolExecutor(8) as pool:
        running = grpc.server(pool)
        running.add_generic_rpc_handlers(fake.handlers())
        fake.address = f"localhost:{running.add_secure_port('localhost:0', credentials)}"
        running.start()
        yield fake
        running.stop(0).wait()


@pytest.fixture
def secure(certificates: Path, mutual: bool) -> Iterator[FakeServer]:
    """A server whose certificate does not name its address."""
    with behind_tls(certificates, "server", mutual=mutual) as fake:
        yield fake


def shown(certificates: Path) -> dict[str, Path]:
    return {"certificate": certificates / "client.pem", "key": certificates / "client.key"}


def test_a_server_with_a_trusted_certificate_is_accepted(secure, connect, certificates) -> None:
    tls = lc.Tls(roots=certificates / "ca.pem", server_name=NAME, **shown(certificates))
    with connect(secure.address, tls=tls, token="secret") as client:
        assert client.classify("sentiment", "good")[0].best.name == "positive"
        assert len(client.generate("sentiment", "x").result().tokens) > 0
    assert all(metadata["authorization"] == "Bearer secret" for metadata in secure.metadata)


def test_certificates_may_be_bytes(secure, connect, certificates) -> None:
    given = {field: path.read_bytes() for field, path in shown(certificates).items()}
    tls = lc.Tls(roots=(certificates / "ca.pem").read_bytes(), server_name=NAME, **given)
    with connect(secure.address, tls=tls) as client:
        assert client.health().serving


@pytest.mark.parametrize(
    ("wrong", "mutual"), [("roots", False), ("roots", True), ("name", False), ("certificate", True)]
)
def test_a_certificate_mismatch_prevents_the_connection(secure, connect, certificates, mutual, wrong) -> None:
    fits = {"roots": certificates / "ca.pem", "server_name": NAME, **shown(certificates)}
    wrongs: dict[str, dict[str, Any]] = {
        "roots": {"roots": b""},
        "name": {"server_name": ""},
        "certificate": {"certificate": b"", "key": b""},
    }
    fits |= wrongs[wrong]
    with connect(secure.address, tls=lc.Tls(**fits), retries=0) as client, pytest.raises(lc.Unavailable):
        client.health(timeout_s=5.0)
    assert secure.requests == []


def test_the_command_supports_tls(lockstep, certificates, monkeypatch) -> None:
    monkeypatch.setenv("LOCKSTEP_TOKEN", "secret")
    with behind_tls(certificates, "local", mutual=False) as fake:
        arguments = ("models", "--address", fake.address, "--tls", str(certificates / "ca.pem"))
        code, lines, error = lockstep(*arguments)
        assert (code, len(lines), error) == (0, 4, "")  # a header, and three models
        assert fake.metadata[0]["authorization"] == "Bearer secret"
        code, _, error = lockstep("models", "--address", fake.address, "--tls", "system")
        assert (code, len(error.splitlines())) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tls", "/nothing.pem"), "roots '/nothing.pem' cannot be read: No such file"),
        (("--address", "example.org:1"), "token would be sent to example.org:1 unencrypted: set --tls"),
    ],
)
def test_the_command_reports_invalid_tls_options_in_one_line(
    lockstep, monkeypatch, arguments, message
) -> None:
    monkeypatch.setenv("LOCKSTEP_TOKEN", "secret")
    code, lines, error = lockstep("models", *arguments)
    assert (code, lines, len(error.splitlines())) == (2, [], 1)
    assert message in error


def test_invalid_certificates_raise_at_once(certificates, tmp_path) -> None:
    (tmp_path / "words").write_text("words")
    for wrong, message in (
        ({"roots": tmp_path / "nothing"}, "roots '.*nothing' cannot be read: No such file"),
        ({"roots": tmp_path / "words"}, "roots is not PEM"),
        ({"certificate": certificates / "client.pem"}, "key is missing"),
        ({"key": certificates / "client.key"}, "certificate is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            lc.Tls(**wrong)
