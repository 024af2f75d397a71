"""Cancels, deadlines, errors and overload affect only their own requests."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from integration.harness import Served, details, refused, serve
from patience import PATIENCE_S, wait_until

from lockstep_proto import open_inference_pb2 as pb
from lockstep_proto.v1 import sequences_pb2 as spb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOUR_ROWS = """
[inputs.x]
batch_axis = 0
[outputs.y]
batch_axis = 0
[batching]
max_rows = 4
"""
SHORT_QUEUE = "[batching]\nmax_queue_ms = 1e-6\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    fakes.write_model(root, "same", fakes.identity())
    fakes.write_model(root, "fragile", fakes.fragile())
    fakes.write_model(root, "narrow", fakes.identity(), FOUR_ROWS)
    fakes.write_model(root, "mixer", fakes.row_mixer())
    fakes.write_model(root, "impatient", fakes.identity(), SHORT_QUEUE)
    with serve(root, trusted_proxies="127.0.0.1,::1") as running:
        yield running


def send(server: Served, model: str, given: Any, **more: Any) -> Any:
    return server.inference.ModelInfer.future(fakes.floats(model, given, **more), timeout=PATIENCE_S)


def engine_threads(model: str) -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith(f"engine-{model}")}


def ids(given: list[int]) -> pb.ModelInferRequest:
    return fakes.request("fragile", {"x": ("INT64", given)})


def wait_found_out(server: Served) -> None:
    wait_until(
        lambda: server.metric("lockstep_batch_mismatch_total", model="contagious") == 1, "a found difference"
    )


def test_a_model_that_is_sometimes_wrong_in_company_is_found_out(tmp_path: Path) -> None:
    """The self-test cannot know the value that changes the answers of others; verification sees them."""
    fakes.write_model(tmp_path, "contagious", fakes.sometimes_contagious())
    fakes.write_model(tmp_path, "same", fakes.identity())

    def together(server: Served, *values: float) -> list[float]:
        with server.hold():
            calls = [send(server, "contagious", [[value, value]]) for value in values]
            server.wait_waiting("contagious", len(values))
        return [fakes.values(call.result(), "y")[0, 0] for call in calls]

    with serve(tmp_path, verify_share=1.0) as server:
        assert together(server, 1, 2, 3) == [1, 2, 3]
        wait_until(
            lambda: server.metric("lockstep_verified_answers_total", model="contagious") == 3,
            "a verification",
        )
        assert server.metric("lockstep_batch_mismatch_total", model="contagious") == 0
        assert together(server, 1, 50, 3) == [2, 51, 4]
        wait_found_out(server)
        assert together(server, 1, 50, 3) == [1, 51, 3]
        assert server.metric("lockstep_model_batched", model="contagious") == 0
        assert server.metric("lockstep_model_batched", model="same") == 1


def test_an_idle_model_verifies_its_latest_run(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "contagious", fakes.sometimes_contagious())
    with serve(tmp_path) as server:
        for first in (1, 50):  # the first shared run is verified at once
            with server.hold():
                calls = [send(server, "contagious", [[value, value]]) for value in (first, 1, 2)]
                server.wait_waiting("contagious", 3)
            assert [call.result() for call in calls]
        wait_found_out(server)


def test_a_model_that_drops_rows_gives_nobody_the_row_of_another(tmp_path: Path) -> None:
    """The self-test draws random numbers, so that only a real run can show that rows are missing."""
    fakes.write_model(tmp_path, "dropper", fakes.some_dropper())
    fakes.write_model(tmp_path, "same", fakes.identity())
    with serve(tmp_path) as server:
        assert server.metric("lockstep_model_batched", model="dropper") == 1
        for _ in range(2):
            with server.hold():
                calls = [send(server, "dropper", [[value, value]]) for value in (50, 1, 60, 2)]
                server.wait_waiting("dropper", 4)
            answers = [fakes.values(call.result(), "y").tolist() for call in calls]
            assert answers == [[], [[1, 1]], [], [[2, 2]]]
            assert all(call.result().parameters["batch_rows"].double_param == 1 for call in calls)
        rows = send(server, "dropper", [[value] for value in (50, 1, 60, 2)]).result()
        assert fakes.values(rows, "y").tolist() == [[1], [2]]
        assert server.metric("lockstep_model_batched", model="dropper") == 0
        assert server.metric("lockstep_batch_mismatch_total", model="dropper") == 1
        assert server.metric("lockstep_model_batched", model="same") == 1
        metadata = server.inference.ModelConfig(pb.ModelConfigRequest(name="dropper"))
        assert metadata.config.max_batch_size == 0


@pytest.mark.parametrize("cancelled", range(4))
def test_a_cancelled_request_does_not_affect_its_batch(server: Served, cancelled: int) -> None:
    with server.hold():
        calls = [send(server, "same", [[i, i]]) for i in range(4)]
        server.wait_waiting("same", 4)
        calls[cancelled].cancel()
        server.wait_held("same", 3)
    for i, call in enumerate(calls):
        if i != cancelled:
            assert fakes.values(call.result(), "y").tolist() == [[i, i]]
            assert call.result().parameters["batch_rows"].double_param == 3
    server.wait_idle()


def test_all_requests_of_a_batch_can_be_cancelled(server: Served) -> None:
    with server.hold():
        calls = [send(server, "same", [[i]]) for i in range(4)]
        server.wait_waiting("same", 4)
        for call in calls:
            call.cancel()
        wait_until(lambda: len(server.app.requests) == 0, "the cancels arrived")
    assert fakes.values(server.infer(fakes.floats("same", [[7]])), "y").item() == 7
    server.wait_idle()


def test_cancelled_texts_leave_nothing(shipped: Served) -> None:
    model = "sentiment-bow"
    with shipped.hold():
        call = shipped.sequences.Classify.future(spb.ClassifyRequest(model=model, texts=["good"] * 8))
        shipped.wait_waiting(model, 8)
        call.cancel()
        wait_until(lambda: len(shipped.app.requests) == 0, "the cancel arrived")
    shipped.wait_idle()


def test_a_queue_timeout_fails_its_request_only(server: Served) -> None:
    with server.hold():
        late = send(server, "same", [[1]], timeout=1000)
        others = [send(server, "same", [[i]]) for i in (2, 3)]
        server.wait_waiting("same", 3)
        passed = time.monotonic() + 0.001  # the timeout, in seconds, after it was accepted
        wait_until(lambda: time.monotonic() > passed, "the timeout has passed")
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED, words="queue"):
        late.result()
    assert [fakes.values(one.result(), "y").item() for one in others] == [2, 3]
    server.wait_idle()


def test_a_passed_call_deadline_is_counted_as_deadline_and_leaves_nothing(server: Served) -> None:
    """gRPC reports a passed deadline as a cancelled call; the metrics distinguish the two."""
    ended = ("deadline", "cancelled")
    before = [server.metric("lockstep_requests_total", model="same", outcome=outcome) for outcome in ended]
    with server.hold():
        late = server.inference.ModelInfer.future(fakes.floats("same", [[1]]), timeout=0.2)
        other = send(server, "same", [[2]])
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
            late.result()
        left = server.inference.ModelInfer.future(fakes.floats("same", [[1]]), timeout=PATIENCE_S)
        server.wait_waiting("same", 3)
        left.cancel()
        server.wait_held("same", 1)
    assert fakes.values(other.result(), "y").item() == 2
    server.wait_idle()
    after = [server.metric("lockstep_requests_total", model="same", outcome=outcome) for outcome in ended]
    assert [now - was for now, was in zip(after, before, strict=True)] == [1, 1]
    for code in ("DEADLINE_EXCEEDED", "CANCELLED"):
        assert server.metric("grpc_server_handled_total", grpc_method="ModelInfer", grpc_code=code) >= 1


def test_an_engine_error_fails_its_request_only(server: Served) -> None:
    with server.hold():
        calls = [
            server.inference.ModelInfer.future(ids(given), timeout=PATIENCE_S)
            for given in ([1], [99], [2, 3])
        ]
        server.wait_waiting("fragile", 3)
    assert fakes.values(calls[0].result(), "y").tolist() == [10]
    assert fakes.values(calls[2].result(), "y").tolist() == [20, 30]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, words="the model's table ends at 7") as caught:
        calls[1].result()
    assert "ONNXRuntimeError" not in caught.value.details()
    assert fakes.values(server.infer(ids([4])), "y").tolist() == [40]
    server.wait_idle()


def test_a_session_error_is_internal_with_a_log_id_and_no_details(server: Served, monkeypatch: Any) -> None:
    threads = engine_threads("mixer")

    def broken(*_: Any) -> None:
        raise RuntimeError("secret internals")

    monkeypatch.setattr("lockstep_server.engine.runtime.padding.stack", broken)
    with refused(grpc.StatusCode.INTERNAL, words="log id") as caught:
        server.infer(fakes.floats("mixer", [[1]]))
    monkeypatch.undo()
    assert "secret" not in caught.value.details()
    assert engine_threads("mixer") == threads
    assert fakes.values(server.infer(fakes.floats("mixer", [[1]])), "y").item() == 0


def test_a_planner_error_fails_its_requests_but_not_the_engine(server: Served, monkeypatch: Any) -> None:
    planned: list[int] = []

    def broken(waiting: list[Any], *_: Any) -> None:
        planned.append(len(waiting))
        raise ZeroDivisionError("in the planner")

    monkeypatch.setattr("lockstep_server.engine.oneshot.engine.plan", broken)
    for _ in range(2):
        with refused(grpc.StatusCode.INTERNAL, words="log id"):
            server.infer(fakes.floats("same", [[1]]))
    assert planned == [1, 1]  # failed requests are not planned again
    monkeypatch.undo()
    assert fakes.values(server.infer(fakes.floats("same", [[1]])), "y").item() == 1
    server.wait_idle()


@pytest.mark.parametrize("rows", [5, 8, 13])
def test_requests_above_max_rows_are_split_and_joined_in_order(server: Served, rows: int) -> None:
    sent = np.arange(3 * rows).reshape(rows, 3)
    before = server.metric("lockstep_batch_rows_bucket", model="narrow", le="4.0")
    everything = server.metric("lockstep_batch_rows_count", model="narrow")
    reply = server.infer(fakes.floats("narrow", sent))
    assert np.array_equal(fakes.values(reply, "y"), sent)
    assert reply.parameters["batch_rows"].double_param <= 4
    runs = server.metric("lockstep_batch_rows_count", model="narrow") - everything
    assert runs == -(-rows // 4)
    assert server.metric("lockstep_batch_rows_bucket", model="narrow", le="4.0") - before == runs


def test_a_cancelled_split_request_leaves_nothing(server: Served) -> None:
    with server.hold():
        call = send(server, "narrow", np.ones((9, 1)))
        server.wait_waiting("narrow", 3)
        call.cancel()
        wait_until(lambda: len(server.app.requests) == 0, "the cancel arrived")
    server.wait_idle()


def test_a_model_that_mixes_rows_is_served_unbatched(server: Served) -> None:
    with server.hold():
        calls = [send(server, "mixer", [[i], [i + 2]]) for i in range(3)]
        server.wait_waiting("mixer", 3)
    for call in calls:
        assert fakes.values(call.result(), "y").tolist() == [[-1], [1]]


def test_overload_is_rejected_with_a_retry_delay_while_health_answers(server: Served) -> None:
    with server.hold():
        first = send(server, "impatient", [[1]])
        server.wait_waiting("impatient", 1)
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, words="exceeds the limit") as caught:
            server.infer(fakes.floats("impatient", [[2]]))
        (retry,) = details(caught.value)
        assert isinstance(retry, error_details_pb2.RetryInfo)
        delay_ms = retry.retry_delay.ToMilliseconds()
        assert delay_ms > 0
        trailers = dict(caught.value.trailing_metadata())
        assert int(trailers["grpc-retry-pushback-ms"]) == delay_ms
        assert server.serving()
        assert server.serving("impatient")
        assert server.inference.ServerReady(pb.ServerReadyRequest()).ready
    assert fakes.values(first.result(), "y").item() == 1
    assert fakes.values(server.infer(fakes.floats("impatient", [[2]])), "y").item() == 2
    assert server.metric("lockstep_refused_total", model="impatient", code="overloaded") == 1


def test_a_request_that_cannot_meet_its_deadline_is_rejected_at_once(server: Served) -> None:
    with server.hold():
        first = send(server, "same", [[1]])
        server.wait_waiting("same", 1)
        admission = server.app.registry.get("same", 1).admission
        more = (0.3 / admission.pace, time.monotonic())
        admission.enter(*more, None, caller="@127.0.0.1")  # as if more work were queued
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, words="deadline") as caught:
            server.infer(fakes.floats("same", [[2]], timeout=100_000))
        assert any(isinstance(one, error_details_pb2.RetryInfo) for one in details(caught.value))
        admission.leave(*more, served=False, caller="@127.0.0.1")
    assert fakes.values(first.result(), "y").item() == 1


def test_a_caller_with_many_requests_does_not_delay_another(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With batches of four rows, the second caller's request is in one of the first 3 of 26 runs."""
    order: list[str] = []
    with server.hold():
        many = [send(server, "narrow", [[1]] * 4) for _ in range(25)]
        server.wait_waiting("narrow", 25)
        single = server.inference.ModelInfer.future(
            fakes.floats("narrow", [[2]] * 4), timeout=PATIENCE_S, metadata=[("x-forwarded-for", "10.0.0.2")]
        )
        server.wait_waiting("narrow", 26)
        deliver = server.app.requests.deliver

        def note(events: Any) -> None:
            order.extend(
                "many" if event.outputs["y"].item(0) == 1 else "single"
                for event in events.events
                if event.outputs
            )
            deliver(events)

        monkeypatch.setattr(server.app.requests, "deliver", note)
    single.result()
    for one in many:
        one.result()
    assert order.index("single") <= 2
