"""All metric families of the server, registered in one registry that the caller may pass in.

Units are base units. Labels never hold ids or names invented by clients. `ModelMeters` looks up the
children of a model version once, when the model becomes ready.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from .types import MetricFactory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .types import Counter, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SHORT_SECONDS = (0.0001, 0.00025, *_SECONDS[:-3])
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LENGTHS = (16, 64, 256, 1024)
_LENGTH_LABELS = (*map(str, _LENGTHS), "more")

_OUTCOMES, _REFUSALS = ("ok", "failed", "deadline", "unavailable"), ("overloaded", "unavailable")
"""Exported as 0 from the start, because a rate misses everything counted before the first scrape."""

CALLER_REFUSALS = ("quota", "overloaded")
"""The error codes of requests that count as refused to their caller."""

STATES = ("running", "waiting", "idle")
"""States of a step-wise sequence, in the order of `messages.SequenceCounts`."""


class Metrics:
    """All metric families. With `enabled=False` they export nothing but zeros."""

    def __init__(self, registry: CollectorRegistry | None = None, *, enabled: bool = True) -> None:
        self.registry = registry = registry or CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        factory = MetricFactory(registry, enabled=enabled)
        self._create_requests(factory)
        self._create_streams(factory)
        self._create_runs(factory)
        self._create_models(factory)
        self._create_server(factory)
        self._create_rpcs(factory)

    def _create_requests(self, factory: MetricFactory) -> None:
        one = ("model", "version", "method")
        self.accepted = factory.counter("lockstep_accepted_total", "Requests accepted.", *one)
        self.requests = factory.counter(
            "lockstep_requests_total",
            "Accepted requests that have ended, by outcome.",
            *one,
            "outcome",
        )
        self.refused = factory.counter(
            "lockstep_refused_total",
            "Requests rejected on arrival, by error code. Model and version are empty if the request names"
            " an unknown model or version.",
            *one,
            "code",
        )
        self.auth_refused = factory.counter(
            "lockstep_auth_refused_total",
            "Calls refused for their credentials or permissions, by reason.",
            "reason",
        )
        self.caller_requests = factory.counter(
            "lockstep_caller_requests_total", "Requests accepted, by caller of the auth file.", "caller"
        )
        self.caller_tokens = factory.counter(
            "lockstep_caller_tokens_total",
            "Tokens (elements) that callers of the auth file sent, and got from Generate and Translate.",
            "caller",
        )
        self.caller_refused = factory.counter(
            "lockstep_caller_refused_total",
            "Requests of callers of the auth file that were refused, by reason: one of their permissions or"
            " limits, or overload.",
            "caller",
            "reason",
        )
        self.request_seconds = factory.histogram(
            "lockstep_request_seconds",
            "Seconds from the acceptance to the end of a request.",
            _SECONDS,
            "model",
            "method",
        )
        self.queue_seconds = factory.histogram(
            "lockstep_queue_seconds",
            "Seconds from the acceptance of a request to the start of its first run.",
            _SECONDS,
            "model",
            "mode",
        )
        self.compute_seconds = factory.histogram(
            "lockstep_compute_seconds",
            "Seconds of session time of all runs that included the request, by its length in elements.",
            _SECONDS,
            "model",
            "mode",
            "length",
        )
        self.queue_depth = factory.gauge(
            "lockstep_queue_depth", "Requests accepted and not yet ended.", "model"
        )

    def add_callers(self, names: Iterable[str]) -> None:
        """Export the usage of these callers, of the auth file, from 0 on."""
        for name in names:
            self.caller_requests.labels(name)
            self.caller_tokens.labels(name)
            for reason in CALLER_REFUSALS:
                self.caller_refused.labels(name, reason)

    def _create_streams(self, factory: MetricFactory) -> None:
        self.tokens = factory.counter(
            "lockstep_tokens_total", "Tokens sent to clients of Generate and Translate.", "model"
        )
        self.first_token_seconds = factory.histogram(
            "lockstep_first_token_seconds",
            "Seconds from the acceptance of a stream to its first token.",
            _SECONDS,
            "model",
        )
        self.inter_token_seconds = factory.histogram(
            "lockstep_inter_token_seconds",
            "Seconds between tokens of a stream. Tokens of one message share the time since the last one.",
            _SHORT_SECONDS,
            "model",
        )
        self.sequences = factory.scraped(
            "lockstep_sequences",
            "Step-wise sequences by state: running, waiting for a slot, or idle (waiting for the client)."
            " Each beam of a search that runs counts.",
            "model",
            "state",
        )
        self.slots = factory.scraped(
            "lockstep_slots", "Slots: the maximum number of live step-wise sequences and beams.", "model"
        )
        self.state_bytes = factory.scraped(
            "lockstep_state_bytes",
            "Bytes of the states of streams that step together, padding and vacant rows included.",
            "model",
        )
        self.flush_interval = factory.scraped(
            "lockstep_flush_interval_seconds", "Seconds for which tokens are currently buffered at most."
        )

    def _create_runs(self, factory: MetricFactory) -> None:
        self.batch_rows = factory.histogram(
            "lockstep_batch_rows", "Rows (requests or sequences) in a run.", _ROWS, "model", "mode"
        )
        self.run_seconds = factory.histogram(
            "lockstep_run_seconds",
            "Seconds of session time of a run. The rate of the sum is the time fraction the model runs.",
            _SHORT_SECONDS,
            "model",
            "mode",
        )
        self.run_cost = factory.scraped(
            "lockstep_run_cost_seconds",
            "Seconds that the planner expects a run of this shape to take, from measurements.",
            "model",
            "mode",
            "rows",
            "length",
        )
        self.elements = factory.counter(
            "lockstep_elements_total", "Elements of requests computed, without padding.", "model"
        )
        self.padded = factory.counter(
            "lockstep_padded_elements_total",
            "Elements computed, padding included: rows times longest row.",
            "model",
        )
        self.device_wait = factory.histogram(
            "lockstep_gate_wait_seconds", "Seconds that a run waited for the device.", _SECONDS, "device"
        )

    def _create_models(self, factory: MetricFactory) -> None:
        one = ("model", "version")
        self.ready = factory.scraped("lockstep_model_ready", "1 if the model version is ready, else 0.", *one)
        self.state = factory.scraped(
            "lockstep_model_state",
            "1 for the current state of the model version, 0 for all other states.",
            *one,
            "state",
        )
        self.load_seconds = factory.scraped(
            "lockstep_model_load_seconds",
            "Seconds that loading took, including the self-test and cost measurement.",
            *one,
        )
        self.batched = factory.scraped(
            "lockstep_model_batched", "1 if requests may share a run, else 0.", *one
        )
        self.verified = factory.counter(
            "lockstep_verified_answers_total",
            "Answers from shared runs that were computed again, each alone, and compared.",
            *one,
        )
        self.batch_mismatch = factory.counter(
            "lockstep_batch_mismatch_total",
            "Times that a run showed that requests of the model must not share a run.",
            *one,
        )
        self.moves = factory.counter(
            "lockstep_sequence_moves_total",
            "Live sequences that came from a peer (in), went to one (out), stayed because no peer took them"
            " (refused), or were lost because a peer was lost meanwhile.",
            "model",
            "result",
        )
        self.thread_restarts = factory.counter(
            "lockstep_engine_thread_restarts_total",
            "Times that a thread of the model's engine ended and was restarted.",
            *one,
        )
        self.provider = factory.scraped(
            "lockstep_execution_provider_info",
            "1 for the ONNX Runtime execution provider in use.",
            "model",
            "provider",
        )
        self.estimated_wait = factory.scraped(
            "lockstep_estimated_wait_seconds",
            "Seconds of estimated wait of a one-shot request accepted now.",
            "model",
        )
        self.queue_limit = factory.scraped(
            "lockstep_queue_limit_seconds",
            "Seconds of estimated wait above which one-shot requests are rejected.",
            "model",
        )

    def _create_server(self, factory: MetricFactory) -> None:
        self.build = factory.scraped(
            "lockstep_build_info", "Always 1. The labels are the versions of the server and ONNX Runtime.",
            "version", "onnxruntime",
        )  # fmt: skip
        self.draining = factory.scraped(
            "lockstep_draining", "1 if the server is shutting down and finishing its requests, else 0."
        )
        self.loop_lag = factory.histogram(
            "lockstep_event_loop_lag_seconds",
            "Seconds between an engine sending a result and the event loop processing it.",
            _SHORT_SECONDS,
        ).labels()
        self.loop_delay = factory.histogram(
            "lockstep_event_loop_delay_seconds",
            "Seconds until the event loop takes up a task: a probe every 100 ms.",
            (*_SHORT_SECONDS, 2.5, 5),
        ).labels()
        self.engine_up = factory.scraped("lockstep_engine_up", "1 if the engine can be reached, else 0.")
        self.engine_restarts = factory.counter(
            "lockstep_engine_restarts_total",
            "Restarts of the engine process after it died.",
        ).labels()
        self.engine_hangs = factory.counter(
            "lockstep_engine_hangs_total",
            "Times that the engine process did not answer, or a run or load did not end.",
        ).labels()
        self.front_end_restarts = factory.counter(
            "lockstep_frontend_restarts_total",
            "Restarts of front-end processes after they died.",
        ).labels()
        self.leases = factory.scraped(
            "lockstep_device_permits", "Maximum number of concurrent runs on the device.", "device"
        )
        self.engine_gc = {
            key: factory.scraped(
                f"lockstep_engine_gc_{name}_total",
                f"{help_} in the engine process, by generation, as of the previous scrape.",
                "generation",
            )
            for key, name, help_ in (
                ("collections", "collections", "Garbage collections"),
                ("collected", "objects_collected", "Objects freed by garbage collection"),
                ("uncollectable", "objects_uncollectable", "Uncollectable objects found"),
            )
        }

    def _create_rpcs(self, factory: MetricFactory) -> None:
        labels = ("grpc_type", "grpc_service", "grpc_method")
        self.grpc_started = factory.counter("grpc_server_started_total", "RPCs started.", *labels)
        self.grpc_handled = factory.counter(
            "grpc_server_handled_total", "RPCs completed, by status code.", *labels, "grpc_code"
        )
        self.grpc_received = factory.counter(
            "grpc_server_msg_received_total", "RPC messages received.", *labels
        )
        self.grpc_sent = factory.counter("grpc_server_msg_sent_total", "RPC messages sent.", *labels)
        self.grpc_seconds = factory.histogram(
            "grpc_server_handling_seconds",
            "Seconds from the start to the completion of an RPC.",
            _SECONDS,
            *labels,
        )

    def watch_engine(self, pid: Callable[[], int]) -> None:
        """Export CPU, memory and file descriptors of the engine process. `pid` returns 0 if there is none."""
        ProcessCollector(namespace="lockstep_engine", pid=pid, registry=self.registry)


class ModelMeters:
    """Metrics of one mode of a model version. Children are looked up once and kept."""

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
        self._by_method: dict[str, tuple[Counter, Histogram]] = {}  # accepted, request seconds
        self._outcomes: dict[tuple[str, str], Counter] = {}
        for method in methods:
            metrics.accepted.labels(*self._labels, method)
            for outcome in _OUTCOMES:
                metrics.requests.labels(*self._labels, method, outcome)
            for code in _REFUSALS:
                metrics.refused.labels(*self._labels, method, code)
        self.queue = metrics.queue_seconds.labels(model, mode)
        self._compute = [metrics.compute_seconds.labels(model, mode, label) for label in _LENGTH_LABELS]
        self._runs: dict[str, tuple[Histogram, Histogram]] = {}  # rows, seconds
        self.elements = metrics.elements.labels(model)
        self.padded = metrics.padded.labels(model)
        self.depth = metrics.queue_depth.labels(model)
        self.device_wait = metrics.device_wait.labels(device)
        self.verified = metrics.verified.labels(*self._labels)
        self.batch_mismatch = metrics.batch_mismatch.labels(*self._labels)
        self.thread_restarts = metrics.thread_restarts.labels(*self._labels)
        if {"Generate", "Translate"} & set(methods):
            self._tokens = metrics.tokens.labels(model)
            self._first_token = metrics.first_token_seconds.labels(model)
            self._inter_token = metrics.inter_token_seconds.labels(model)

    def record_run(self, mode: str, rows: int, compute_s: float) -> None:
        """Record a run. The prefill runs of a step-wise model have the mode "prefill"."""
        children = self._runs.get(mode)
        if children is None:
            model = self._labels[0]
            children = self._runs[mode] = (
                self._metrics.batch_rows.labels(model, mode),
                self._metrics.run_seconds.labels(model, mode),
            )
        children[0].observe(rows)
        children[1].observe(compute_s)

    def record_first_token(self, seconds: float, trace_id: str) -> None:
        """Record the first token of a stream, `seconds` after the stream was accepted."""
        if trace_id:
            self._first_token.observe_traced(seconds, trace_id)
        else:
            self._first_token.observe(seconds)

    def record_later_tokens(self, tokens: int, seconds: float) -> None:
        """Record later tokens of a stream, `seconds` apart on average."""
        self._inter_token.observe(seconds, tokens)

    def record_tokens(self, tokens: int) -> None:
        self._tokens.inc(tokens)

    def record_accepted(self, method: str) -> None:
        accepted, _ = self._by_method.get(method) or self._method(method)
        accepted.value += 1
        self.depth.value += 1

    def record_ended(self, method: str, outcome: str, seconds: float, trace_id: str) -> None:
        ended = self._outcomes.get((method, outcome))
        if ended is None:
            ended = self._metrics.requests.labels(*self._labels, method, outcome)
            self._outcomes[method, outcome] = ended
        ended.value += 1
        _, duration = self._by_method.get(method) or self._method(method)
        if trace_id:
            duration.observe_traced(seconds, trace_id)
        else:
            duration.observe(seconds)
        self.depth.value -= 1

    def record_timings(self, queue_s: float, compute_s: float, length: int) -> None:
        """Record how the time of a request of `length` elements was spent."""
        self.queue.observe(queue_s)
        self._compute[bisect_left(_LENGTHS, length)].observe(compute_s)

    def record_refused(self, method: str, code: str, requests: int = 1, account: str = "") -> None:
        """`account` is the caller's name in the auth file; "" if it is not in it."""
        self._metrics.refused.labels(*self._labels, method, code).inc(requests)
        if account and code in CALLER_REFUSALS:
            self._metrics.caller_refused.labels(account, code).inc(requests)

    def _method(self, method: str) -> tuple[Counter, Histogram]:
        children = self._by_method[method] = (
            self._metrics.accepted.labels(*self._labels, method),
            self._metrics.request_seconds.labels(self._labels[0], method),
        )
        return children
