"""No single call, model file or fault stops the server: durations, runs and loads without an end, engine
threads that end, an engine process that hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
import steps
from integration.harness import Served, Stubs, refused, serve, settings
from patience import PATIENCE_S, wait_until

from lockstep_client.metrics_text import scrape
from lockstep_client.server_process import ServerProcess
from lockstep_server.api import inflight
from lockstep_server.engine.runtime import engine_threads, run_watch
from lockstep_server.frontend import loop_watch
from lockstep_server.ipc import engine_process, heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENDLESS = 10**12
ENGINES = pytest.mark.parametrize("engine", ["process", "thread"])


def slow_request(times: int) -> Any:
    return fakes.request("slow", {"x": ("FP32", np.ones(1)), "times": ("INT64", np.array(times))})


def ask_identity(server: Served) -> None:
    request = fakes.request("identity", {"x": ("FP32", np.ones((1, 1)))})
    assert fakes.values(server.infer(request), "y").tolist() == [[1.0]]


def step(server: Served, sequence: int, **more: Any) -> list[Any]:
    request = fakes.request(
        "adder",
        {"x": ("FP32", np.ones((1, 2)))},
        sequence_id=sequence,
        sequence_start=True,
        sequence_end=True,
        **more,
    )
    found: list[Any] = fakes.values(server.infer(request), "y").tolist()
    return found


@pytest.fixture
def slow_model(tmp_path: Path) -> Path:
    fakes.write_model(tmp_path, "slow", fakes.slow())
    fakes.write_model(tmp_path, "identity", fakes.identity())
    return tmp_path


def test_the_longest_timeouts_count_as_none(tmp_path: Path, serving: Callable[..., Served]) -> None:
    steps.adder(tmp_path)
    server = serving(tmp_path)
    assert step(server, 1, timeout=2**63 - 1) == [[1.0, 1.0]]
    infer: Any = server.channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer", request_serializer=lambda one: one.SerializeToString()
    )
    request = fakes.request("adder", {"x": ("FP32", np.ones((1, 2)))}, sequence_id=2, sequence_start=True)
    infer(request, metadata=(("grpc-timeout", "99999999H"),))
    assert step(server, 3) == [[1.0, 1.0]]
    assert server.metric("lockstep_engine_thread_restarts_total") == 0


def test_an_engine_thread_that_ends_makes_its_model_not_serving_until_it_is_restarted(
    tmp_path: Path, serving: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.adder(tmp_path)
    fakes.write_model(tmp_path, "identity", fakes.identity())
    monkeypatch.setattr(engine_threads, "_MIN_PAUSE_S", PATIENCE_S)
    server = serving(tmp_path)
    engine = server.engine("adder")

    def end(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(engine, "_run", end)
    with refused(grpc.StatusCode.INTERNAL):
        step(server, 1)
    wait_until(lambda: not server.serving("adder"), "NOT_SERVING")
    assert server.serving()
    ask_identity(server)
    with refused(grpc.StatusCode.UNAVAILABLE, words="restarted"):
        step(server, 2)
    assert server.metric("lockstep_engine_thread_restarts_total", model="adder") == 1
    assert server.metric("lockstep_model_ready", model="adder") == 0
    monkeypatch.undo()
    engine._threads._stop_pauses.set()  # the pause is over
    wait_until(lambda: server.serving("adder"), "SERVING")
    assert step(server, 3) == [[1.0, 1.0]]


@ENGINES
def test_a_run_without_an_end_is_ended_and_fails_by_itself(
    engine: str, slow_model: Path, serving: Callable[..., Served]
) -> None:
    server = serving(slow_model, engine=engine, max_run_s=0.5)
    call = server.inference.ModelInfer.future(slow_request(ENDLESS), timeout=PATIENCE_S)
    while not call.done():
        ask_identity(server)
    with refused(grpc.StatusCode.INTERNAL, words="max_run_s"):
        call.result()
    server.infer(slow_request(1))
    assert server.metric("lockstep_engine_hangs_total") == 0


def endless(root: Path, name: str) -> None:
    """A model whose graph loops for hours, whatever it is given."""
    model = fakes.slow()
    model.graph.input.pop()
    model.graph.input[0].CopyFrom(fakes.tensor("x", shape=("n", 1)))
    model.graph.output[0].CopyFrom(fakes.tensor("y", shape=("n", 1)))
    model.graph.initializer.append(fakes.constant("times", ENDLESS, np.int64))
    fakes.write_model(root, name, model, manifest="[inputs.x]\nbatch_axis = 0\n[outputs.y]\nbatch_axis = 0\n")


@ENGINES
def test_a_load_without_an_end_is_given_up_and_others_are_loaded_meanwhile(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless(tmp_path, "a-endless")
    fakes.write_model(tmp_path, "identity", fakes.identity())
    monkeypatch.setattr(run_watch, "SLOW_LOAD_S", 0.0)  # with threads: nobody waits for the limit
    monkeypatch.setattr(run_watch, "SLOW_RUN_S", 0.0)
    with starting(tmp_path, engine=engine, max_run_s=PATIENCE_S if engine == "thread" else 0.5) as server:
        wait_until(lambda: server.serving("identity"), "the sound model is served")
        ask_identity(server)
        if engine == "process":
            server.wait_serving()
            with refused(grpc.StatusCode.NOT_FOUND, words="--max-run-s"):
                server.infer(fakes.request("a-endless", {"x": ("FP32", np.ones((1, 1)))}))


@contextmanager
def starting(models: Path, **more: Any) -> Iterator[Served]:
    """A server that has listed its models, and may still load them."""
    server = Served(settings(models, **more))
    try:
        yield server
    finally:
        server.close()


def test_a_pipe_among_the_files_of_a_model_fails_that_model(tmp_path: Path) -> None:
    for name in ("model.onnx", "weights.bin"):
        folder = tmp_path / f"a-{name}" / "1"
        folder.mkdir(parents=True)
        os.mkfifo(folder / name)
    fakes.write_model(tmp_path, "identity", fakes.identity())
    with serve(tmp_path) as server:
        ask_identity(server)
        with refused(grpc.StatusCode.NOT_FOUND, words="neither a file nor a folder"):
            server.infer(fakes.request("a-weights.bin", {"x": ("FP32", np.ones(1))}))


@ENGINES
def test_a_server_with_an_endless_run_stops_in_time(engine: str, slow_model: Path) -> None:
    flags = ("--models", str(slow_model), "--engine", engine, "--drain-s", "0.1")
    with ServerProcess(*flags) as server:
        server.wait_listening(PATIENCE_S)
        stubs = Stubs(server.address)
        stubs.wait_serving()
        call = stubs.inference.ModelInfer.future(slow_request(ENDLESS), timeout=PATIENCE_S)
        wait_until(lambda: _accepted(server) > 0, "the run is accepted")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
        call.cancel()


def _accepted(server: ServerProcess) -> float:
    page = scrape(server.metrics_address, PATIENCE_S)
    return sum(value for _, value in page.select("lockstep_accepted_total"))


def test_a_hung_engine_process_is_replaced_and_health_says_so(
    slow_model: Path, serving: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serving(slow_model, engine="process")
    monkeypatch.setattr(heartbeat, "_TICK_S", 0.2)
    seen: set[bool] = set()
    watching = threading.Event()

    def watch() -> None:
        while not watching.wait(0.01):
            seen.add(server.serving("identity"))

    thread = threading.Thread(target=watch)
    thread.start()
    os.kill(server.transport.pid, signal.SIGSTOP)
    with refused(grpc.StatusCode.UNAVAILABLE, words="did not answer"):
        ask_identity(server)
    wait_until(lambda: False in seen, "NOT_SERVING")
    server.wait_serving()
    watching.set()
    thread.join()
    ask_identity(server)
    assert server.metric("lockstep_engine_hangs_total") == 1
    assert server.metric("lockstep_engine_restarts_total") == 1


def test_liveness_says_when_the_engine_process_cannot_be_started_again(
    slow_model: Path, serving: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serving(slow_model, engine="process")
    start = subprocess.Popen

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(engine_process, "_CRASH_LOOP_S", 0.0)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    os.kill(server.transport.pid, signal.SIGKILL)
    wait_until(lambda: not server.serving("live"), "live is NOT_SERVING")
    monkeypatch.setattr(subprocess, "Popen", start)
    wait_until(lambda: server.serving("live"), "live is SERVING")
    server.wait_serving()
    ask_identity(server)


def any_rank(root: Path) -> None:
    """A model that takes tensors of any rank."""
    graph = fakes.identity()
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.ClearField("shape")
    fakes.write_model(root, "any", graph)


def test_a_shape_of_many_axes_is_refused_by_their_number(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    any_rank(tmp_path)
    server = serving(tmp_path)
    request = fakes.request("any", {"x": ("FP32", np.ones(1))})
    request.inputs[0].shape[:] = [2**62] * 60_000
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "x", words="60000 axes"):
        server.infer(request)


def test_large_tensors_go_and_come_in_all_forms(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "identity", fakes.identity())
    server = serving(tmp_path)
    sent = np.random.default_rng(1).standard_normal((300, 200)).astype(np.float32)
    for typed in (False, True):
        request = fakes.request("identity", {"x": ("FP32", sent)}, typed=typed)
        assert np.array_equal(fakes.values(server.infer(request), "y"), sent)
        (reply,) = server.inference.ModelStreamInfer(iter([request]), timeout=PATIENCE_S)
        assert np.array_equal(fakes.values(reply.infer_response, "y"), sent)


def test_bytes_that_are_no_message_are_refused_counted_and_logged_without_a_traceback(
    tmp_path: Path, serving: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    fakes.write_model(tmp_path, "identity", fakes.identity())
    server = serving(tmp_path)
    caplog.set_level("INFO")
    services = ("inference.GRPCInferenceService/ModelInfer", "grpc.health.v1.Health/Check")
    for method in services:
        unary: Any = server.channel.unary_unary(f"/{method}")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "request"):
            unary(b"\xff\xff\xff", timeout=PATIENCE_S)
    for method in (
        "inference.GRPCInferenceService/ModelStreamInfer",
        "lockstep.v1.Sequences/Follow",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ):
        stream: Any = server.channel.stream_stream(f"/{method}")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "request"):
            list(stream(iter([b"\xff\xff\xff"]), timeout=PATIENCE_S))
    assert server.metric("lockstep_refused_total", method="ModelInfer", code="bad_input") == 1
    assert server.metric("grpc_server_handled_total", grpc_method="Follow", grpc_code="INVALID_ARGUMENT") == 1
    assert not [record for record in caplog.records if record.exc_info]


def test_ids_and_names_are_bounded_and_not_logged(
    tmp_path: Path, serving: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    steps.adder(tmp_path)
    server = serving(tmp_path)
    caplog.set_level("INFO")
    name = "patient Doe"
    ended: Any = {"sequence_start": True, "sequence_end": True}
    made_up: Any = {f"triton_{name}": True}
    x: dict[str, Any] = {"x": ("FP32", np.ones((1, 2)))}
    server.infer(fakes.request("adder", x, sequence_id=name, **ended))
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words="has ended"):
        server.infer(fakes.request("adder", x, sequence_id=name))
    for wrong in (
        fakes.request("adder", x, sequence_id=name * 100, **ended),
        fakes.request("adder", x, request_id=name * 100, sequence_id=1, **ended),
        fakes.request("adder", x, **made_up),
        fakes.request("adder", {name: x["x"]}, sequence_id=1, **ended),
        fakes.request("adder", x, sequence_id=1, version=name * 100),
    ):
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            server.infer(wrong)
    with refused(grpc.StatusCode.NOT_FOUND, words="1100 characters"):
        server.infer(fakes.request(name * 100, x))
    logged = [f"{record.getMessage()} {getattr(record, 'fields', '')}" for record in caplog.records]
    assert len(logged) >= 7
    assert not [line for line in logged if "Doe" in line]


def test_a_busy_event_loop_is_measured_and_what_it_does_is_logged(
    tmp_path: Path, serving: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    fakes.write_model(tmp_path, "identity", fakes.identity())
    server = serving(tmp_path)

    async def hold_up_everybody() -> None:
        time.sleep(4 * loop_watch.LATE_S)  # noqa: ASYNC251

    def is_logged() -> bool:
        server.run(hold_up_everybody())
        return "in: hold_up_everybody (test_limits.py" in caplog.text

    wait_until(is_logged, "the log names the function")
    late = server.metric("lockstep_event_loop_delay_seconds_count") - server.metric(
        "lockstep_event_loop_delay_seconds_bucket", le="0.25"
    )
    assert late >= 1


def test_a_stream_whose_reader_stops_is_bounded_in_bytes_and_ended(
    tmp_path: Path, serving: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write_model(tmp_path, "identity", fakes.identity())
    monkeypatch.setattr(inflight, "MAX_UNWRITTEN_BYTES", 1 << 20)
    server = serving(tmp_path, max_stall_s=1.0)
    request = fakes.request("identity", {"x": ("FP32", np.ones((256, 1024)))})  # 1 MB
    stop, asked = threading.Event(), 0

    def requests() -> Iterator[Any]:
        nonlocal asked
        while not stop.is_set():
            asked += 1
            yield request

    call = server.inference.ModelStreamInfer(requests(), timeout=PATIENCE_S)
    next(call)
    handled = "grpc_server_handled_total"
    wait_until(lambda: server.metric(handled, grpc_method="ModelStreamInfer") == 1, "the stream is ended")
    accepted = server.metric("lockstep_accepted_total", model="identity")
    stop.set()
    assert accepted < 40  # the first 16, and what fits the buffers of both sides
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words="max_stall_s"):
        list(call)


def test_requests_in_flight_are_bounded_in_bytes(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "identity", fakes.identity())
    server = serving(tmp_path, max_inflight_mb=2, max_message_mb=4)
    large = fakes.request("identity", {"x": ("FP32", np.ones((512, 1024)))})  # 2 MB
    with server.hold():
        first = server.inference.ModelInfer.future(large, timeout=PATIENCE_S)
        wait_until(lambda: server.metric("lockstep_queue_depth", model="identity") == 1, "one in flight")
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, words="max_inflight_mb"):
            server.infer(large)
    assert first.result().model_name == "identity"
    server.infer(large)
    _check_that_messages_on_their_way_are_bounded(server)


def _check_that_messages_on_their_way_are_bounded(server: Served) -> None:
    """While the process seems to grow, of six calls whose messages do not come, one goes on."""
    arriving: Any = server.app._server._arriving
    resident, grown = arriving._resident_bytes, threading.Event()
    arriving._resident_bytes = lambda: resident() + (grown.is_set() << 30)
    sent = threading.Event()
    path = "/inference.GRPCInferenceService/ModelInfer"
    ask: Any = server.channel.stream_unary(path, request_serializer=lambda one: one.SerializeToString())

    def messages() -> Iterator[Any]:
        sent.wait()
        yield fakes.request("identity", {"x": ("FP32", np.ones((1, 1024)))})

    calls = [ask.future(messages(), timeout=PATIENCE_S) for _ in range(6)]
    wait_until(lambda: len(arriving.calls) == 6, "the calls have begun")
    # What is there before the first check that finds them slow is not theirs.
    newest = max(call.begun for call in list(arriving.calls))
    wait_until(lambda: arriving._clock() - newest > 1, "the calls are slow")
    grown.set()
    wait_until(lambda: sum(call.done() for call in calls) == 5, "the newest are refused")
    assert {call.code() for call in calls if call.done()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    arriving._resident_bytes = resident
    sent.set()
    assert sum(call.code() is grpc.StatusCode.OK for call in calls) == 1


def test_a_run_that_finds_no_memory_fails_by_itself(tmp_path: Path, serving: Callable[..., Served]) -> None:
    graph = fakes.model(
        [
            fakes.helper.make_node("Expand", ["one", "size"], ["many"]),
            fakes.helper.make_node("ReduceSum", ["many"], ["y"], keepdims=0),
        ],
        [fakes.tensor("size", "INT64", (1,))],
        [fakes.tensor("y", shape=())],
        [fakes.constant("one", [1], np.float32)],
    )
    fakes.write_model(tmp_path, "hungry", graph)
    server = serving(tmp_path)

    def ask(size: int) -> Any:
        return server.infer(fakes.request("hungry", {"size": ("INT64", np.array([size]))}))

    with refused(grpc.StatusCode.INTERNAL):
        ask(2**45)
    assert fakes.values(ask(5), "y").tolist() == 5.0
