"""Spans of calls and their requests, for sampled traces only."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import pytest
import steps
from integration.harness import REPOSITORY, Served, refused, serve
from integration.test_process import process
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_grpc
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from patience import PATIENCE_S, wait_until

from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_server.frontend.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "vendor=1"))
UNSAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)
CLASSIFIER = "sentiment-gru"


class Traced:
    """A server with its in-memory span exporter."""

    def __init__(self, server: Served, spans: Spans, exporter: InMemorySpanExporter) -> None:
        self.server, self._spans, self._exporter = server, spans, exporter

    def spans(self, rpcs: int = 1) -> list[ReadableSpan]:
        """Waits for `rpcs` ended RPCs. Returns and clears the ended spans, by start time."""
        wait_until(lambda: len(self._roots()) >= rpcs, f"{rpcs} RPCs ended")
        found = sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        self._exporter.clear()
        return found

    def _roots(self) -> list[ReadableSpan]:
        self._spans._provider.force_flush()
        return [span for span in self._exporter.get_finished_spans() if span.kind is SpanKind.SERVER]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(REPOSITORY / CLASSIFIER, root / CLASSIFIER)
    steps.language(root)
    fakes.write_model(root, "same", fakes.identity())
    return root


@pytest.fixture(scope="module")
def started(root: Path) -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    spans = Spans(exporter, ratio=0.0)
    with serve(root, spans=spans) as server:
        yield Traced(server, spans, exporter)


@pytest.fixture
def traced(started: Traced) -> Traced:
    started._spans._provider.force_flush()
    started._exporter.clear()
    return started


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def named(spans: list[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def times(span: ReadableSpan) -> tuple[int, int]:
    """Start and end in nanoseconds."""
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def check_parents(spans: list[ReadableSpan], path: str) -> ReadableSpan:
    """Checks that the RPC span is a child of the caller's, and all others children of it, within its time."""
    (rpc,) = named(spans, path)
    assert rpc.context.trace_id == int(TRACE, 16)
    assert rpc.context.trace_state.get("vendor") == "1"
    assert rpc.parent is not None
    assert rpc.parent.span_id == int(PARENT, 16)
    begun, ended = times(rpc)
    for span in spans:
        if span is not rpc:
            assert span.parent is not None
            assert span.parent.span_id == rpc.context.span_id
            start, end = times(span)
            assert begun - 2e6 <= start <= end <= ended + 2e6
    return rpc


def test_a_one_shot_call_has_a_queue_and_a_batch_span(traced: Traced) -> None:
    request = pb.ClassifyRequest(model=CLASSIFIER, texts=["a fine film"])
    reply = traced.server.sequences.Classify(request, metadata=SAMPLED, timeout=PATIENCE_S)
    spans = traced.spans()
    rpc = check_parents(spans, "lockstep.v1.Sequences/Classify")
    assert attributes(rpc) == {
        "rpc.system": "grpc", "rpc.service": "lockstep.v1.Sequences", "rpc.method": "Classify",
        "rpc.grpc.status_code": 0, "lockstep.model.name": CLASSIFIER, "lockstep.model.version": "1",
        "lockstep.mode": "oneshot", "lockstep.field": "texts[0]", "lockstep.requests": 1,
    }  # fmt: skip
    queue, batch = named(spans, "queue"), named(spans, "batch")
    assert (len(queue), len(batch), len(spans)) == (1, 1, 3)
    assert queue[0].end_time == batch[0].start_time
    values = attributes(batch[0])
    assert (values["lockstep.length"], values["lockstep.rows"], values["lockstep.runs"]) == (3, 1.0, 1)
    start, end = times(batch[0])
    took = (end - start) / 1e9
    assert took == pytest.approx(reply.results[0].timings.compute_seconds, abs=1e-6)
    assert all(span.status.status_code is StatusCode.UNSET for span in spans)


def test_every_text_of_a_call_has_spans_up_to_a_limit(traced: Traced) -> None:
    request = pb.ClassifyRequest(model=CLASSIFIER, texts=["a film"] * 100)
    traced.server.sequences.Classify(request, metadata=SAMPLED, timeout=PATIENCE_S)
    spans = traced.spans()
    rpc = check_parents(spans, "lockstep.v1.Sequences/Classify")
    assert attributes(rpc)["lockstep.requests"] == 100
    batches = named(spans, "batch")
    assert len(batches) == 64
    assert len({attributes(span)["lockstep.field"] for span in batches}) == 64


def test_a_generation_has_queue_prefill_and_steps_spans(traced: Traced) -> None:
    request = pb.GenerateRequest(model="lm", text="abc", max_tokens=12)
    list(traced.server.sequences.Generate(request, metadata=SAMPLED, timeout=PATIENCE_S))
    spans = traced.spans()
    check_parents(spans, "lockstep.v1.Sequences/Generate")
    assert sorted(span.name for span in spans) == [
        "lockstep.v1.Sequences/Generate", "prefill", "queue", "steps",
    ]  # fmt: skip
    (prefill,), (stepping,) = named(spans, "prefill"), named(spans, "steps")
    assert prefill.end_time == stepping.start_time
    values = attributes(stepping)
    assert (values["lockstep.steps"], values["lockstep.length"], values["lockstep.end"]) == (11, 12, "length")
    assert values["lockstep.compute_seconds"] > 0


def test_client_steps_are_one_span(traced: Traced) -> None:
    start = pb.FollowRequest(start=pb.FollowStart(model=CLASSIFIER))
    sent = [start, *(pb.FollowRequest(text=f"{word} ") for word in ["it", "is", "fun", ",", "not", "sad"])]
    assert len(list(traced.server.sequences.Follow(iter(sent), metadata=SAMPLED, timeout=PATIENCE_S))) == 6
    spans = traced.spans()
    check_parents(spans, "lockstep.v1.Sequences/Follow")
    (stepping,) = named(spans, "steps")
    assert len(spans) == 2
    assert attributes(stepping)["lockstep.steps"] == 6
    assert attributes(stepping)["lockstep.rows"] == 1.0


def test_server_errors_set_the_span_status_and_client_errors_do_not(traced: Traced) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        traced.server.inference.ModelInfer(
            fakes.floats("nobody", [[1.0]]), metadata=SAMPLED, timeout=PATIENCE_S
        )
    (rpc,) = traced.spans()
    assert rpc.status.status_code is StatusCode.UNSET
    assert attributes(rpc)["error.type"] == "NOT_FOUND"
    assert attributes(rpc)["rpc.grpc.status_code"] == 5

    with traced.server.hold():
        late = fakes.floats("same", [[1.0]], timeout=1)
        call = traced.server.inference.ModelInfer.future(late, metadata=SAMPLED, timeout=PATIENCE_S)
        wait_until(lambda: call.done() or traced.server.waiting("same") == 1, "it waits")
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        call.result()
    rpc, queue = traced.spans()
    assert rpc.status.status_code is queue.status.status_code is StatusCode.ERROR
    assert queue.name == "queue"
    assert "deadline" in (queue.status.description or "")


def test_a_cancelled_call_ends_its_spans(traced: Traced) -> None:
    with traced.server.hold():
        call = traced.server.inference.ModelInfer.future(
            fakes.floats("same", [[1.0]]), metadata=SAMPLED, timeout=PATIENCE_S
        )
        traced.server.wait_waiting("same", 1)
        call.cancel()
        rpc, queue = traced.spans()
    assert attributes(rpc)["error.type"] == "CANCELLED"
    assert rpc.status.status_code is StatusCode.UNSET
    assert attributes(queue)["lockstep.outcome"] == "cancelled"


def test_unsampled_calls_and_health_checks_have_no_spans(traced: Traced) -> None:
    traced.server.inference.ModelInfer(fakes.floats("same", [[1.0]]), metadata=UNSAMPLED, timeout=PATIENCE_S)
    traced.server.infer(fakes.floats("same", [[1.0]]))  # the ratio is 0
    assert traced.server.serving("same")
    traced.server.inference.ModelInfer(fakes.floats("same", [[1.0]]), metadata=SAMPLED, timeout=PATIENCE_S)
    assert len(traced.spans()) == 3


def test_the_ratio_applies_to_calls_without_a_traceparent(root: Path) -> None:
    exporter = InMemorySpanExporter()
    spans = Spans(exporter, ratio=1.0)
    with serve(root, spans=spans, only="same") as server:
        server.infer(fakes.floats("same", [[1.0]]))
        server.inference.ModelInfer(fakes.floats("same", [[1.0]]), metadata=UNSAMPLED, timeout=PATIENCE_S)
        (rpc,) = Traced(server, spans, exporter)._roots()
        assert rpc.parent is None
        exemplar = format(rpc.context.trace_id, "032x")
        families = [
            one for one in server.app.metrics.registry.collect() if one.name == "lockstep_request_seconds"
        ]
        ids = {sample.exemplar.labels["trace_id"] for sample in families[0].samples if sample.exemplar}
        assert ids == {exemplar}


# --- export to a collector ------------------------------------------------------------------------


class Collector(collector_grpc.TraceServiceServicer):
    """An OTLP collector that keeps the exports."""

    def __init__(self) -> None:
        self.exports: list[collector.ExportTraceServiceRequest] = []

    def Export(self, request: Any, context: Any) -> Any:
        self.exports.append(request)
        return collector.ExportTraceServiceResponse()

    def spans(self) -> list[Any]:
        return [
            span
            for export in self.exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@contextmanager
def running_collector() -> Iterator[tuple[Collector, int]]:
    server, servicer = grpc.server(futures.ThreadPoolExecutor(2)), Collector()
    collector_grpc.add_TraceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer, port
    finally:
        server.stop(None).wait()


def test_all_spans_are_exported_before_the_server_exits(root: Path) -> None:
    with running_collector() as (collector_service, port):
        flags = ("--traces", "otlp", "--traces-endpoint", f"http://127.0.0.1:{port}")
        with process("--models", str(root), "--only", "same", *flags) as server:
            server.inference.ModelInfer(fakes.floats("same", [[1.0]]), metadata=SAMPLED, timeout=PATIENCE_S)
            server.process.send_signal(signal.SIGTERM)
            assert server.wait_end() == 0
        spans = collector_service.spans()
    assert sorted(span.name for span in spans) == [
        "batch", "inference.GRPCInferenceService/ModelInfer", "queue",
    ]  # fmt: skip
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    resource = collector_service.exports[0].resource_spans[0].resource
    assert {one.key: one.value.string_value for one in resource.attributes}["service.name"] == "lockstep"


def test_without_a_collector_the_server_serves_and_exits(root: Path) -> None:
    flags = ("--traces", "otlp", "--traces-endpoint", "http://127.0.0.1:1")
    with process("--models", str(root), "--only", "same", *flags) as server:
        for _ in range(20):
            server.infer(fakes.floats("same", [[1.0]]))
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_end() == 0
        assert not any("Traceback" in line for line in server.log), server.log
        assert any("spans could not be exported" in line for line in server.log)


_WITHOUT_OPENTELEMETRY = """
import sys
sys.modules["opentelemetry"] = None
sys.argv[0] = "lockstep-serve"
from lockstep_server.__main__ import main
main()
"""


def test_the_error_for_a_missing_package_names_the_extra(root: Path) -> None:
    command = [sys.executable, "-c", _WITHOUT_OPENTELEMETRY, "--models", str(root), "--port", "0"]
    ended = subprocess.run(
        [*command, "--metrics-port", "0", "--traces", "otlp"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 1
    assert "pip install 'lockstep-inference[traces]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_traces_opentelemetry_is_not_imported(root: Path) -> None:
    program = f"""
import asyncio, sys
from lockstep_server.app import App
from lockstep_server.settings import Settings
async def main():
    app = App(Settings(models={str(root)!r}, only="same", host="127.0.0.1", port=0, metrics_port=0, cache=""))
    await app.start()
    await app.stop()
asyncio.run(main())
assert not any(name.startswith("opentelemetry") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_S)
