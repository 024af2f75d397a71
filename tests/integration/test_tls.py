"""TLS and mutual TLS: who can connect, and certificates that change while the server runs."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from integration.harness import REPOSITORY, Served, refused, settings
from patience import PATIENCE_S, wait_until
from security import bearer, certificates, credentials, digest, make_certificates, tls, write_auth

from lockstep_client import AsyncClient, Client
from lockstep_client.metrics_text import scrape
from lockstep_client.tls import Tls
from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_proto.v1 import sequences_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODEL = "sentiment-bow"
TEXT = pb.ClassifyRequest(model=MODEL, texts=["a fine film"])
UNAUTHENTICATED, UNAVAILABLE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def start() -> Iterator[Callable[..., Served]]:
    servers = []

    def start_server(**more: Any) -> Served:
        server = Served(settings(REPOSITORY, only=MODEL, **more))
        servers.append(server)
        wait_until(server.app.registry.ready, "models ready")
        return server

    yield start_server
    for server in servers:
        server.close()


def _classify(server: Served, creds: grpc.ChannelCredentials, metadata: Any = ()) -> Any:
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{server.app.port}", creds, options) as channel:
        stub = sequences_pb2_grpc.SequencesStub(channel)
        return stub.Classify(TEXT, metadata=metadata, timeout=PATIENCE_S)


AUTH = f"""
[callers.alice]
certificates = ["alice"]

[callers.bob]
tokens = ["{digest("token-of-bob")}"]

[callers.scraper]
tokens = ["{digest("token-of-scraper")}"]
certificates = ["scraper"]
permissions = ["metrics"]
"""


def test_mutual_tls_names_callers_by_certificate_or_token(
    start: Callable[..., Served], tmp_path: Path
) -> None:
    folder = certificates()
    server = start(auth_file=write_auth(tmp_path / "auth.toml", AUTH), **tls(folder, mutual=True))
    assert _classify(server, credentials(folder, "alice")).results
    assert _classify(server, credentials(folder, "bob"), bearer("token-of-bob")).results
    with refused(UNAUTHENTICATED, words="stranger"):
        _classify(server, credentials(folder, "stranger"))
    with refused(UNAUTHENTICATED, words="not valid"):  # a wrong token counts, whatever the certificate
        _classify(server, credentials(folder, "alice"), bearer("guess"))
    with refused(UNAVAILABLE):
        _classify(server, credentials(folder))
    others = tmp_path / "others"
    make_certificates(others, ["alice"])
    with refused(UNAVAILABLE):
        _classify(server, credentials(others, "alice", authority=folder))
    shutil.copytree(folder, tmp_path / "late")
    make_certificates(tmp_path / "late", ["alice"], DAYS="-1")
    with refused(UNAVAILABLE):
        _classify(server, credentials(tmp_path / "late", "alice"))


def test_all_kinds_of_calls_work_by_certificate_and_large_ones_of_strangers_are_not_read(
    start: Callable[..., Served], tmp_path: Path
) -> None:
    folder = certificates()
    server = start(auth_file=write_auth(tmp_path / "auth.toml", AUTH), **tls(folder, mutual=True))
    address = f"localhost:{server.app.port}"
    with grpc.secure_channel(address, credentials(folder, "alice")) as channel:
        stub = sequences_pb2_grpc.SequencesStub(channel)
        [reply] = list(stub.ClassifyMany(iter([TEXT]), timeout=PATIENCE_S))
        assert len(reply.outcomes) == 1
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            list(stub.Generate(pb.GenerateRequest(model=MODEL), timeout=PATIENCE_S))
        with refused(grpc.StatusCode.INVALID_ARGUMENT, words="no message"):
            list(channel.stream_stream("/lockstep.v1.Sequences/Classify")(iter([]), timeout=PATIENCE_S))
    received = server.app.metrics.registry.get_sample_value
    labels = {
        "grpc_type": "unary",
        "grpc_service": "lockstep.v1.Sequences",
        "grpc_method": "Classify",
    }
    before = received("grpc_server_msg_received_total", labels)
    with grpc.secure_channel(address, credentials(folder, "stranger")) as channel, refused(UNAUTHENTICATED):
        classify: Any = channel.unary_unary("/lockstep.v1.Sequences/Classify")
        classify(b"\n" * (60 << 20), timeout=PATIENCE_S)
    assert received("grpc_server_msg_received_total", labels) == before


def test_tls_1_1_is_refused(start: Callable[..., Served]) -> None:
    server = start(**tls(certificates()))
    for port in (server.app.port, server.app.metrics_port):
        assert _handshake(port, ssl.TLSVersion.TLSv1_2)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            _handshake(port, ssl.TLSVersion.TLSv1_1)


def _handshake(port: int, version: ssl.TLSVersion) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates() / "ca.pem")
    context.set_ciphers("ALL:@SECLEVEL=0")  # of the client; what is refused is the server's choice
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.options &= ~ssl.OP_NO_TLSv1_1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    raw = socket.create_connection(("localhost", port), PATIENCE_S)
    with raw, context.wrap_socket(raw, server_hostname="localhost") as wrapped:
        return wrapped.version()


def test_the_metrics_port_takes_a_certificate_or_a_token(
    start: Callable[..., Served], tmp_path: Path
) -> None:
    folder = tmp_path / "certs"
    shutil.copytree(certificates(), folder)
    make_certificates(folder, ["scraper"])
    server = start(auth_file=write_auth(tmp_path / "auth.toml", AUTH), **tls(folder, mutual=True))
    url = f"https://localhost:{server.app.metrics_port}"
    plain = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    assert urllib.request.urlopen(f"{url}/healthz", context=plain, timeout=PATIENCE_S).status == 200
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{url}/metrics", context=plain, timeout=PATIENCE_S)
    caught.value.close()
    address = f"localhost:{server.app.metrics_port}"
    authority = folder / "ca.pem"
    shown: Any = {"certificate": folder / "scraper.pem", "key": folder / "scraper.key"}
    by_token = scrape(address, PATIENCE_S, tls=Tls(authority), token="token-of-scraper")
    by_certificate = scrape(address, PATIENCE_S, tls=Tls(authority, **shown))
    assert by_token.total("lockstep_engine_up") == by_certificate.total("lockstep_engine_up") == 1


def _serial(port: int, authority: Path) -> str:
    """The serial number of the certificate that new connections get."""
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["h2", "http/1.1"])
    raw = socket.create_connection(("localhost", port), PATIENCE_S)
    with raw, context.wrap_socket(raw, server_hostname="localhost") as wrapped:
        return str(wrapped.getpeercert()["serialNumber"])  # type: ignore[index]


def test_certificates_rotate_under_load(
    start: Callable[..., Served], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As Kubernetes swaps a mounted secret: files are links through `..data`, which is renamed."""
    first, second, mount = tmp_path / "first", tmp_path / "second", tmp_path / "mount"
    make_certificates(first)
    shutil.copytree(first, second)
    make_certificates(second)  # the same authority, another certificate and key
    mount.mkdir()
    (mount / "..data").symlink_to(first)
    for name in ("server.pem", "server.key", "ca.pem"):
        (mount / name).symlink_to(f"..data/{name}")
    server = start(**tls(mount))
    ports = server.app.port, server.app.metrics_port
    old = [_serial(port, mount / "ca.pem") for port in ports]
    trusted, failures, done = credentials(first), [], threading.Event()

    def call() -> None:
        while not done.is_set():
            try:
                _classify(server, trusted)
            except grpc.RpcError as error:
                failures.append(error)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        key, chain = (first / "server.key").read_bytes(), (first / "server.pem").read_bytes()
        (first / "server.pem").write_bytes(chain[: len(chain) // 2])  # half-written
        assert [_serial(port, mount / "ca.pem") for port in ports] == old
        (first / "server.pem").write_bytes((second / "server.pem").read_bytes())  # of another key
        assert [_serial(port, mount / "ca.pem") for port in ports] == old
        (first / "server.key").unlink()
        assert [_serial(port, mount / "ca.pem") for port in ports] == old
        (first / "server.key").write_bytes(key)
        (first / "server.pem").write_bytes(chain)
        (mount / "..new").symlink_to(second)
        os.rename(mount / "..new", mount / "..data")
        new = [_serial(port, mount / "ca.pem") for port in ports]
    finally:
        done.set()
        for caller in callers:
            caller.join()
    assert failures == []
    assert not set(new) & set(old)
    kept = [r for r in caplog.records if r.levelno == logging.ERROR and "stay as they were" in r.getMessage()]
    assert kept


# In a process of its own: tritonclient registers the same messages as our stubs.
_TRITON = """
import sys
import tritonclient.grpc as triton
address, folder = sys.argv[1:]
files = {"root_certificates": "ca.pem", "private_key": "bob.key", "certificate_chain": "bob.pem"}
paths = {name: f"{folder}/{file}" for name, file in files.items()}
with triton.InferenceServerClient(address, ssl=True, **paths) as client:
    assert client.is_server_ready(headers={"authorization": "Bearer token-of-bob"})
    try:
        client.is_server_ready()
    except triton.InferenceServerException as error:
        assert "no caller has a certificate for bob" in str(error)
    else:
        raise AssertionError("a call without a token was answered")
"""


def test_tritonclient_and_our_clients_call_over_mutual_tls(
    start: Callable[..., Served], tmp_path: Path
) -> None:
    folder = certificates()
    server = start(auth_file=write_auth(tmp_path / "auth.toml", AUTH), **tls(folder, mutual=True))
    address = f"localhost:{server.app.port}"
    command = [sys.executable, "-c", _TRITON, address, str(folder)]
    triton = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert triton.returncode == 0, triton.stderr
    shown = Tls(folder / "ca.pem", folder / "alice.pem", folder / "alice.key")
    with Client(address, tls=shown) as ours:
        assert ours.classify(MODEL, ["a fine film"])

    async def classify() -> Any:
        async with AsyncClient(address, tls=Tls(folder / "ca.pem", folder / "bob.pem", folder / "bob.key"),
                               token="token-of-bob") as client:  # fmt: skip
            return await client.classify(MODEL, ["a fine film"])

    assert asyncio.run(classify())


NODE_CLIENT = Path(__file__).parents[1] / "node"


def _needs(tool: str, *files: Path) -> str:
    """The path of a tool; skips the test if it, or a file that it needs, is missing."""
    found = shutil.which(tool)
    if found is None or not all(file.exists() for file in files):
        pytest.skip(f"{tool} or its packages are not installed: {tool} is not tested")
    return found


def test_node_calls_over_mutual_tls(start: Callable[..., Served], tmp_path: Path) -> None:
    """`npm ci --ignore-scripts --prefix tests/node` installs what it needs."""
    node = _needs("node", NODE_CLIENT / "node_modules" / "@grpc" / "grpc-js" / "package.json")
    folder = certificates()
    server = start(auth_file=write_auth(tmp_path / "auth.toml", AUTH), **tls(folder, mutual=True))

    def call(*arguments: str) -> str:
        command = [
            node,
            str(NODE_CLIENT / "call.js"),
            f"localhost:{server.app.port}",
            str(folder),
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout

    for answered in (call("alice"), call("bob", "token-of-bob")):
        assert answered.startswith("health 0801\nlabels ")
        assert "positive" in answered
    assert "status 16 no caller has a certificate for bob" in call("bob")
    assert "status 16 the token is not valid" in call("alice", "guess")


def test_grpcurl_calls_over_mutual_tls(start: Callable[..., Served], tmp_path: Path) -> None:
    """As docs/security.md says."""
    grpcurl = _needs("grpcurl")
    folder = certificates()
    server = start(auth_file=write_auth(tmp_path / "auth.toml", AUTH), **tls(folder, mutual=True))

    def call(client: str, *more: str) -> subprocess.CompletedProcess[str]:
        shown = [
            "-cacert",
            f"{folder}/ca.pem",
            "-cert",
            f"{folder}/{client}.pem",
            "-key",
            f"{folder}/{client}.key",
        ]
        command = [grpcurl, *shown, *more, f"localhost:{server.app.port}", "list"]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)

    for listed in (call("alice"), call("bob", "-H", "Authorization: Bearer token-of-bob")):
        assert "lockstep.v1.Sequences" in listed.stdout, listed.stderr
    assert "no caller has a certificate for bob" in call("bob").stderr


def test_a_certificate_is_revoked_by_its_name_in_the_auth_file(
    start: Callable[..., Served], tmp_path: Path
) -> None:
    """Also for calls over a connection that is open, and for open calls. There are no revocation lists."""
    folder, auth = certificates(), tmp_path / "auth.toml"
    server = start(auth_file=write_auth(auth, AUTH), **tls(folder, mutual=True))
    with grpc.secure_channel(f"localhost:{server.app.port}", credentials(folder, "alice")) as channel:
        stub = sequences_pb2_grpc.SequencesStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert stub.Classify(TEXT, timeout=PATIENCE_S).results
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        next(watch)
        write_auth(auth, AUTH.replace('certificates = ["alice"]', 'certificates = ["alice-2"]'))
        with refused(UNAUTHENTICATED, words="alice"):
            list(watch)
        with refused(UNAUTHENTICATED, words="alice"):
            stub.Classify(TEXT, timeout=PATIENCE_S)
