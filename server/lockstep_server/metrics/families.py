"""What the server tells Prometheus: one registry, given in, so that tests have their own.

Base units; no ids in labels, and no names that callers make up. A model's children are looked up
once, when it becomes ready.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from .types import MetricsCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .types import HistogramMetric, ScalarMetric

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SHORT_SECONDS = (0.0001, 0.00025, *_SECONDS[:-3])
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LENGTHS = (16, 64, 256, 1024)
_LENGTH_LABELS = (*map(str, _LENGTHS), "more")

_OUTCOMES, _REFUSALS = ("ok", "failed", "deadline", "unavailable"), ("overloaded", "unavailable")
"""Told as 0 from the start: what is counted before the first scrape is in no rate."""

STATES = ("running", "waiting", "idle")
"""Of a step-wise sequence, in the order of `port.Population`."""


def length_bucket(length: int) -> str:
    """The label of a request's length: its upper bound, or "more"."""
    return _LENGTH_LABELS[bisect_left(_LENGTHS, length)]


class Metrics:
    """Every family that the server has. `counting`: else what is counted goes nowhere."""

    def __init__(self, registry: CollectorRegistry | None = None, *, counting: bool = True) -> None:
        self.registry = registry = registry or CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        collector = MetricsCollector(registry, counting=counting)
        self._requests(collector)
        self._streams(collector)
        self._runs(collector)
        self._models(collector)
        self._server(collector)
        self._rpcs(collector)

    def _requests(self, collector: MetricsCollector) -> None:
        one = ("model", "version", "method")
        self.accepted = collector.counter("lockstep_accepted_total", "Requests accepted.", *one)
        self.requests = collector.counter(
            "lockstep_requests_total",
            "Accepted requests that have ended, by outcome. Accepted less ended is the queue depth.",
            *one,
            "outcome",
        )
        self.refused = collector.counter(
            "lockstep_refused_total",
            "Requests refused at the door, by meaning. Model and version are empty where a caller's name"
            " for them is not known here.",
            *one,
            "code",
        )
        self.request_seconds = collector.histogram(
            "lockstep_request_seconds",
            "Seconds from acceptance to the end of a request.",
            _SECONDS,
            "model",
            "method",
        )
        self.queue_seconds = collector.histogram(
            "lockstep_queue_seconds",
            "Seconds from acceptance to the start of a request's first run.",
            _SECONDS,
            "model",
            "mode",
        )
        self.compute_seconds = collector.histogram(
            "lockstep_compute_seconds",
            "Seconds in the session of all runs that a request took part in, by its length in elements.",
            _SECONDS,
            "model",
            "mode",
            "length",
        )
        self.queue_depth = collector.gauge(
            "lockstep_queue_depth", "Requests accepted and not ended.", "model"
        )

    def _streams(self, collector: MetricsCollector) -> None:
        self.tokens = collector.counter(
            "lockstep_tokens_total", "Tokens sent to the callers of Generate and Translate.", "model"
        )
        self.first_token_seconds = collector.histogram(
            "lockstep_first_token_seconds",
            "Seconds from acceptance to the sending of a stream's first token.",
            _SECONDS,
            "model",
        )
        self.inter_token_seconds = collector.histogram(
            "lockstep_inter_token_seconds",
            "Seconds between two tokens of a stream. Tokens sent together share the time since those before.",
            _SHORT_SECONDS,
            "model",
        )
        self.sequences = collector.scraped(
            "lockstep_sequences",
            "Step-wise sequences: running, waiting for a slot, or idle (not fed, or not read).",
            "model",
            "state",
        )
        self.slots = collector.scraped(
            "lockstep_slots", "Step-wise sequences that may be alive at one time.", "model"
        )
        self.flush_interval = collector.scraped(
            "lockstep_flush_interval_seconds", "Seconds for which tokens may be held back at present."
        )

    def _runs(self, collector: MetricsCollector) -> None:
        self.batch_rows = collector.histogram("lockstep_batch_rows", "Rows in a run.", _ROWS, "model", "mode")
        self.run_seconds = collector.histogram(
            "lockstep_run_seconds",
            "Seconds of a run in the session. The sum's rate is the share of time in which the model runs.",
            _SHORT_SECONDS,
            "model",
            "mode",
        )
        self.run_cost = collector.scraped(
            "lockstep_run_cost_seconds",
            "Seconds that a run of these rows and this length takes, as measured and learned.",
            "model",
            "mode",
            "rows",
            "length",
        )
        self.elements = collector.counter("lockstep_elements_total", "Real elements computed.", "model")
        self.padded = collector.counter(
            "lockstep_padded_elements_total", "Elements paid for: rows times the longest.", "model"
        )
        self.device_wait = collector.histogram(
            "lockstep_gate_wait_seconds", "Seconds that a run waited for its device.", _SECONDS, "device"
        )

    def _models(self, collector: MetricsCollector) -> None:
        one = ("model", "version")
        self.ready = collector.scraped(
            "lockstep_model_ready", "1 while the model version answers, 0 while it does not.", *one
        )
        self.state = collector.scraped(
            "lockstep_model_state",
            "1 for the state that the model version is in, 0 for the others.",
            *one,
            "state",
        )
        self.load_seconds = collector.scraped(
            "lockstep_model_load_seconds",
            "Seconds that loading took, its self-test and the measuring of its costs included.",
            *one,
        )
        self.batched = collector.scraped(
            "lockstep_model_batched", "1 where the self-test allows requests to share runs, else 0.", *one
        )
        self.provider = collector.scraped(
            "lockstep_execution_provider_info", "1 for the ONNX Runtime provider in use.", "model", "provider"
        )
        self.estimated_wait = collector.scraped(
            "lockstep_estimated_wait_seconds",
            "Seconds that a one-shot request accepted now should wait.",
            "model",
        )
        self.queue_limit = collector.scraped(
            "lockstep_queue_limit_seconds",
            "Seconds of estimated wait above which one-shot requests are refused.",
            "model",
        )

    def _server(self, collector: MetricsCollector) -> None:
        self.build = collector.scraped(
            "lockstep_build_info", "1, with the versions of the server and its runtime.",
            "version", "onnxruntime",
        )  # fmt: skip
        self.draining = collector.scraped(
            "lockstep_draining", "1 once the server has been told to stop, else 0."
        )
        self.loop_lag = collector.histogram(
            "lockstep_event_loop_lag_seconds",
            "Seconds from an engine's sending of its news to the event loop's taking them in.",
            _SHORT_SECONDS,
        ).labels()
        self.engine_up = collector.scraped(
            "lockstep_engine_up", "1 while the engines can be reached, else 0."
        )
        self.engine_restarts = collector.counter(
            "lockstep_engine_restarts_total",
            "Times that the engine process ended by itself. It is started again each time.",
        ).labels()
        self.leases = collector.scraped(
            "lockstep_device_permits", "Runs that the device takes at one time.", "device"
        )
        told = "by generation; as told at the scrape before."
        self.engine_gc = {
            key: collector.scraped(
                f"lockstep_engine_gc_{name}_total", f"{text} in the engine process, {told}", "generation"
            )
            for key, name, text in (
                ("collections", "collections", "Times that garbage was collected"),
                ("collected", "objects_collected", "Objects collected as garbage"),
                ("uncollectable", "objects_uncollectable", "Objects found that cannot be collected"),
            )
        }

    def _rpcs(self, collector: MetricsCollector) -> None:
        labels = ("grpc_type", "grpc_service", "grpc_method")
        self.grpc_started = collector.counter("grpc_server_started_total", "RPCs started.", *labels)
        self.grpc_handled = collector.counter(
            "grpc_server_handled_total", "RPCs ended, by status code.", *labels, "grpc_code"
        )
        self.grpc_received = collector.counter(
            "grpc_server_msg_received_total", "Messages received.", *labels
        )
        self.grpc_sent = collector.counter("grpc_server_msg_sent_total", "Messages sent.", *labels)
        self.grpc_seconds = collector.histogram(
            "grpc_server_handling_seconds", "Seconds from the start to the end of an RPC.", _SECONDS, *labels
        )

    def watch_engine(self, pid: Callable[[], int]) -> None:
        """Tell of the engine process's CPU, memory and files too; `pid` is 0 where there is none."""
        ProcessCollector(namespace="lockstep_engine", pid=pid, registry=self.registry)


class ModelMeters:
    """The children of one mode of a model version, looked up once."""

    def __init__(
        self,
        metrics: Metrics,
        model: str,
        version: int,
        device: str,
        mode: str = "oneshot",
        methods: Sequence[str] = (),
    ) -> None:
        self._metrics, self._labels = metrics, (model, str(version))
        self._by_method: dict[str, tuple[ScalarMetric, HistogramMetric]] = {}
        self._outcomes: dict[tuple[str, str], ScalarMetric] = {}
        for method in methods:
            metrics.accepted.labels(*self._labels, method)
            for outcome in _OUTCOMES:
                metrics.requests.labels(*self._labels, method, outcome)
            for code in _REFUSALS:
                metrics.refused.labels(*self._labels, method, code)
        self.queue = metrics.queue_seconds.labels(model, mode)
        self.compute = {label: metrics.compute_seconds.labels(model, mode, label) for label in _LENGTH_LABELS}
        self._runs: dict[str, tuple[HistogramMetric, HistogramMetric]] = {}
        self.elements = metrics.elements.labels(model)
        self.padded = metrics.padded.labels(model)
        self.depth = metrics.queue_depth.labels(model)
        self.device_wait = metrics.device_wait.labels(device)

        if {"Generate", "Translate"} & set(methods):
            self._tokens = metrics.tokens.labels(model)
            self._first_token = metrics.first_token_seconds.labels(model)
            self._inter_token = metrics.inter_token_seconds.labels(model)

    def record_run(self, mode: str, rows: int, compute_s: float) -> None:
        """A run of one mode: a step-wise model's prompts are runs of their own."""
        known = self._runs.get(mode)
        if known is None:
            model = self._labels[0]
            known = self._runs[mode] = (
                self._metrics.batch_rows.labels(model, mode),
                self._metrics.run_seconds.labels(model, mode),
            )
        known[0].observe(rows)
        known[1].observe(compute_s)

    def record_first_token(self, seconds: float, trace_id: str) -> None:
        """A stream's first tokens, `seconds` after it was accepted."""
        if trace_id:
            self._first_token.observe_traced(seconds, trace_id)
        else:
            self._first_token.observe(seconds)

    def record_later_tokens(self, tokens: int, seconds: float) -> None:
        """Later tokens of a stream, `seconds` apart."""
        self._inter_token.observe(seconds, tokens)

    def record_tokens(self, tokens: int) -> None:
        self._tokens.inc(tokens)

    def record_accepted(self, method: str) -> None:
        self._method(method)[0].inc()
        self.depth.inc()

    def record_ended(self, method: str, outcome: str, seconds: float, trace_id: str) -> None:
        child = self._outcomes.get((method, outcome))
        if child is None:
            child = self._metrics.requests.labels(*self._labels, method, outcome)
            self._outcomes[method, outcome] = child
        child.inc()
        if trace_id:
            self._method(method)[1].observe_traced(seconds, trace_id)
        else:
            self._method(method)[1].observe(seconds)
        self.depth.inc(-1)

    def record_refused(self, method: str, code: str, requests: int = 1) -> None:
        self._metrics.refused.labels(*self._labels, method, code).inc(requests)

    def _method(self, method: str) -> tuple[ScalarMetric, HistogramMetric]:
        known = self._by_method.get(method)
        if known is None:
            known = self._by_method[method] = (
                self._metrics.accepted.labels(*self._labels, method),
                self._metrics.request_seconds.labels(self._labels[0], method),
            )
        return known
