"""Spans: what a call and its requests went through, for who samples the trace; nothing for who does not."""

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
from integration.harness import REPOSITORY, Served, refused, serve, wait_until
from integration.test_process import process
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_grpc
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

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
    """A server whose spans are kept here."""

    def __init__(self, server: Served, spans: Spans, kept: InMemorySpanExporter) -> None:
        self.server, self._spans, self._kept = server, spans, kept

    def spans(self, rpcs: int = 1) -> list[ReadableSpan]:
        """Those that ended, once so many RPCs have; in the order of their beginnings."""
        wait_until(lambda: len(self._roots()) >= rpcs, f"{rpcs} RPCs ended")
        found = sorted(self._kept.get_finished_spans(), key=lambda span: span.start_time or 0)
        self._kept.clear()
        return found

    def _roots(self) -> list[ReadableSpan]:
        self._spans._provider.force_flush()
        return [span for span in self._kept.get_finished_spans() if span.kind is SpanKind.SERVER]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(REPOSITORY / CLASSIFIER, root / CLASSIFIER)
    steps.language(root)
    fakes.write_model(root, "same", fakes.identity())
    return root


@pytest.fixture(scope="module")
def started(root: Path) -> Iterator[Traced]:
    kept = InMemorySpanExporter()
    spans = Spans(kept, ratio=0.0)
    with serve(root, spans=spans) as server:
        yield Traced(server, spans, kept)


@pytest.fixture
def traced(started: Traced) -> Traced:
    started._spans._provider.force_flush()
    started._kept.clear()
    return started


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def named(spans: list[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def check_tree(spans: list[ReadableSpan], path: str) -> ReadableSpan:
    """One span of the RPC under the caller's; all others under it, within its time but for rounding."""
    (rpc,) = named(spans, path)
    assert rpc.context.trace_id == int(TRACE, 16)
    assert rpc.context.trace_state.get("vendor") == "1"
    assert rpc.parent is not None
    assert rpc.parent.span_id == int(PARENT, 16)
    for span in spans:
        if span is not rpc:
            assert span.parent is not None
            assert span.parent.span_id == rpc.context.span_id
            assert rpc.start_time - 2e6 <= span.start_time <= span.end_time <= rpc.end_time + 2e6
    return rpc


def test_a_one_shot_call_waits_and_runs(traced: Traced) -> None:
    request = pb.ClassifyRequest(model=CLASSIFIER, texts=["a fine film"])
    reply = traced.server.sequences.Classify(request, metadata=SAMPLED, timeout=60)
    spans = traced.spans()
    rpc = check_tree(spans, "lockstep.v1.Sequences/Classify")
    assert attributes(rpc) == {
        "rpc.system": "grpc", "rpc.service": "lockstep.v1.Sequences", "rpc.method": "Classify",
        "rpc.grpc.status_code": 0, "lockstep.model.name": CLASSIFIER, "lockstep.model.version": "1",
        "lockstep.mode": "oneshot", "lockstep.field": "texts[0]", "lockstep.requests": 1,
    }  # fmt: skip
    queue, batch = named(spans, "queue"), named(spans, "batch")
    assert (len(queue), len(batch), len(spans)) == (1, 1, 3)
    assert queue[0].end_time == batch[0].start_time
    told = attributes(batch[0])
    assert (told["lockstep.length"], told["lockstep.rows"], told["lockstep.runs"]) == (3, 1.0, 1)
    took = (batch[0].end_time - batch[0].start_time) / 1e9
    assert took == pytest.approx(reply.results[0].timings.compute_seconds, abs=1e-6)
    assert all(span.status.status_code is StatusCode.UNSET for span in spans)


def test_every_text_of_a_call_has_its_spans_up_to_a_bound(traced: Traced) -> None:
    request = pb.ClassifyRequest(model=CLASSIFIER, texts=["a film"] * 100)
    traced.server.sequences.Classify(request, metadata=SAMPLED, timeout=60)
    spans = traced.spans()
    rpc = check_tree(spans, "lockstep.v1.Sequences/Classify")
    assert attributes(rpc)["lockstep.requests"] == 100
    batches = named(spans, "batch")
    assert len(batches) == 64
    assert len({attributes(span)["lockstep.field"] for span in batches}) == 64


def test_a_decoding_is_queue_prefill_and_one_range_of_steps(traced: Traced) -> None:
    request = pb.GenerateRequest(model="lm", text="abc", max_tokens=12)
    list(traced.server.sequences.Generate(request, metadata=SAMPLED, timeout=60))
    spans = traced.spans()
    check_tree(spans, "lockstep.v1.Sequences/Generate")
    assert sorted(span.name for span in spans) == [
        "lockstep.v1.Sequences/Generate", "prefill", "queue", "steps",
    ]  # fmt: skip
    (prefill,), (stepping,) = named(spans, "prefill"), named(spans, "steps")
    assert prefill.end_time == stepping.start_time
    told = attributes(stepping)
    assert (told["lockstep.steps"], told["lockstep.length"], told["lockstep.end"]) == (11, 12, "length")
    assert told["lockstep.compute_seconds"] > 0


def test_the_steps_that_a_caller_feeds_are_one_span(traced: Traced) -> None:
    start = pb.FollowRequest(start=pb.FollowStart(model=CLASSIFIER))
    sent = [start, *(pb.FollowRequest(text=f"{word} ") for word in ["it", "is", "fun", ",", "not", "sad"])]
    assert len(list(traced.server.sequences.Follow(iter(sent), metadata=SAMPLED, timeout=60))) == 6
    spans = traced.spans()
    check_tree(spans, "lockstep.v1.Sequences/Follow")
    (stepping,) = named(spans, "steps")
    assert len(spans) == 2
    assert attributes(stepping)["lockstep.steps"] == 6
    assert attributes(stepping)["lockstep.rows"] == 1.0


def test_our_faults_are_errors_and_those_of_callers_are_told(traced: Traced) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        traced.server.inference.ModelInfer(fakes.floats("nobody", [[1.0]]), metadata=SAMPLED, timeout=60)
    (rpc,) = traced.spans()
    assert rpc.status.status_code is StatusCode.UNSET
    assert attributes(rpc)["error.type"] == "NOT_FOUND"
    assert attributes(rpc)["rpc.grpc.status_code"] == 5

    with traced.server.hold():
        late = fakes.floats("same", [[1.0]], timeout=1)
        call = traced.server.inference.ModelInfer.future(late, metadata=SAMPLED, timeout=60)
        wait_until(lambda: call.done() or traced.server.waiting("same") == 1, "it waits")
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        call.result()
    rpc, queue = traced.spans()
    assert rpc.status.status_code is queue.status.status_code is StatusCode.ERROR
    assert queue.name == "queue"
    assert "deadline" in (queue.status.description or "")


def test_who_leaves_ends_its_spans(traced: Traced) -> None:
    with traced.server.hold():
        call = traced.server.inference.ModelInfer.future(
            fakes.floats("same", [[1.0]]), metadata=SAMPLED, timeout=60
        )
        traced.server.wait_waiting("same", 1)
        call.cancel()
        rpc, queue = traced.spans()
    assert attributes(rpc)["error.type"] == "CANCELLED"
    assert rpc.status.status_code is StatusCode.UNSET
    assert attributes(queue)["lockstep.outcome"] == "cancelled"


def test_who_does_not_sample_has_no_spans_and_health_has_none(traced: Traced) -> None:
    traced.server.inference.ModelInfer(fakes.floats("same", [[1.0]]), metadata=UNSAMPLED, timeout=60)
    traced.server.infer(fakes.floats("same", [[1.0]]))  # the ratio is 0
    assert traced.server.serving("same")
    traced.server.inference.ModelInfer(fakes.floats("same", [[1.0]]), metadata=SAMPLED, timeout=60)
    assert len(traced.spans()) == 3


def test_the_ratio_samples_who_decides_nothing(root: Path) -> None:
    kept = InMemorySpanExporter()
    spans = Spans(kept, ratio=1.0)
    with serve(root, spans=spans, only="same") as server:
        server.infer(fakes.floats("same", [[1.0]]))
        server.inference.ModelInfer(fakes.floats("same", [[1.0]]), metadata=UNSAMPLED, timeout=60)
        (rpc,) = Traced(server, spans, kept)._roots()
        assert rpc.parent is None
        exemplar = format(rpc.context.trace_id, "032x")
        story = [
            one for one in server.app.metrics.registry.collect() if one.name == "lockstep_request_seconds"
        ]
        ids = {sample.exemplar.labels["trace_id"] for sample in story[0].samples if sample.exemplar}
        assert ids == {exemplar}


# --- to a collector -------------------------------------------------------------------------------


class Collector(collector_grpc.TraceServiceServicer):
    """Takes spans in as a collector does."""

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
def collecting() -> Iterator[tuple[Collector, int]]:
    server, servicer = grpc.server(futures.ThreadPoolExecutor(2)), Collector()
    collector_grpc.add_TraceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer, port
    finally:
        server.stop(None).wait()


def test_a_collector_has_every_span_once_the_server_has_ended(root: Path) -> None:
    with collecting() as (taken, port):
        flags = ("--traces", "otlp", "--traces-endpoint", f"http://127.0.0.1:{port}")
        with process("--models", str(root), "--only", "same", *flags) as server:
            server.inference.ModelInfer(fakes.floats("same", [[1.0]]), metadata=SAMPLED, timeout=60)
            server.process.send_signal(signal.SIGTERM)
            assert server.wait_end() == 0
        spans = taken.spans()
    assert sorted(span.name for span in spans) == [
        "batch", "inference.GRPCInferenceService/ModelInfer", "queue",
    ]  # fmt: skip
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    resource = taken.exports[0].resource_spans[0].resource
    assert {one.key: one.value.string_value for one in resource.attributes}["service.name"] == "lockstep"


def test_without_a_collector_the_server_serves_and_ends(root: Path) -> None:
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


def test_a_missing_package_is_told_with_its_extra(root: Path) -> None:
    command = [sys.executable, "-c", _WITHOUT_OPENTELEMETRY, "--models", str(root), "--port", "0"]
    ended = subprocess.run(
        [*command, "--metrics-port", "0", "--traces", "otlp"], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "lockstep-inference[traces]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_off_nothing_of_it_is_imported(root: Path) -> None:
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
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
