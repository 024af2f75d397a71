"""OpenTelemetry spans: one per RPC, with child spans for the phases of its requests.

A request's spans are made after it ended, from the timings in its event: `queue` for waiting, `batch`
for a one-shot run, `prefill` for the run of the prompt, `steps` from the first step to the last. All
client-driven steps of a call share one `steps` span. The engine does not take part.

This is the only module that imports OpenTelemetry, and it is imported only if spans are enabled.
"""

from __future__ import annotations

import logging
import threading
import time
from asyncio import to_thread
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .. import __version__
from .tracing import Trace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

    from .tracing import RequestSummary

log = logging.getLogger(__name__)

_CONTEXT = ("traceparent", "tracestate")
_SERVER_ERRORS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
"""Status codes that set a server span to ERROR, by OpenTelemetry's semantic conventions."""

_EXPORTERS = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.sdk._shared_internal",
)

_MAX_TRACED_REQUESTS = 64
"""Requests of one RPC that get spans: a call may have thousands of texts, a stream any number of requests."""


class Spans:
    """Starts RPC spans and exports ended ones on a background thread.

    Args:
        ratio: sampling ratio, from 0 to 1, for calls without a traceparent.
    """

    def __init__(self, exporter: SpanExporter, ratio: float = 1.0) -> None:
        resource = Resource.create({"service.name": "lockstep", "service.version": __version__})
        sampler = ParentBased(TraceIdRatioBased(ratio))
        self._provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("lockstep_server", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, path: str, metadata: Iterable[tuple[str, Any]]) -> Trace | None:
        """Start an RPC's span. None for calls that are not sampled and for health checks."""
        _, service, method = path.split("/")
        if service.startswith("grpc."):
            return None
        carrier = {key: value for key, value in metadata if key in _CONTEXT}
        span = self._tracer.start_span(
            path[1:],
            self._propagator.extract(carrier) if carrier else None,
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        return CallTrace(self._tracer, span) if span.is_recording() else None

    async def stop(self, within_s: float) -> None:
        """Export the remaining spans. Those not exported within `within_s` seconds are lost."""
        thread = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        thread.start()
        await to_thread(thread.join, within_s)
        if thread.is_alive():
            log.warning("the last spans could not be exported within %g s", within_s)


def otlp(endpoint: str) -> SpanExporter:
    """An exporter to an OTLP/gRPC collector; an `https://` endpoint uses TLS.

    A failed export is logged in one line, without a traceback.
    """
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    for name in _EXPORTERS:
        logging.getLogger(name).addFilter(_without_traceback)
    return OTLPSpanExporter(endpoint, insecure=not endpoint.startswith("https://"))


class CallTrace(Trace):
    """An RPC's span and the child spans of its requests."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        super().__init__(format_trace_id(span.get_span_context().trace_id))
        self._tracer, self._span = tracer, span
        self._context = set_span_in_context(span)
        self._requests = 0
        self._client_steps = _ClientSteps()

    def request_ended(self, request: RequestSummary) -> None:
        if not self._requests and self._span.is_recording():  # it may have ended already
            self._span.set_attributes(_model_attributes(request))
        self._requests += 1
        now_ns = time.time_ns()
        accepted_ns = now_ns - _ns(request.seconds)
        if request.client_driven:
            self._client_steps.add(request, accepted_ns, now_ns)
        elif self._requests <= _MAX_TRACED_REQUESTS:
            self._add_spans(request, accepted_ns, now_ns)

    def _add_spans(self, request: RequestSummary, accepted_ns: int, now_ns: int) -> None:
        event = request.event
        if event is None:
            self._child("queue", accepted_ns, now_ns, {"lockstep.outcome": request.outcome})
            return
        timings, attributes = event.timings, _model_attributes(request)
        first_ns = accepted_ns + _ns(timings.queue_s)
        error = event.error.message if event.error is not None else ""
        ran = timings.steps > 0 or timings.prefill_s > 0
        self._child("queue", accepted_ns, first_ns if ran else now_ns, attributes, "" if ran else error)
        if not ran:
            return
        attributes |= {"lockstep.length": event.length, "lockstep.rows": timings.rows}
        if not request.streams:
            attributes["lockstep.runs"] = timings.steps
            self._child("batch", first_ns, first_ns + _ns(timings.compute_s), attributes, error)
            return
        begun_ns = first_ns + _ns(timings.prefill_s)
        if timings.prefill_s:
            self._child("prefill", first_ns, begun_ns, attributes, error if not timings.steps else "")
        if timings.steps:
            attributes |= {"lockstep.steps": timings.steps, "lockstep.compute_seconds": timings.compute_s}
            attributes |= {"lockstep.end": event.reason or request.outcome}
            self._child("steps", begun_ns, now_ns, attributes, error)

    def call_ended(self, code: str, number: int) -> None:
        span = self._span
        steps = self._client_steps
        if steps.count:
            self._child("steps", steps.begun_ns, steps.ended_ns, steps.attributes(), steps.error)
        span.set_attribute("rpc.grpc.status_code", number)
        if self._requests:
            span.set_attribute("lockstep.requests", self._requests)
        if code != "OK":
            span.set_attribute("error.type", code)
        if code in _SERVER_ERRORS:
            span.set_status(Status(StatusCode.ERROR, code))
        span.end()

    def _child(
        self, name: str, begun_ns: int, ended_ns: int, attributes: dict[str, Any], error: str = ""
    ) -> None:
        span = self._tracer.start_span(name, self._context, attributes=attributes, start_time=begun_ns)
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(max(ended_ns, begun_ns))


class _ClientSteps:
    """The client-driven steps of one call, from the first to the last."""

    def __init__(self) -> None:
        self.count = self.begun_ns = self.ended_ns = 0
        self.error = ""
        self._compute_s = self._rows = 0.0
        self._model: dict[str, Any] = {}

    def add(self, request: RequestSummary, accepted_ns: int, now_ns: int) -> None:
        event = request.event
        if event is not None and event.error is not None:
            self.error = event.error.message
        if event is None or not event.timings.steps:
            return
        if not self.count:
            self.begun_ns = accepted_ns + _ns(event.timings.queue_s)
            self._model = _model_attributes(request)
        self.count += 1
        self.ended_ns = now_ns
        self._compute_s += event.timings.compute_s
        self._rows += event.timings.rows

    def attributes(self) -> dict[str, Any]:
        return self._model | {
            "lockstep.steps": self.count,
            "lockstep.compute_seconds": self._compute_s,
            "lockstep.rows": self._rows / self.count,
        }


def _model_attributes(request: RequestSummary) -> dict[str, Any]:
    spec = request.spec
    found: dict[str, Any] = {"lockstep.model.name": spec.model, "lockstep.model.version": str(spec.version)}
    found["lockstep.mode"] = spec.mode
    if request.field:
        found["lockstep.field"] = request.field
    return found


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True
