"""Metrics add up, with each other and with what callers saw."""

from __future__ import annotations

import shutil
import threading
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import onnx
import pytest
import steps
from integration.harness import FRONT_ENDS, REPOSITORY, Served, refused, serve
from onnx import numpy_helper
from patience import PATIENCE_S, wait_until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as classic

from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_server.api.status import CODES
from lockstep_server.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = (("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
CLASSIFIER = "sentiment-gru"
_CANCELLED = 12
BUSY = "[batching]\nmax_queue_ms = 1\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(REPOSITORY / CLASSIFIER, root / CLASSIFIER)
    steps.language(root)
    steps.language(root, "left")
    steps.translator(root)
    steps.adder(root)
    fakes.write_model(root, "same", fakes.identity())
    fakes.write_model(root, "fragile", fakes.fragile())
    fakes.write_model(root, "busy", fakes.slow(), BUSY)
    fakes.write_model(root, "broken", b"no graph")
    _without_numbers(steps.language(root, "faulty") / "prefill.onnx")
    return root


def _without_numbers(graph: Path) -> None:
    """Makes the embeddings of all ids but 0 NaN, so that the model loads and every request fails."""
    model = onnx.load(graph)
    for weight in model.graph.initializer:
        if weight.name == "E":
            broken = numpy_helper.to_array(weight).copy()
            broken[1:] = np.nan
            weight.CopyFrom(numpy_helper.from_array(broken, weight.name))
    onnx.save(model, graph)


@pytest.fixture(scope="module", params=["thread", "process", FRONT_ENDS])
def server(models: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    with serve(models, engine=request.param) as running:
        yield running


def scrape(server: Served, accept: str = "text/plain") -> str:
    url = f"http://127.0.0.1:{server.app.metrics_port}/metrics"
    with urllib.request.urlopen(
        urllib.request.Request(url, headers={"Accept": accept}), timeout=PATIENCE_S
    ) as page:
        text: str = page.read().decode()
    return text


# --- sums -----------------------------------------------------------------------------------------


class Callers:
    """Concurrent callers; counts the statuses that they see, by method."""

    def __init__(self, server: Served) -> None:
        self._server = server
        self._lock = threading.Lock()
        self.seen: Counter[tuple[str, str]] = Counter()
        self.tokens: Counter[str] = Counter()

    def record(self, method: str, call: Callable[[], Any]) -> Any:
        """Makes a call and counts its status. Returns the answer, or None."""
        answer, code = None, grpc.StatusCode.OK
        try:
            answer = call()
        except grpc.RpcError as error:
            code = error.code()
        with self._lock:
            self.seen[method, code.name] += 1
        return answer

    def infer(self, request: Any, timeout: float = 60) -> None:
        self.record("ModelInfer", lambda: self._server.infer(request, timeout))

    def classify(self, text: str, model: str = CLASSIFIER) -> None:
        request = pb.ClassifyRequest(model=model, texts=[text])
        self.record("Classify", lambda: self._server.sequences.Classify(request, timeout=PATIENCE_S))

    def generate(self, **more: Any) -> None:
        request = pb.GenerateRequest(**{"model": "lm", "text": "abc", "max_tokens": 25, **more})
        replies = self.record(
            "Generate", lambda: list(self._server.sequences.Generate(request, timeout=PATIENCE_S))
        )
        self._count_tokens("lm", replies)

    def translate(self, text: str) -> None:
        request = pb.TranslateRequest(model="translator", text=text)
        replies = self.record(
            "Translate", lambda: list(self._server.sequences.Translate(request, timeout=PATIENCE_S))
        )
        self._count_tokens("translator", replies)

    def _count_tokens(self, model: str, replies: Any) -> None:
        with self._lock:
            self.tokens[model] += sum(len(reply.tokens) for reply in replies or ())

    def cancel_stream(self, tokens: int) -> None:
        """Reads some tokens of a stream and cancels it."""
        stream = self._server.sequences.Generate(
            pb.GenerateRequest(model="left", text="abc", max_tokens=500), timeout=PATIENCE_S
        )
        taken = 0
        while taken < tokens:
            taken += len(next(stream).tokens)
        stream.cancel()
        with self._lock:
            self.tokens["left"] += taken


def run_mixed_calls(server: Served) -> Callers:
    """Makes calls that succeed, are rejected, fail, miss deadlines or are cancelled, concurrently."""
    callers = Callers(server)
    work: list[Callable[[], None]] = []
    for n in range(_CANCELLED):
        long = fakes.request("busy", {"x": ("FP32", [7]), "times": ("INT64", 60)})
        hasty = fakes.request("busy", {"x": ("FP32", [7]), "times": ("INT64", 60)}, timeout=2000)
        work += [
            lambda: callers.infer(fakes.floats("same", [[1.0, 2.0]])),
            partial(callers.infer, fakes.request("fragile", {"x": ("INT64", [n])})),  # fails from 8 on
            lambda: callers.infer(fakes.floats("same", [[1.0]], version="9")),
            lambda: callers.infer(fakes.floats("nobody", [[1.0]])),
            lambda: callers.infer(fakes.floats("broken", [[1.0]])),
            partial(callers.infer, long),
            partial(callers.infer, hasty),
            partial(callers.classify, "a fine film " * (n + 1)),
            lambda: callers.classify(" "),
            lambda: callers.classify("a fine film", model="same"),
            partial(callers.generate, max_tokens=5 * n, stop=["zz"] if n % 2 else []),
            lambda: callers.generate(top_p=7.0),
            lambda: callers.generate(model="faulty"),
            partial(callers.translate, "abc" * (n % 4 + 1)),
            lambda: callers.translate("x" * 400),
            partial(callers.cancel_stream, n + 1),
        ]
    with ThreadPoolExecutor(24) as pool:
        for done in [pool.submit(one) for one in work]:
            done.result()
    wait_until(lambda: server.in_flight() == 0, "no call in flight")
    return callers


def sum_by(server: Served, name: str, *labels: str) -> Counter[tuple[str, ...]]:
    """Sums a metric by the given labels; omits zeros."""
    found: Counter[tuple[str, ...]] = Counter()
    for family in classic(scrape(server)):
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels[label] for label in labels)] += int(sample.value)
    return +found


def test_counters_match_what_callers_saw(server: Served) -> None:
    """Accepted is ended, for each model and method; ended and refused is what callers were told, for
    each method and status; and tokens counted are tokens taken."""
    one, told_by = ("model", "version", "method"), {"requests": "outcome", "refused": "code"}

    def read() -> dict[str, Counter[tuple[str, ...]]]:
        found = {name: sum_by(server, f"lockstep_{name}_total", *one) for name in ("accepted", "requests")}
        for name, label in told_by.items():
            found[label] = sum_by(server, f"lockstep_{name}_total", "method", label)
        found["tokens"] = sum_by(server, "lockstep_tokens_total", "model")
        return found

    before = read()
    callers = run_mixed_calls(server)
    since = {name: now - before[name] for name, now in read().items()}

    assert since["accepted"] == since["requests"]
    ended: Counter[tuple[str, str]] = Counter()
    for label in told_by.values():
        for (method, why), count in since[label].items():
            ended[method, "OK" if why == "ok" else CODES[ErrorCode(why)].name] += count
    left = ended.pop(("Generate", "CANCELLED"), 0)
    ended["Generate", "OK"] -= _CANCELLED - left  # cancelled just after the stream had ended
    assert +ended == callers.seen
    assert {code for _, code in callers.seen} >= {
        "OK", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED",
    }  # fmt: skip

    tokens = {model: count for (model,), count in since["tokens"].items()}
    for model in ("lm", "translator"):
        assert tokens[model] == callers.tokens[model] > 0
    assert tokens["left"] >= callers.tokens["left"]


def test_gauges_are_zero_once_all_requests_have_ended(server: Served) -> None:
    run_mixed_calls(server)
    wait_until(lambda: server.metric("lockstep_sequences") == 0, "no sequence is alive")
    assert server.metric("lockstep_queue_depth") == 0
    assert server.metric("lockstep_estimated_wait_seconds") == 0
    seconds = server.metric("lockstep_request_seconds_count")
    assert seconds == server.metric("lockstep_accepted_total") == server.metric("lockstep_requests_total")
    for name in ("first_token", "inter_token"):
        assert 0 < server.metric(f"lockstep_{name}_seconds_count") <= server.metric("lockstep_tokens_total")
    runs = sum_by(server, "lockstep_batch_rows_count", "model", "mode")
    assert runs == sum_by(server, "lockstep_run_seconds_count", "model", "mode")
    assert runs["lm", "stepwise"] > 0
    assert runs["lm", "prefill"] > 0
    assert server.metric("lockstep_event_loop_lag_seconds_count") > 0


def test_unknown_names_do_not_become_labels(server: Served) -> None:
    server.infer(fakes.floats("same", [[1.0]]))
    with refused(grpc.StatusCode.NOT_FOUND):
        server.infer(fakes.floats("made-up-0", [[1.0]]))
    before = len(scrape(server).splitlines())
    for n in range(1, 20):
        with refused(grpc.StatusCode.NOT_FOUND):
            server.infer(fakes.floats(f"made-up-{n}", [[1.0]], version=str(n)))
        with refused(grpc.StatusCode.UNIMPLEMENTED):
            call: Any = server.channel.unary_unary(f"/lockstep.v1.Sequences/Made{n}")
            call(b"", timeout=PATIENCE_S)
    text = scrape(server)
    assert len(text.splitlines()) == before
    assert "made-up" not in text
    assert server.metric("lockstep_refused_total", model="", version="", code="not_found") >= 20


def test_an_unknown_version_is_counted_under_its_model(server: Served) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        server.infer(fakes.floats("same", [[1.0]], version="77"))
    assert server.metric("lockstep_refused_total", model="same", version="", code="not_found") >= 1


# --- exemplars ------------------------------------------------------------------------------------


def test_sampled_traces_are_exemplars_in_openmetrics_only(server: Served) -> None:
    server.sequences.Classify(
        pb.ClassifyRequest(model=CLASSIFIER, texts=["a film"]), metadata=SAMPLED, timeout=PATIENCE_S
    )
    request = pb.GenerateRequest(model="lm", text="abc", max_tokens=3)
    list(server.sequences.Generate(request, metadata=SAMPLED, timeout=PATIENCE_S))
    families = list(openmetrics(scrape(server, OPENMETRICS)))
    traced = {
        (sample.name, sample.labels["model"])
        for family in families
        for sample in family.samples
        if sample.exemplar is not None and sample.exemplar.labels == {"trace_id": TRACE}
    }
    assert traced == {
        ("lockstep_request_seconds_bucket", CLASSIFIER),
        ("lockstep_request_seconds_bucket", "lm"),
        ("lockstep_first_token_seconds_bucket", "lm"),
    }
    assert TRACE not in scrape(server)


def test_unsampled_traces_are_not_exemplars(server: Served) -> None:
    other = "ab" * 16
    for header in (f"00-{other}-00f067aa0ba902b7-00", f"{other}", ""):
        server.sequences.Classify(
            pb.ClassifyRequest(model=CLASSIFIER, texts=["a film"]),
            metadata=(("traceparent", header),),
            timeout=PATIENCE_S,
        )
    assert other not in scrape(server, OPENMETRICS)


# --- gauges ---------------------------------------------------------------------------------------


def test_every_version_has_a_ready_gauge_and_a_state(server: Served) -> None:
    ready = server.samples("lockstep_model_ready")
    assert ready == {(name, "1"): float(name != "broken") for name, _ in ready}
    assert {name for name, _ in ready} == {
        CLASSIFIER, f"{CLASSIFIER}.step", "lm", "left", "translator", "adder", "same", "fragile", "busy",
        "broken", "faulty",
    }  # fmt: skip
    states = sum_by(server, "lockstep_model_state", "model", "state")
    assert {state for model, state in states if model == "broken"} == {"unavailable"}
    assert states["same", "ready"] == 1
    assert len(server.samples("lockstep_model_state", model="broken")) == 4


def test_models_export_limits_costs_and_slots(server: Served) -> None:
    limits = server.samples("lockstep_queue_limit_seconds")
    assert limits["busy",] == 0.001
    assert limits.keys() == server.samples("lockstep_estimated_wait_seconds").keys()
    assert server.metric("lockstep_slots", model="adder") == 8
    cells = server.samples("lockstep_run_cost_seconds", model=CLASSIFIER, mode="oneshot")
    assert cells
    assert all(seconds > 0 for seconds in cells.values())
    assert server.metric("lockstep_model_load_seconds", model=CLASSIFIER) > 0


def test_the_server_exports_build_and_engine_gauges(server: Served) -> None:
    ((version, runtime),) = server.samples("lockstep_build_info")
    assert version
    assert runtime.split(".")[0].isdigit()
    assert server.metric("lockstep_draining") == 0
    assert server.metric("lockstep_engine_up") == 1
    assert server.samples("lockstep_engine_restarts_total") == {(): 0.0}
    assert server.metric("lockstep_device_permits", device="cpu") >= 1
    if server.app.settings.engine == "process":
        assert server.metric("lockstep_engine_process_resident_memory_bytes") > 1e6
        assert server.metric("lockstep_engine_process_cpu_seconds_total") > 0
        wait_until(
            lambda: len(server.samples("lockstep_engine_gc_collections_total")) == 3, "GC counts reported"
        )
    else:
        assert "lockstep_engine_process" not in scrape(server)
    assert "lockstep_gpu" not in scrape(server)


def test_every_lockstep_family_has_a_help_text(server: Served) -> None:
    """The help text is a sentence; for durations it begins with the unit."""
    for family in openmetrics(scrape(server, OPENMETRICS)):
        if family.name.startswith(("lockstep_engine_process_", "process_", "python_")):
            continue  # families of prometheus_client
        assert family.name.startswith(("lockstep_", "grpc_server_"))
        assert family.documentation.endswith("."), family.name
        if family.name.endswith("_seconds"):
            assert family.documentation.startswith("Seconds"), family.name


# --- turned off -----------------------------------------------------------------------------------


def test_without_metrics_nothing_is_counted_but_health_is_served(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "same", fakes.identity())
    with serve(tmp_path, metrics=False) as server:
        server.infer(fakes.floats("same", [[1.0]]))
        base = f"http://127.0.0.1:{server.app.metrics_port}"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{base}/metrics", timeout=PATIENCE_S)
        assert caught.value.code == 404
        assert b"--metrics" in caught.value.read()
        caught.value.close()
        with urllib.request.urlopen(f"{base}/healthz", timeout=PATIENCE_S) as page:
            assert page.read() == b"ok\n"
        assert server.app.metrics.registry.get_sample_value("lockstep_queue_depth", {"model": "same"}) == 0
