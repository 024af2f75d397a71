"""Who may call what: tokens and permissions are checked before a message is read."""

from __future__ import annotations

import asyncio
import logging
import resource
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from integration.harness import REPOSITORY, Served, refused, serve, settings
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from patience import PATIENCE_S, wait_until
from prometheus_client import generate_latest
from security import bearer, digest, write_auth

from lockstep_proto import open_inference_pb2 as open_pb
from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_server.api.permissions import PERMISSIONS_OF
from lockstep_server.frontend.audit import Audit
from lockstep_server.frontend.callers import PERMISSIONS
from lockstep_server.frontend.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL, WRITER = "sentiment-bow", "shakespeare-char-lstm"
TEXT = pb.ClassifyRequest(model=MODEL, texts=["a fine film"])
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED

CALLERS = (
    "\n".join(
        f'[callers.only-{name}]\ntokens = ["{digest(f"token-{name}")}"]\npermissions = ["{name}"]\n'
        for name in sorted(PERMISSIONS)
    )
    + f"""
[callers.alice]
tokens = ["{digest("alice-1")}", {{ sha256 = "{digest("alice-old")}", expires = 2020-01-01 }}]
models = ["sentiment-*"]

[callers.former]
tokens = ["{digest("former")}"]
expires = 2020-01-01T00:00:00Z
"""
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = write_auth(tmp_path_factory.mktemp("auth") / "auth.toml", CALLERS)
    server = Served(_settings(path))
    try:
        wait_until(server.app.registry.ready, "models ready")
        yield server
    finally:
        server.close()


def _settings(auth_file: str, **more: Any) -> Any:
    usual = {"only": f"{MODEL},{WRITER}", "auth_file": auth_file, "model_control": "explicit"}
    return settings(REPOSITORY, **{**usual, **more})


def _every_method() -> list[tuple[str, Any]]:
    """Each method of each service that the server offers, and its descriptor."""
    names = ("inference.GRPCInferenceService", "lockstep.v1.Sequences", "lockstep.v1.Operations",
             "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")  # fmt: skip
    pool: Any = descriptor_pool.Default()
    return [
        (f"/{service}/{method.name}", method)
        for service in names
        for method in pool.FindServiceByName(service).methods
    ]


METHODS = _every_method()


def _call(server: Served, path: str, method: Any, metadata: Any) -> grpc.StatusCode:
    """Call a method with one empty message. Returns the status."""
    begin: Any = server.channel.stream_stream(path)
    call = begin(iter([b""]), metadata=metadata, timeout=PATIENCE_S)
    try:
        for _ in call:  # a watch goes on: the first reply shows that the call is allowed
            call.cancel()
            return grpc.StatusCode.OK
    except grpc.RpcError:
        pass
    code: grpc.StatusCode = call.code()
    return code


def test_every_method_of_every_service_has_a_permission(guarded: Served) -> None:
    reflection: Any = reflection_pb2_grpc
    stub = reflection.ServerReflectionStub(guarded.channel)
    [reply] = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), metadata=bearer("token-read")
    )
    offered = {service.name for service in reply.list_services_response.service}
    assert offered == {path.split("/")[1] for path, _ in METHODS}
    assert {path for path, _ in METHODS} == set(PERMISSIONS_OF)


@pytest.mark.parametrize("permission", sorted(PERMISSIONS))
def test_a_permission_opens_its_methods_and_no_other(guarded: Served, permission: str) -> None:
    for path, method in METHODS:
        code = _call(guarded, path, method, bearer(f"token-{permission}"))
        allowed = permission in PERMISSIONS_OF[path]
        assert (code is not DENIED) is allowed, f"{path}: {code}"
        assert code is not UNAUTHENTICATED, path


@pytest.mark.parametrize("path", [path for path, _ in METHODS])
def test_no_method_answers_without_a_token(guarded: Served, path: str) -> None:
    assert _call(guarded, path, None, ()) is UNAUTHENTICATED


def test_the_permission_to_scrape_opens_the_metrics_only(guarded: Served) -> None:
    url = f"http://127.0.0.1:{guarded.app.metrics_port}"
    assert urllib.request.urlopen(f"{url}/healthz", timeout=PATIENCE_S).status == 200
    for token in ("", "token-infer", "nonsense"):
        request = urllib.request.Request(
            f"{url}/metrics", headers={"Authorization": f"Bearer {token}"} if token else {}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=PATIENCE_S)
        assert caught.value.code == 401
        assert b"lockstep_" not in caught.value.read()
        caught.value.close()
    assert _metric(guarded, "lockstep_engine_up") == 1


def _metric(server: Served, name: str) -> float:
    """The sum of a metric's samples, whatever their labels."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.app.metrics_port}/metrics", headers=dict(_header("token-metrics"))
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def _header(token: str) -> Any:
    return (("Authorization", f"Bearer {token}"),)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ((), "no credentials"),
        (bearer("wrong"), "not valid"),
        (bearer("alice-old"), "expired"),
        (bearer("former"), "expired"),
        ((*bearer("alice-1"), *bearer("alice-1")), "more than once"),
        ((("authorization", "Basic YTpi"),), "Bearer TOKEN"),
        ((("authorization", "Bearer "),), "Bearer TOKEN"),
        (bearer("x" * 5000), "characters"),
    ],
)
def test_a_bad_token_is_refused(guarded: Served, metadata: Any, words: str) -> None:
    with refused(UNAUTHENTICATED, words=words):
        guarded.sequences.Classify(TEXT, metadata=metadata, timeout=PATIENCE_S)


@pytest.mark.parametrize("characters", [8192, 20_000])
def test_a_token_larger_than_metadata_may_be_is_refused(guarded: Served, characters: int) -> None:
    with pytest.raises(grpc.RpcError) as caught:  # by gRPC, or by the server
        guarded.sequences.Classify(TEXT, metadata=bearer("x" * characters), timeout=PATIENCE_S)
    assert caught.value.code() is not grpc.StatusCode.OK


def test_the_scheme_is_case_insensitive(guarded: Served) -> None:
    guarded.sequences.Classify(TEXT, metadata=(("authorization", "bearer alice-1"),), timeout=PATIENCE_S)


def test_a_caller_uses_its_models_only(guarded: Served) -> None:
    guarded.sequences.Classify(TEXT, metadata=bearer("alice-1"), timeout=PATIENCE_S)
    other = pb.GenerateRequest(model=WRITER, text="ROMEO:", max_tokens=2)
    with refused(DENIED, words=WRITER):
        list(guarded.sequences.Generate(other, metadata=bearer("alice-1"), timeout=PATIENCE_S))
    with refused(DENIED, words=WRITER):
        request = open_pb.ModelInferRequest(model_name=f"{WRITER}.step")
        guarded.inference.ModelInfer(request, metadata=bearer("alice-1"), timeout=PATIENCE_S)
    start = pb.FollowRequest(start=pb.FollowStart(model=WRITER))
    with refused(DENIED, words=WRITER):
        list(guarded.sequences.Follow(iter([start]), metadata=bearer("alice-1"), timeout=PATIENCE_S))
    with refused(grpc.StatusCode.NOT_FOUND) as missing:
        unknown = pb.ClassifyRequest(model="sentiment-none", texts=["a"])
        guarded.sequences.Classify(unknown, metadata=bearer("alice-1"), timeout=PATIENCE_S)
    assert missing.value.details() == f"unknown model 'sentiment-none'; available: {MODEL}"
    index = guarded.inference.RepositoryIndex(
        open_pb.RepositoryIndexRequest(), metadata=bearer("alice-1"), timeout=PATIENCE_S
    )
    assert {model.name for model in index.models} == {MODEL}
    statistics = guarded.inference.ModelStatistics(
        open_pb.ModelStatisticsRequest(), metadata=bearer("alice-1"), timeout=PATIENCE_S
    )
    assert {model.name for model in statistics.model_stats} == {MODEL}


def test_a_caller_asks_for_the_health_of_its_models_only(guarded: Served) -> None:
    for service in ("", "live", "lockstep.v1.Sequences", MODEL):
        check = health_pb2.HealthCheckRequest(service=service)
        assert guarded.health.Check(check, metadata=bearer("alice-1"), timeout=PATIENCE_S).status
    other = health_pb2.HealthCheckRequest(service=WRITER)
    with refused(DENIED, words=WRITER):
        guarded.health.Check(other, metadata=bearer("alice-1"), timeout=PATIENCE_S)
    with refused(DENIED, words=WRITER):
        next(guarded.health.Watch(other, metadata=bearer("alice-1"), timeout=PATIENCE_S))
    ready = open_pb.ModelReadyRequest(name=WRITER)
    with refused(DENIED, words=WRITER):
        guarded.inference.ModelReady(ready, metadata=bearer("alice-1"), timeout=PATIENCE_S)


def test_a_priority_needs_its_permission(guarded: Served) -> None:
    urgent = pb.ClassifyRequest(model=MODEL, texts=["a fine film"], priority=1)
    with refused(DENIED, words="priority"):
        guarded.sequences.Classify(urgent, metadata=bearer("alice-1"), timeout=PATIENCE_S)
    request = open_pb.ModelInferRequest(model_name=MODEL)
    request.parameters["priority"].int64_param = 1
    with refused(DENIED, words="priority"):
        guarded.inference.ModelInfer(request, metadata=bearer("alice-1"), timeout=PATIENCE_S)


def test_a_large_message_is_refused_before_it_is_read(guarded: Served) -> None:
    received = _metric(guarded, "grpc_server_msg_received_total")
    body = b"\n" * (60 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(5):
        call: Any = guarded.channel.unary_unary("/lockstep.v1.Sequences/Classify")
        with refused(UNAUTHENTICATED):
            call(body, metadata=bearer("wrong"), timeout=PATIENCE_S)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    # Client and server share this process: the client holds one body at a time, the server none.
    assert grown_mib < 2 * 60 + 30
    assert _metric(guarded, "grpc_server_msg_received_total") == received


def test_refusals_and_admin_calls_are_audited_without_tokens(
    guarded: Served, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = _metric(guarded, "lockstep_auth_refused_total")
    guarded.app.guard.audit = Audit(guarded.app.metrics)  # may write: other tests were refused often
    with caplog.at_level(logging.DEBUG):
        with refused(UNAUTHENTICATED):
            guarded.sequences.Classify(TEXT, metadata=bearer("secret-guess"), timeout=PATIENCE_S)
        with refused(DENIED):
            guarded.sequences.Classify(TEXT, metadata=bearer("token-read"), timeout=PATIENCE_S)
        load = open_pb.RepositoryModelLoadRequest(model_name=MODEL)
        guarded.inference.RepositoryModelLoad(load, metadata=bearer("token-admin"), timeout=PATIENCE_S)
        wait_until(lambda: len(_audit(caplog)) >= 3, "audit lines")
    lines = [getattr(record, "fields") for record in _audit(caplog)]  # noqa: B009
    method = "/lockstep.v1.Sequences/Classify"
    assert {"caller": "", "method": method, "reason": "unknown"} in lines
    assert {"caller": "only-read", "method": method, "reason": "permission"} in lines
    path = "/inference.GRPCInferenceService/RepositoryModelLoad"
    assert {"caller": "only-admin", "method": path, "model": MODEL, "outcome": "ok"} in lines
    assert _metric(guarded, "lockstep_auth_refused_total") == refusals + 2
    written = " ".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert not [token for token in ("secret-guess", "token-read", "token-admin") if token in written]


def test_no_token_stands_in_a_metric_a_trace_or_an_error(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    spans = Spans(exporter)
    auth = write_auth(tmp_path / "auth.toml", CALLERS)
    server = Served(settings(REPOSITORY, only=MODEL, auth_file=auth), spans)
    try:
        wait_until(server.app.registry.ready, "models ready")
        server.sequences.Classify(TEXT, metadata=bearer("alice-1"), timeout=PATIENCE_S)
        with refused(UNAUTHENTICATED) as caught:
            server.sequences.Classify(TEXT, metadata=bearer("secret-guess"), timeout=PATIENCE_S)
        error = caught.value
        page = generate_latest(server.app.metrics.registry).decode()
    finally:
        server.close()  # exports the spans
    traces = " ".join(span.to_json() for span in exporter.get_finished_spans())
    assert "Classify" in traces
    for text in (page, traces, str(error.details()), str(error.trailing_metadata())):
        assert not [token for token in ("alice-1", digest("alice-1"), "secret-guess") if token in text]


def _audit(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "lockstep_server.audit"]


def test_a_revoked_caller_ends_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "auth.toml"
    both = "\n".join(f'[callers.{name}]\ntokens = ["{digest(name)}"]\n' for name in ("alice", "bob"))
    server = Served(_settings(write_auth(path, both)))
    try:
        wait_until(server.app.registry.ready, "models ready")
        endless = pb.GenerateRequest(model=WRITER, text="ROMEO:", max_tokens=512, temperature=0)
        watches = {
            name: server.health.Watch(health_pb2.HealthCheckRequest(), metadata=bearer(name))
            for name in ("alice", "bob")
        }
        for watch in watches.values():
            next(watch)
        ended = threading.Event()
        followed = server.sequences.Follow(_followed(ended), metadata=bearer("bob"), timeout=PATIENCE_S)
        assert next(followed).position == 1
        write_auth(path, "[callers.alice]\ntokens = [")
        server.run(_recheck(server))
        server.sequences.Classify(TEXT, metadata=bearer("bob"), timeout=PATIENCE_S)
        write_auth(path, both.split("[callers.bob]", maxsplit=1)[0])
        for stream in (watches["bob"], followed):
            with refused(UNAUTHENTICATED, words="not valid"):
                list(stream)
        ended.set()
        with refused(UNAUTHENTICATED, words="not valid"):
            server.sequences.Classify(TEXT, metadata=bearer("bob"), timeout=PATIENCE_S)
        assert watches["alice"].is_active()
        assert list(server.sequences.Generate(endless, metadata=bearer("alice"), timeout=PATIENCE_S))
        path.chmod(0o644)
        server.run(_recheck(server))
        server.sequences.Classify(TEXT, metadata=bearer("alice"), timeout=PATIENCE_S)
        watches["alice"].cancel()
    finally:
        server.close()


def _followed(ended: threading.Event) -> Iterator[pb.FollowRequest]:
    """The messages of a stream that goes on."""
    yield pb.FollowRequest(start=pb.FollowStart(model=WRITER))
    yield pb.FollowRequest(text="R ")
    ended.wait(PATIENCE_S)


async def _recheck(server: Served) -> None:
    server.app.guard.recheck()
    await asyncio.sleep(0)


def test_a_caller_that_the_file_lets_in_without_credentials(tmp_path: Path) -> None:
    auth = write_auth(
        tmp_path / "auth.toml", f'anonymous = ["health"]\n[callers.a]\ntokens = ["{digest("a")}"]\n'
    )
    with serve(REPOSITORY, only=MODEL, auth_file=auth) as server:  # waits with a Watch that has no token
        assert server.serving()
        with refused(UNAUTHENTICATED):
            server.sequences.Classify(TEXT, timeout=PATIENCE_S)
