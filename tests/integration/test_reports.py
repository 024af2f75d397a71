"""Metadata, configuration, statistics and metrics of the server."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import pytest
from integration.harness import Served, refused, serve
from onnx import helper
from patience import PATIENCE_S, wait_until

from lockstep_proto import model_config_pb2
from lockstep_proto import open_inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    fakes.write_model(root, "same", fakes.identity())
    fakes.write_model(root, "optional", fakes.with_optional())
    fakes.write_model(root, "mixer", fakes.row_mixer())
    fakes.write_model(root, "mean", fakes.masked_mean(), fakes.MASKED_MANIFEST)
    fakes.write_model(root, "wrong-mean", fakes.mean_over_padding(), fakes.MEAN_MANIFEST)
    fakes.write_model(root, "fragile", fakes.fragile())
    with serve(root) as running:
        yield running


def config(server: Served, name: str) -> Any:
    return server.inference.ModelConfig(pb.ModelConfigRequest(name=name)).config


def statistics(server: Served, name: str = "same") -> Any:
    (one,) = server.inference.ModelStatistics(pb.ModelStatisticsRequest(name=name)).model_stats
    return one


def test_the_server_names_itself_and_its_extensions(server: Served) -> None:
    reply = server.inference.ServerMetadata(pb.ServerMetadataRequest())
    assert reply.name == "lockstep"
    assert reply.version
    assert {"model_repository", "model_configuration", "statistics"} <= set(reply.extensions)


def test_metadata_contains_names_types_and_shapes(server: Served) -> None:
    reply = server.inference.ModelMetadata(pb.ModelMetadataRequest(name="same"))
    assert (reply.name, list(reply.versions)) == ("same", ["1"])
    assert [(t.name, t.datatype, list(t.shape)) for t in reply.inputs] == [("x", "FP32", [-1, -1])]
    assert [(t.name, t.datatype, list(t.shape)) for t in reply.outputs] == [("y", "FP32", [-1, -1])]


def test_metadata_omits_inputs_that_the_server_generates(server: Served) -> None:
    reply = server.inference.ModelMetadata(pb.ModelMetadataRequest(name="mean"))
    assert [t.name for t in reply.inputs] == ["x"]


def test_the_configuration_of_a_batched_model(server: Served) -> None:
    reply = config(server, "same")
    assert reply.max_batch_size == 64
    assert reply.HasField("dynamic_batching")
    assert not reply.model_transaction_policy.decoupled
    assert [(t.name, list(t.dims), t.data_type) for t in reply.input] == [
        ("x", [-1], model_config_pb2.TYPE_FP32)
    ]
    assert [(t.name, list(t.dims)) for t in reply.output] == [("y", [-1])]


def test_the_configuration_of_a_model_that_does_not_batch(server: Served) -> None:
    reply = config(server, "mixer")
    assert reply.max_batch_size == 0
    assert not reply.HasField("dynamic_batching")
    assert [list(t.dims) for t in reply.input] == [[-1, -1]]


def test_the_configuration_marks_optional_inputs(server: Served) -> None:
    assert {t.name: t.optional for t in config(server, "optional").input} == {"x": False, "bias": True}


def test_metadata_and_configuration_of_an_unknown_model_are_not_found(server: Served) -> None:
    calls = server.inference
    for call, request in (
        (calls.ModelMetadata, pb.ModelMetadataRequest(name="nobody")),
        (calls.ModelConfig, pb.ModelConfigRequest(name="nobody")),
        (calls.ModelStatistics, pb.ModelStatisticsRequest(name="nobody")),
    ):
        with refused(grpc.StatusCode.NOT_FOUND):
            call(request, timeout=PATIENCE_S)


def test_a_model_without_a_manifest_says_why_it_is_not_batched(tmp_path: Path) -> None:
    x, y = fakes.tensor("x", shape=("batch", 4)), fakes.tensor("y", shape=("rows", 4))
    graph = fakes.model([helper.make_node("Identity", ["x"], ["y"])], [x], [y])
    fakes.write_model(tmp_path, "bare", graph)
    fakes.write_model(tmp_path, "asked", graph, "[inputs.x]\nbatch_axis = 0\n[batching]\nmax_rows = 1\n")
    with serve(tmp_path) as server:
        index = server.inference.RepositoryIndex(pb.RepositoryIndexRequest())
        reasons = {model.name: model.reason for model in index.models}
    assert "x: 'batch', y: 'rows'" in reasons["bare"]
    assert "add a model.toml that sets batch_axis" in reasons["bare"]
    assert reasons["asked"] == ""


def test_a_failed_self_test_shows_in_replies_and_metrics(server: Served) -> None:
    reply = server.infer(fakes.floats("wrong-mean", [[1, 2, 3]]))
    assert fakes.values(reply, "y").tolist() == [2]
    assert "only requests of equal length share a run" in reply.parameters["notice"].string_param
    assert server.metric("lockstep_model_batched", model="wrong-mean") == 1
    assert server.metric("lockstep_model_batched", model="mean") == 1
    assert "notice" not in server.infer(fakes.floats("mean", [[1, 2, 3]])).parameters


def test_statistics_grow_with_every_request(server: Served) -> None:
    before = statistics(server)
    assert int(before.version) == 1
    for i in range(5):
        server.infer(fakes.floats("same", [[i], [i]]))
    after = statistics(server)
    assert after.inference_count - before.inference_count == 10
    assert after.execution_count - before.execution_count == 5
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        one, other = getattr(before.inference_stats, part), getattr(after.inference_stats, part)
        assert other.count - one.count == 5
        assert other.ns >= one.ns
    assert after.last_inference > 0
    assert sum(one.compute_infer.count for one in after.batch_stats) == after.execution_count


def test_statistics_count_failures(server: Served) -> None:
    before = statistics(server, "fragile").inference_stats.fail.count
    with pytest.raises(grpc.RpcError):
        server.infer(fakes.request("fragile", {"x": ("INT64", [99])}))
    assert statistics(server, "fragile").inference_stats.fail.count == before + 1


def test_statistics_without_a_name_cover_all_models(server: Served) -> None:
    found = server.inference.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
    assert {one.name for one in found} == {"same", "optional", "mixer", "mean", "wrong-mean", "fragile"}


def test_every_accepted_request_has_ended_exactly_once(server: Served) -> None:
    """After answers, failures, cancels and passed deadlines, with unary calls and streams."""
    for i in range(5):
        server.infer(fakes.floats("same", [[i]]))
    list(
        server.inference.ModelStreamInfer((fakes.floats("same", [[i]]) for i in range(7)), timeout=PATIENCE_S)
    )
    with pytest.raises(grpc.RpcError):
        server.infer(fakes.request("fragile", {"x": ("INT64", [99])}))
    with server.hold():
        leaving = [server.inference.ModelInfer.future(fakes.floats("same", [[i]])) for i in range(3)]
        server.wait_waiting("same", 3)
        for one in leaving:
            one.cancel()
        late = server.inference.ModelInfer.future(fakes.floats("same", [[1]], timeout=1), timeout=PATIENCE_S)
        wait_until(lambda: late.done() or server.waiting("same") == 4, "it waits")
        wait_until(lambda: len(server.app.requests) <= 1, "the cancels arrived")
    with pytest.raises(grpc.RpcError):
        late.result()
    server.wait_idle()
    for name in ("same", "fragile", "mean"):
        accepted = server.metric("lockstep_accepted_total", model=name)
        by_outcome = server.samples("lockstep_requests_total", model=name)
        assert accepted == sum(by_outcome.values())
    outcomes = server.samples("lockstep_requests_total", model="same", method="ModelInfer", version="1")
    assert outcomes["cancelled",] >= 3
    assert outcomes["ok",] >= 5
    assert server.metric("lockstep_queue_depth") == 0
    assert server.metric("lockstep_estimated_wait_seconds", model="same") == 0
    assert server.metric("lockstep_request_seconds_count", model="same") == server.metric(
        "lockstep_accepted_total", model="same"
    )


def test_rpcs_are_counted_by_code(server: Served) -> None:
    labels = {"grpc_method": "ModelInfer", "grpc_service": "inference.GRPCInferenceService"}
    before = {
        k: server.metric("grpc_server_handled_total", **labels, grpc_code=k) for k in ("OK", "NOT_FOUND")
    }
    server.infer(fakes.floats("same", [[1]]))
    with pytest.raises(grpc.RpcError):
        server.infer(fakes.floats("nobody", [[1]]))

    def count(code: str) -> float:
        return server.metric("grpc_server_handled_total", **labels, grpc_code=code) - before[code]

    wait_until(lambda: count("OK") == 1 and count("NOT_FOUND") == 1, "both were counted")
    assert server.metric("grpc_server_started_total", **labels) == server.metric(
        "grpc_server_handled_total", **labels
    )


def test_padded_elements_are_counted(server: Served) -> None:
    def count() -> tuple[float, float]:
        names = ("lockstep_elements_total", "lockstep_padded_elements_total")
        return tuple(server.metric(name, model="mean") for name in names)  # type: ignore[return-value]

    real, paid = count()
    with server.hold():
        calls = [
            server.inference.ModelInfer.future(fakes.floats("mean", [[1] * n]), timeout=PATIENCE_S)
            for n in (3, 4)
        ]
        server.wait_waiting("mean", 2)
    rows = [call.result().parameters["batch_rows"].double_param for call in calls]
    real, paid = count()[0] - real, count()[1] - paid
    assert real == 7
    assert paid == (8 if rows == [2, 2] else 7)


def test_healthz_answers_and_other_paths_are_not_found(server: Served) -> None:
    base = f"http://127.0.0.1:{server.app.metrics_port}"
    with urllib.request.urlopen(f"{base}/healthz", timeout=PATIENCE_S) as page:
        assert page.read() == b"ok\n"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{base}/nothing", timeout=PATIENCE_S)
    assert caught.value.code == 404
    caught.value.close()


def test_the_execution_provider_is_exported(server: Served) -> None:
    samples = server.samples("lockstep_execution_provider_info", model="same")
    assert samples == {("CPUExecutionProvider",): 1}
