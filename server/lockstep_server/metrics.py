"""What the server tells Prometheus: one registry, given in, so that tests have their own.

Base units; no ids in labels. A model's children are looked up once, when it becomes ready.
"""

from __future__ import annotations

import socketserver
import threading
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from . import tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .tally import Distribution, Family, Number

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SHORT_SECONDS = (0.0001, 0.00025, *_SECONDS[:-3])
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_STATES = ("running", "waiting", "idle")
_LENGTHS = (16, 64, 256, 1024)


def length_bucket(length: int) -> str:
    """The label of a request's length: its upper bound, or "more"."""
    return next((str(bound) for bound in _LENGTHS if length <= bound), "more")


class Metrics:
    """Every family that the server has."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Family[Number]:
            return tally.counter(registry, name, text, labels)

        def gauge(name: str, text: str, *labels: str) -> Family[Number]:
            return tally.gauge(registry, name, text, labels)

        def histogram(name: str, text: str, bounds: Sequence[float], *labels: str) -> Family[Distribution]:
            return tally.histogram(registry, name, text, labels, bounds)

        one = ("model", "version", "method")
        self.accepted = counter("lockstep_accepted_total", "Requests accepted into the queue.", *one)
        self.requests = counter(
            "lockstep_requests_total", "Accepted requests ended, by outcome.", *one, "outcome"
        )
        self.refused = counter(
            "lockstep_refused_total", "Requests refused at the door, by meaning.", *one, "meaning"
        )
        self.request_seconds = histogram(
            "lockstep_request_seconds",
            "Seconds from acceptance to the end of a request.",
            _SECONDS,
            "model",
            "method",
        )
        self.queue_seconds = histogram(
            "lockstep_queue_seconds", "Seconds from acceptance to the first run.", _SECONDS, "model", "face"
        )
        self.compute_seconds = histogram(
            "lockstep_compute_seconds",
            "Seconds in the session of the runs that a request took part in, by its length in elements.",
            _SECONDS, "model", "face", "length",
        )  # fmt: skip
        self.batch_rows = histogram("lockstep_batch_rows", "Rows in a run.", _ROWS, "model", "face")
        self.tokens = counter("lockstep_tokens_total", "Tokens made and handed to streams.", "model")
        self.first_token_seconds = histogram(
            "lockstep_first_token_seconds",
            "Seconds from acceptance to a stream's first token.",
            _SECONDS,
            "model",
        )
        self.inter_token_seconds = histogram(
            "lockstep_inter_token_seconds", "Seconds between two tokens of a stream.", _SHORT_SECONDS, "model"
        )
        self.sequences = gauge("lockstep_sequences", "Step-wise sequences, by state.", "model", "state")
        self.slots = gauge("lockstep_slots", "Sequences that may be alive at one time.", "model")
        self.elements = counter("lockstep_elements_total", "Real elements computed.", "model")
        self.padded = counter(
            "lockstep_padded_elements_total", "Elements paid for: rows times longest.", "model"
        )
        self.queue_depth = gauge("lockstep_queue_depth", "Requests accepted and not ended.", "model")
        self.estimated_wait = gauge(
            "lockstep_estimated_wait_seconds", "Seconds that a request accepted now should wait.", "model"
        )
        self.gate_wait = histogram(
            "lockstep_gate_wait_seconds", "Seconds that a run waited for its device.", _SECONDS, "device"
        )
        self.ready = gauge("lockstep_model_ready", "1 while the model version answers.", "model", "version")
        self.self_test = gauge(
            "lockstep_model_batched",
            "1 where the self-test allows requests to share runs.",
            "model",
            "version",
        )
        self.provider = gauge(
            "lockstep_execution_provider_info", "1 for the ONNX Runtime provider in use.", "model", "provider"
        )
        grpc_labels = ("grpc_type", "grpc_service", "grpc_method")
        self.grpc_started = counter("grpc_server_started_total", "RPCs started.", *grpc_labels)
        self.grpc_handled = counter("grpc_server_handled_total", "RPCs ended.", *grpc_labels, "grpc_code")
        self.grpc_received = counter("grpc_server_msg_received_total", "Messages received.", *grpc_labels)
        self.grpc_sent = counter("grpc_server_msg_sent_total", "Messages sent.", *grpc_labels)
        self.grpc_seconds = histogram(
            "grpc_server_handling_seconds", "Seconds from start to end of an RPC.", _SECONDS, *grpc_labels
        )


class ModelMeters:
    """The children of one model version, looked up once."""

    def __init__(
        self, metrics: Metrics, model: str, version: int, device: str, face: str = "oneshot", slots: int = 0
    ) -> None:
        self._metrics, self._labels = metrics, (model, str(version))
        self._by_method: dict[str, tuple[Number, Distribution]] = {}
        self._outcomes: dict[tuple[str, str], Number] = {}
        self.queue = metrics.queue_seconds.labels(model, face)
        self.compute = {
            label: metrics.compute_seconds.labels(model, face, label)
            for label in (*map(str, _LENGTHS), "more")
        }
        self._rows: dict[str, Distribution] = {}
        self.elements = metrics.elements.labels(model)
        self.padded = metrics.padded.labels(model)
        self.depth = metrics.queue_depth.labels(model)
        self.wait = metrics.estimated_wait.labels(model)
        self.gate_wait = metrics.gate_wait.labels(device)

        if slots:
            self._sequences = [metrics.sequences.labels(model, state) for state in _STATES]
            self._tokens = metrics.tokens.labels(model)
            self._first_token = metrics.first_token_seconds.labels(model)
            self._inter_token = metrics.inter_token_seconds.labels(model)
            metrics.slots.labels(model).set(slots)

    def rows(self, face: str) -> Distribution:
        """Of runs of one face: a step-wise model's prompts are runs of their own."""
        if face not in self._rows:
            self._rows[face] = self._metrics.batch_rows.labels(self._labels[0], face)
        return self._rows[face]

    def populated(self, sequences: Sequence[int]) -> None:
        """How many sequences run, wait and idle."""
        for gauge, count in zip(self._sequences, sequences, strict=True):
            gauge.set(count)

    def began(self, tokens: int, seconds: float) -> None:
        """A stream's first chunk, `seconds` after it was accepted."""
        self._first_token.observe(seconds)
        self._tokens.inc(tokens)

    def said(self, tokens: int, seconds: float) -> None:
        """A later chunk, of tokens `seconds` apart."""
        self._inter_token.observe(seconds, tokens)
        self._tokens.inc(tokens)

    def accepted(self, method: str) -> None:
        self._method(method)[0].inc()
        self.depth.inc()

    def ended(self, method: str, outcome: str, seconds: float) -> None:
        child = self._outcomes.get((method, outcome))
        if child is None:
            child = self._metrics.requests.labels(*self._labels, method, outcome)
            self._outcomes[method, outcome] = child
        child.inc()
        self._method(method)[1].observe(seconds)
        self.depth.inc(-1)

    def refused(self, method: str, meaning: str) -> None:
        self._metrics.refused.labels(*self._labels, method, meaning).inc()

    def _method(self, method: str) -> tuple[Number, Distribution]:
        known = self._by_method.get(method)
        if known is None:
            known = self._by_method[method] = (
                self._metrics.accepted.labels(*self._labels, method),
                self._metrics.request_seconds.labels(self._labels[0], method),
            )
        return known


class MetricsServer:
    """`/metrics` and `/healthz` over HTTP, on a thread.

    Raises:
        OSError: the port is taken.
    """

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, healthy: Callable[[], bool]
    ) -> None:
        self._server = make_server(host, port, _pages(registry, healthy), _Server, _Quiet)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _pages(registry: CollectorRegistry, healthy: Callable[[], bool]) -> Any:
    metrics = make_wsgi_app(registry)

    def pages(environ: dict[str, Any], respond: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, respond)
        status, body = ("200 OK", b"ok\n") if healthy() else ("503 Service Unavailable", b"not ready\n")
        if path != "/healthz":
            status, body = "404 Not Found", b"there are /metrics and /healthz\n"
        respond(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    return pages


class _Server(WSGIServer):
    # A second server must be told that the port is taken.
    allow_reuse_port = False

    def server_bind(self) -> None:
        # HTTPServer's own looks the host's name up, which can hang where there is no name service.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """A scrape is no news."""
