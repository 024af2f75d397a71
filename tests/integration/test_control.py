"""Health, readiness, versions, loading and unloading, reflection."""

from __future__ import annotations

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from integration.harness import REPOSITORY, Served, details, refused, settings
from onnx import helper
from patience import PATIENCE_S, wait_until

from lockstep_proto import open_inference_pb2 as pb
from lockstep_proto.v1 import sequences_pb2 as spb
from lockstep_server.app import App

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lockstep_server.settings import Settings

NOT_FOUND = grpc.StatusCode.NOT_FOUND


def add(amount: float) -> Any:
    return fakes.model(
        [helper.make_node("Add", ["x", "amount"], ["y"])],
        [fakes.tensor("x")], [fakes.tensor("y")], [fakes.constant("amount", amount, np.float32)],
    )  # fmt: skip


def answer(server: Served, version: str = "", model: str = "add") -> float:
    return fakes.values(server.infer(fakes.floats(model, [[0]], version=version)), "y").item()


def ready(server: Served, name: str, version: str = "") -> bool:
    return server.inference.ModelReady(pb.ModelReadyRequest(name=name, version=version)).ready


def load(server: Served, name: str) -> None:
    server.inference.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=PATIENCE_S)


def unload(server: Served, name: str) -> None:
    server.inference.RepositoryModelUnload(
        pb.RepositoryModelUnloadRequest(model_name=name), timeout=PATIENCE_S
    )


def test_a_server_with_models_is_live_ready_and_healthy(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    server = serving()
    assert server.inference.ServerLive(pb.ServerLiveRequest()).live
    assert server.inference.ServerReady(pb.ServerReadyRequest()).ready
    assert ready(server, "add")
    assert all(
        server.serving(name)
        for name in ("", "add", "inference.GRPCInferenceService", "lockstep.v1.Sequences")
    )
    with refused(NOT_FOUND):
        server.health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    with refused(NOT_FOUND):
        ready(server, "nobody")
    assert not ready(server, "add", "9")


def test_a_server_with_an_empty_repository_is_ready_and_healthy(tmp_path: Path) -> None:
    server = Served(settings(tmp_path))
    try:
        wait_until(server.app.registry.ready, "it is ready")
        server.wait_serving(timeout=PATIENCE_S)
    finally:
        server.close()


def test_the_highest_version_is_the_default_and_any_can_be_requested(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    for version in (1, 2, 10):
        fakes.write_model(tmp_path, "add", add(version), version=version)
    server = serving()
    assert [answer(server, version) for version in ("", "1", "2", "10")] == [10, 1, 2, 10]
    metadata = server.inference.ModelMetadata(pb.ModelMetadataRequest(name="add"))
    assert list(metadata.versions) == ["1", "2", "10"]
    with refused(NOT_FOUND, words="available: 1, 2, 10"):
        answer(server, "3")


def test_default_version_overrides_the_highest_version(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    for version in (1, 2):
        fakes.write_model(tmp_path, "add", add(version), "default_version = 1", version=version)
    server = serving()
    assert [answer(server, version) for version in ("", "1", "2")] == [1, 1, 2]


def test_a_broken_version_does_not_affect_the_other(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    fakes.write_model(tmp_path, "add", b"broken", version=2)
    server = serving()
    assert answer(server) == 1
    with refused(NOT_FOUND, words="is not served"):
        answer(server, "2")
    assert server.serving("add")


def test_a_version_can_have_its_own_manifest(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "add", add(1), "[batching]\nmax_rows = 3\n")
    folder = fakes.write_model(tmp_path, "add", add(2), version=2)
    own = "[inputs.x]\nbatch_axis = 0\n[outputs.y]\nbatch_axis = 0\n[batching]\nmax_rows = 5\n"
    (folder / "2" / "model.toml").write_text(own, encoding="utf-8")
    server = serving()
    configs = [
        server.inference.ModelConfig(pb.ModelConfigRequest(name="add", version=v)).config for v in ("1", "2")
    ]
    assert [config.max_batch_size for config in configs] == [0, 5]


def test_only_selected_models_are_served(tmp_path: Path, serving: Callable[..., Served]) -> None:
    for name in ("a", "b", "c"):
        fakes.write_model(tmp_path, name, add(1))
    server = serving(only="a, c")
    assert [one.name for one in server.inference.RepositoryIndex(pb.RepositoryIndexRequest()).models] == [
        "a",
        "c",
    ]


def test_model_control_is_off_by_default(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    server = serving()
    for change in (load, unload):
        with refused(grpc.StatusCode.PERMISSION_DENIED, words="--model-control"):
            change(server, "add")
    assert answer(server) == 1


def test_models_can_be_unloaded_and_loaded_again(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    fakes.write_model(tmp_path, "other", add(5))
    server = serving(model_control="explicit")
    unload(server, "add")
    assert not ready(server, "add")
    with refused(NOT_FOUND, words="unloaded"):
        answer(server)
    assert not server.serving("add")
    assert server.serving("other")
    assert server.metric("lockstep_model_ready", model="add") == 0
    fakes.write_model(tmp_path, "add", add(2))
    load(server, "add")
    assert ready(server, "add")
    assert server.serving("add")
    assert answer(server) == 2
    assert answer(server, model="other") == 5


def test_loading_replaces_a_loaded_model(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    server = serving(model_control="explicit")
    fakes.write_model(tmp_path, "add", add(2))
    fakes.write_model(tmp_path, "fresh", add(3))
    load(server, "add")
    load(server, "fresh")
    assert answer(server) == 2
    assert answer(server, model="fresh") == 3


@pytest.mark.parametrize("broken", ["1/model.onnx", "model.toml"])
def test_a_load_that_fails_leaves_the_loaded_version_serving(
    tmp_path: Path, serving: Callable[..., Served], broken: str
) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    server = serving(model_control="explicit")
    (tmp_path / "add" / broken).write_bytes(b"half")
    with refused(NOT_FOUND, words="failed to load"):
        load(server, "add")
    assert ready(server, "add")
    assert server.serving("add")
    assert answer(server) == 1


def test_a_corrupt_version_beside_a_good_one_is_named(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    server = serving(model_control="explicit")
    (tmp_path / "add/2").mkdir()
    (tmp_path / "add/2/model.onnx").write_bytes(b"half")
    with refused(NOT_FOUND, words="version 2 failed to load"):
        load(server, "add")
    assert answer(server) == 1


def test_each_load_reports_its_own_end(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    server = serving(model_control="explicit")
    request = pb.RepositoryModelLoadRequest(model_name="add")
    with server.hold():  # the first load waits for its self-test
        first = server.inference.RepositoryModelLoad.future(request, timeout=PATIENCE_S)
        wait_until(lambda: server.loaded_models.device_scheduler.waiting() > 0, "the first load's self-test")
        (tmp_path / "add/1/model.onnx").write_bytes(b"half")
        second = server.inference.RepositoryModelLoad.future(request, timeout=PATIENCE_S)
    assert first.result() == pb.RepositoryModelLoadResponse()
    assert second.code() is NOT_FOUND
    assert "version 1 failed to load" in second.details()


@pytest.mark.parametrize(("share", "expected"), [(0.0, True), (0.5, True), (0.51, False), (1.0, False)])
def test_readiness_can_require_a_share_of_the_versions(tmp_path: Path, share: float, expected: bool) -> None:
    fakes.write_model(tmp_path, "good", add(1))
    fakes.write_model(tmp_path, "broken", b"broken")
    server = Served(settings(tmp_path, require_models=share, model_control="explicit"))
    try:
        wait_until(server.app.registry.versions.settled, "every model is loaded or has failed")
        assert server.inference.ServerReady(pb.ServerReadyRequest()).ready is expected
        wait_until(lambda: server.serving() is expected, "the health of the server")
        assert server.serving("good")
        fakes.write_model(tmp_path, "broken", add(2))
        load(server, "broken")
        unload(server, "good")  # on purpose, so it is not missing
        assert server.inference.ServerReady(pb.ServerReadyRequest()).ready
    finally:
        server.close()


def test_a_repository_in_which_nothing_loads_is_not_ready_if_models_are_required(tmp_path: Path) -> None:
    server = Served(settings(tmp_path, require_models=0.1))
    try:
        assert not server.inference.ServerReady(pb.ServerReadyRequest()).ready
        assert not server.serving()
    finally:
        server.close()


def test_until_the_engine_names_its_models_calls_are_unavailable(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    server = Starting(settings(tmp_path, model_control="explicit"))
    try:
        calls: list[Callable[[], Any]] = [
            lambda: answer(server),
            lambda: server.inference.ModelMetadata(pb.ModelMetadataRequest(name="add")),
            lambda: server.inference.ModelConfig(pb.ModelConfigRequest(name="add")),
            lambda: server.inference.ModelStatistics(pb.ModelStatisticsRequest(name="add")),
            lambda: server.inference.RepositoryIndex(pb.RepositoryIndexRequest()),
            lambda: load(server, "add"),
            lambda: unload(server, "add"),
            lambda: list(server.sequences.Generate(spb.GenerateRequest(model="add"))),
            lambda: server.sequences.Classify(spb.ClassifyRequest(model="add", texts=["a"])),
            lambda: server.serving("add"),
        ]
        for call in calls:
            with refused(grpc.StatusCode.UNAVAILABLE, words="starting") as caught:
                call()
            assert any(isinstance(detail, error_details_pb2.RetryInfo) for detail in details(caught.value))
        assert not ready(server, "add")
        assert not server.serving()
        server.go_on()
        server.wait_serving()
        assert answer(server) == 1
        with refused(NOT_FOUND):
            server.serving("nobody")
    finally:
        server.close()


class Starting(Served):
    """A server whose engine starts when `go_on` is called."""

    @staticmethod
    async def _start(settings: Settings, spans: Any) -> App:
        app = App(settings, spans=spans)
        start, go_on = app.transport.start, asyncio.Event()

        async def start_later(deliver: Any) -> Any:
            await go_on.wait()
            return await start(deliver)

        app.transport.start = start_later  # type: ignore[method-assign]
        starting = asyncio.ensure_future(app.start())
        while not app.port:  # noqa: ASYNC110
            await asyncio.sleep(0)

        async def finish() -> None:
            go_on.set()
            await starting

        app.finish_start = finish  # type: ignore[attr-defined]
        return app

    def go_on(self) -> None:
        self.run(self.app.finish_start())


def test_a_version_that_left_the_repository_is_gone_after_a_load(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    fakes.write_model(tmp_path, "add", add(2), version=2)
    server = serving(model_control="explicit")
    shutil.rmtree(tmp_path / "add/2")
    load(server, "add")
    assert not ready(server, "add", "2")
    assert answer(server) == 1


def test_the_server_stays_ready_and_answers_while_a_model_is_loaded_again(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    server = serving(model_control="explicit")

    def load_repeatedly() -> None:
        for _ in range(3):
            load(server, "add")

    with ThreadPoolExecutor(1) as loads:
        loading = loads.submit(load_repeatedly)
        while not loading.done():
            assert server.inference.ServerReady(pb.ServerReadyRequest()).ready
            assert answer(server) == 1
        loading.result()


def test_overrides_of_a_load_are_refused_by_name(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    server = serving(model_control="explicit")
    request = pb.RepositoryModelLoadRequest(model_name="add")
    request.parameters["config"].string_param = "{}"
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "parameters.config"):
        server.inference.RepositoryModelLoad(request, timeout=PATIENCE_S)


def test_a_model_with_two_forms_can_be_loaded_again(tmp_path: Path, serving: Callable[..., Served]) -> None:
    shutil.copytree(REPOSITORY / "sentiment-rnn", tmp_path / "two")
    fakes.write_model(tmp_path, "other", add(5))
    server = serving(model_control="explicit")
    for _ in range(2):
        load(server, "two")
        assert ready(server, "two")
        assert ready(server, "two.step")
    assert answer(server, model="other") == 5


def test_a_folder_with_the_name_of_another_models_step_form_is_refused(
    tmp_path: Path, serving: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(REPOSITORY / "sentiment-rnn", tmp_path / "two")
    fakes.write_model(tmp_path, "two.step", add(1))
    server = serving(model_control="explicit")
    why = "'two.step' is the name of the step-wise form of model 'two'; rename this folder"
    wait_until(lambda: why in caplog.text, "the reason in the log")
    assert server.inference.ModelMetadata(pb.ModelMetadataRequest(name="two.step")).outputs[0].name != "y"
    with refused(NOT_FOUND, words="step-wise form of model 'two'"):
        load(server, "two.step")
    with refused(NOT_FOUND, words="unload that"):
        unload(server, "two.step")
    assert ready(server, "two.step")


def test_a_model_whose_step_form_would_take_a_served_name_is_refused(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    fakes.write_model(tmp_path, "two.step", add(1))
    server = serving(model_control="explicit")
    shutil.copytree(REPOSITORY / "sentiment-rnn", tmp_path / "two")
    with refused(NOT_FOUND, words="rename one of the two folders"):
        load(server, "two")
    assert answer(server, model="two.step") == 1


@pytest.mark.parametrize("name", ["nobody", "", "..", "../models", "a" * 300])
def test_loading_an_unknown_model_is_not_found(
    tmp_path: Path, serving: Callable[..., Served], name: str
) -> None:
    server = serving(model_control="explicit") if list(tmp_path.iterdir()) else _with_one(tmp_path, serving)
    for change in (load, unload):
        with refused(NOT_FOUND):
            change(server, name)
    assert answer(server) == 1


def _with_one(tmp_path: Path, serving: Callable[..., Served]) -> Served:
    fakes.write_model(tmp_path, "add", add(1))
    return serving(model_control="explicit")


def test_a_model_that_fails_to_load_is_an_error(tmp_path: Path, serving: Callable[..., Served]) -> None:
    server = _with_one(tmp_path, serving)
    for name in ("new", "add"):
        fakes.write_model(tmp_path, name, b"broken")
        with refused(NOT_FOUND, words="damaged, incomplete"):
            load(server, name)
    assert not ready(server, "new")
    assert answer(server) == 1


def test_waiting_requests_are_answered_before_a_model_unloads(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    server = _with_one(tmp_path, serving)
    with server.hold():
        waiting = [
            server.inference.ModelInfer.future(fakes.floats("add", [[i]]), timeout=PATIENCE_S)
            for i in range(3)
        ]
        server.wait_waiting("add", 3)
        going = server.inference.RepositoryModelUnload.future(
            pb.RepositoryModelUnloadRequest(model_name="add"), timeout=PATIENCE_S
        )
    assert [fakes.values(one.result(), "y").item() for one in waiting] == [1, 2, 3]
    going.result()
    server.wait_idle()


def services(server: Served) -> list[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (reply,) = stub.ServerReflectionInfo(requests, timeout=PATIENCE_S)
    return sorted(one.name for one in reply.list_services_response.service)


def test_reflection_lists_the_services(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    assert services(serving()) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "lockstep.v1.Operations",
        "lockstep.v1.Sequences",
    ]


def test_reflection_can_be_turned_off(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        services(serving(reflection=False))


def test_generating_with_a_one_shot_model_is_an_error(shipped: Served) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "model", "no step-wise form"):
        list(shipped.sequences.Generate(spb.GenerateRequest(model="sentiment-bow"), timeout=PATIENCE_S))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "model", "no step-wise form"):
        list(shipped.sequences.Translate(spb.TranslateRequest(model="sentiment-bow"), timeout=PATIENCE_S))


def test_unsupported_triton_rpcs_are_unimplemented(shipped: Served) -> None:
    call: Any = shipped.channel.unary_unary("/inference.GRPCInferenceService/SystemSharedMemoryStatus")
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        call(b"", timeout=PATIENCE_S)


def test_batching_can_be_turned_off(tmp_path: Path, serving: Callable[..., Served]) -> None:
    fakes.write_model(tmp_path, "add", add(1))
    server = serving(batching=False)
    with server.hold():
        calls = [
            server.inference.ModelInfer.future(fakes.floats("add", [[i]]), timeout=PATIENCE_S)
            for i in range(4)
        ]
        server.wait_waiting("add", 4)
    assert [fakes.values(one.result(), "y").item() for one in calls] == [1, 2, 3, 4]
    assert server.metric("lockstep_batch_rows_count", model="add") == 4
