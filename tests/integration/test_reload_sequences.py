"""A sequence ends on the version that it began on, also if the model is loaded again meanwhile."""

from __future__ import annotations

import shutil
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
import steps
from integration.harness import FRONT_ENDS, Served, refused
from integration.test_control import load, unload
from onnx import helper
from patience import PATIENCE_S, wait_until

from lockstep_proto import open_inference_pb2 as pb
from lockstep_proto.v1 import sequences_pb2 as spb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write_scaler(root: Path, factor: float, *, version: int = 1, width: int = 2, idle_s: float = 60) -> None:
    """The model `sum`: y = the sum of all `factor * x` so far."""
    shape = ("n", width)
    graph = fakes.model(
        [
            helper.make_node("Mul", ["x", "factor"], ["scaled"]),
            helper.make_node("Add", ["sum_in", "scaled"], ["sum_out"]),
            helper.make_node("Identity", ["sum_out"], ["y"]),
        ],
        [fakes.tensor("x", shape=shape), fakes.tensor("sum_in", shape=shape)],
        [fakes.tensor("y", shape=shape), fakes.tensor("sum_out", shape=shape)],
        [fakes.constant("factor", factor, np.float32)],
    )
    folder = root / "sum" / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "step.onnx").write_bytes(graph.SerializeToString())
    (root / "sum/model.toml").write_text(steps.SUM.format(slots=8, idle_s=idle_s), encoding="utf-8")


def step(
    server: Served,
    sequence: int,
    *,
    start: bool = False,
    end: bool = False,
    version: str = "",
    width: int = 2,
) -> float:
    """The answer to a step of ones."""
    request = fakes.request("sum", {"x": ("FP32", np.ones((1, width)))}, version=version)
    request.parameters["sequence_id"].int64_param = sequence
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    return float(fakes.values(server.infer(request), "y")[0, 0])


def versions(server: Served) -> dict[str, str]:
    models = server.inference.RepositoryIndex(pb.RepositoryIndexRequest()).models
    return {one.version: one.state for one in models if one.name == "sum"}


@pytest.fixture(params=["thread", "process", FRONT_ENDS])
def server(request: pytest.FixtureRequest, tmp_path: Path, serving: Callable[..., Served]) -> Served:
    write_scaler(tmp_path, 1)
    return serving(engine=request.param, model_control="explicit")


def test_a_sequence_goes_on_with_the_version_it_began_on(tmp_path: Path, server: Served) -> None:
    assert step(server, 1, start=True) == 1
    for factor in (10, 100):
        write_scaler(tmp_path, factor)
        load(server, "sum")
        assert step(server, factor, start=True) == factor
    assert [step(server, 1), step(server, 10), step(server, 100)] == [2, 20, 200]
    assert step(server, 1, end=True) == 3
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words="has ended"):
        step(server, 1)
    assert step(server, 1, start=True) == 100


def test_a_start_with_the_id_of_an_old_sequence_begins_a_new_one(tmp_path: Path, server: Served) -> None:
    step(server, 1, start=True)
    write_scaler(tmp_path, 10)
    load(server, "sum")
    assert [step(server, 1, start=True), step(server, 1), step(server, 1)] == [10, 20, 30]


def test_a_sequence_keeps_the_shapes_of_its_version(tmp_path: Path, server: Served) -> None:
    step(server, 1, start=True)
    write_scaler(tmp_path, 10, width=3)
    load(server, "sum")
    assert step(server, 2, start=True, width=3) == 10
    assert step(server, 1, width=2) == 2
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        step(server, 1, width=3)


def test_a_sequence_without_a_version_stays_where_it_began_if_the_default_changes(
    tmp_path: Path, server: Served
) -> None:
    step(server, 1, start=True)
    write_scaler(tmp_path, 10, version=2)
    load(server, "sum")
    assert step(server, 2, start=True) == 10
    assert [step(server, 1), step(server, 2)] == [2, 20]
    assert step(server, 1, start=True) == 10
    assert step(server, 1) == 20


def test_a_version_that_left_the_repository_is_kept_until_its_sequences_end(
    tmp_path: Path, server: Served
) -> None:
    step(server, 1, start=True)
    write_scaler(tmp_path, 10, version=2)
    shutil.rmtree(tmp_path / "sum/1")
    load(server, "sum")
    assert [step(server, 1), step(server, 1, version="1")] == [2, 3]
    assert versions(server) == {"1": "UNLOADING", "2": "READY"}
    with refused(grpc.StatusCode.UNAVAILABLE):
        step(server, 2, start=True, version="1")
    step(server, 1, end=True)
    wait_until(lambda: versions(server) == {"1": "UNAVAILABLE", "2": "READY"}, "the end of version 1")


def test_an_unload_ends_what_a_replaced_version_holds(tmp_path: Path, server: Served) -> None:
    step(server, 1, start=True)
    load(server, "sum")
    unload(server, "sum")
    assert versions(server) == {"1": "UNAVAILABLE"}
    load(server, "sum")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words="unknown sequence"):
        step(server, 1)


def test_a_replaced_version_is_kept_for_a_limited_time(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    write_scaler(tmp_path, 1)
    server = serving(model_control="explicit", reload_grace_s=0.01)
    step(server, 1, start=True)
    load(server, "sum")
    wait_until(lambda: not server.loaded_models.replaced(), "the end of the replaced version")
    with refused(
        grpc.StatusCode.FAILED_PRECONDITION, words="after its model was loaded again; start it again"
    ):
        step(server, 1)


def test_a_client_that_stopped_does_not_keep_a_replaced_version(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    write_scaler(tmp_path, 1, idle_s=0.01)
    server = serving(model_control="explicit")
    step(server, 1, start=True)
    load(server, "sum")
    wait_until(lambda: not server.loaded_models.replaced(), "the end of the replaced version")
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        step(server, 1)


def test_a_stream_of_tokens_ends_as_it_began(tmp_path: Path, serving: Callable[..., Served]) -> None:
    steps.language(tmp_path)
    server = serving(model_control="explicit")
    request = spb.GenerateRequest(model="lm", text="a", max_tokens=3000, seed=3)
    expected = "".join(reply.text for reply in server.sequences.Generate(request, timeout=PATIENCE_S))
    stream = server.sequences.Generate(request, timeout=PATIENCE_S)
    text = next(stream).text
    with server.hold():  # the stream is not over
        loading = server.inference.RepositoryModelLoad.future(
            pb.RepositoryModelLoadRequest(model_name="lm"), timeout=PATIENCE_S
        )
    loading.result()
    text += "".join(reply.text for reply in stream)
    assert text == expected
    wait_until(lambda: not server.loaded_models.replaced(), "the end of the replaced version")


def test_a_followed_stream_goes_on_with_its_version(tmp_path: Path, serving: Callable[..., Served]) -> None:
    steps.language(tmp_path)
    server = serving(model_control="explicit")
    messages: SimpleQueue[spb.FollowRequest | None] = SimpleQueue()
    stream: Any = server.sequences.Follow(iter(messages.get, None), timeout=PATIENCE_S)
    messages.put(spb.FollowRequest(start=spb.FollowStart(model="lm")))
    messages.put(spb.FollowRequest(ids=spb.Ids(ids=[3])))
    replies = [next(stream)]
    load(server, "lm")
    assert len(server.loaded_models.replaced()) == 1
    messages.put(spb.FollowRequest(ids=spb.Ids(ids=[4, 5])))
    messages.put(None)
    replies += list(stream)
    wait_until(lambda: not server.loaded_models.replaced(), "the end of the replaced version")
    whole = [
        spb.FollowRequest(start=spb.FollowStart(model="lm")),
        spb.FollowRequest(ids=spb.Ids(ids=[3, 4, 5])),
    ]
    expected = server.sequences.Follow(iter(whole), timeout=PATIENCE_S)
    assert [reply.labels for reply in replies] == [reply.labels for reply in expected]
