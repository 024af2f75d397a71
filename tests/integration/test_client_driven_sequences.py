"""Client-driven sequences: one request per step, with ModelInfer and ModelStreamInfer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
import steps
from integration.harness import FRONT_ENDS, Served, refused, serve
from patience import PATIENCE_S, wait_until

from lockstep_proto import open_inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module", params=["thread", "process", FRONT_ENDS])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    steps.adder(root, slots=64)
    steps.cache(root)
    steps.weighted_adder(root)
    fakes.write_model(root, "identity", fakes.identity())
    with serve(root, engine=request.param) as started:
        yield started


def step(
    value: float, sequence: int | str | None, *, start: bool = False, end: bool = False, model: str = "adder"
) -> pb.ModelInferRequest:
    request = fakes.request(model, {"x": ("FP32", np.full((1, 2), value))})
    if isinstance(sequence, int):
        request.parameters["sequence_id"].int64_param = sequence
    elif sequence is not None:
        request.parameters["sequence_id"].string_param = sequence
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    return request


def value(reply: Any) -> float:
    return float(fakes.values(reply, "y").ravel()[0])


def test_a_constant_of_a_step_can_be_omitted_and_sent(server: Served) -> None:
    assert value(server.infer(step(1, 8, start=True, model="weighted"))) == 3
    sent = step(1, 8, end=True, model="weighted")
    sent.MergeFrom(fakes.request("weighted", {"rate": ("INT64", 5)}))
    assert value(server.infer(sent)) == 8


def test_state_is_kept_from_start_to_end(server: Served) -> None:
    answers = [
        value(server.infer(step(1, 7, start=True))),
        value(server.infer(step(2, 7))),
        value(server.infer(step(4, 7, end=True))),
    ]
    assert answers == [1, 3, 7]
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words="has ended"):
        server.infer(step(1, 7))
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words="unknown sequence"):
        server.infer(step(1, 77))


def test_sequence_ids_can_be_strings(server: Served) -> None:
    assert value(server.infer(step(1, "a", start=True))) == 1
    assert value(server.infer(step(1, "a", end=True))) == 2


def test_a_start_on_a_live_id_begins_a_new_sequence(server: Served) -> None:
    assert value(server.infer(step(5, 8, start=True))) == 5
    assert value(server.infer(step(6, 8, start=True))) == 6
    assert value(server.infer(step(1, 8, end=True))) == 7


def test_a_sequence_can_have_a_single_step(server: Served) -> None:
    assert value(server.infer(step(5, 9, start=True, end=True))) == 5
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words="has ended"):
        server.infer(step(1, 9))


@pytest.mark.parametrize("sequence", [None, 0, ""])
def test_a_step_without_a_sequence_id_is_an_error(server: Served, sequence: int | str | None) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "parameters.sequence_id", "send an id"):
        server.infer(step(1, sequence))


def test_a_sequence_on_a_one_shot_model_is_an_error(server: Served) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "parameters.sequence_id", "no step-wise form"):
        server.infer(step(1, 5, model="identity"))


def test_a_step_with_several_rows_is_an_error(server: Served) -> None:
    request = fakes.request("adder", {"x": ("FP32", np.ones((2, 2)))})
    request.parameters["sequence_id"].int64_param = 5
    request.parameters["sequence_start"].bool_param = True
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "x", "2 rows"):
        server.infer(request)


def test_a_parameter_of_the_wrong_type_is_an_error(server: Served) -> None:
    request = step(1, 5)
    request.parameters["sequence_start"].int64_param = 1
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "parameters.sequence_start", "bool"):
        server.infer(request)


def test_a_stream_pipelines_sequences_in_order(server: Served) -> None:
    """64 sequences of 20 steps on one stream, sent without waiting for answers."""
    requests = []
    for index in range(20):
        for sequence in range(1, 65):
            request = step(sequence, 1000 + sequence, start=index == 0, end=index == 19)
            request.id = f"{sequence} {index}"
            requests.append(request)
    values: dict[str, float] = {}
    for reply in server.inference.ModelStreamInfer(iter(requests), timeout=PATIENCE_S):
        assert not reply.error_message
        values[reply.infer_response.id] = value(reply.infer_response)
    assert values == {f"{s} {i}": s * (i + 1) for s in range(1, 65) for i in range(20)}
    assert server.metric("lockstep_batch_rows_sum", model="adder") > server.metric(
        "lockstep_batch_rows_count", model="adder"
    )


def test_an_error_fails_its_step_and_the_stream_continues(server: Served) -> None:
    requests = [step(1, 20, start=True), step(1, 21), step(1, 20, end=True)]
    replies = list(server.inference.ModelStreamInfer(iter(requests), timeout=PATIENCE_S))
    assert sorted(bool(reply.error_message) for reply in replies) == [False, False, True]


def test_metadata_and_configuration_describe_one_step(server: Served) -> None:
    metadata = server.inference.ModelMetadata(pb.ModelMetadataRequest(name="adder"), timeout=PATIENCE_S)
    assert [(one.name, list(one.shape)) for one in metadata.inputs] == [("x", [1, 2])]
    assert [(one.name, list(one.shape)) for one in metadata.outputs] == [("y", [1, 2])]
    config = server.inference.ModelConfig(pb.ModelConfigRequest(name="adder"), timeout=PATIENCE_S).config
    assert config.WhichOneof("scheduling_choice") == "sequence_batching"
    assert (config.max_batch_size, config.default_model_filename) == (0, "step.onnx")


def test_a_step_beyond_the_longest_cache_is_an_error(server: Served) -> None:
    def token(*, start: bool = False) -> pb.ModelInferRequest:
        request = fakes.request("cached", {"token": ("INT64", [3])})
        request.parameters["sequence_id"].int64_param = 30
        request.parameters["sequence_start"].bool_param = start
        return request

    for index in range(40):
        server.infer(token(start=index == 0))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "past", "40 steps"):
        server.infer(token())


def test_the_next_step_of_an_evicted_sequence_is_an_error(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    steps.adder(tmp_path, slots=2, idle_s=0.2)
    server = serving(tmp_path)
    server.infer(step(1, 1, start=True))
    server.infer(step(1, 2, start=True))
    assert value(server.infer(step(1, 3, start=True))) == 1  # waited for a free slot
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words="start it again"):
        server.infer(step(1, 1))
    assert value(server.infer(step(1, 1, start=True))) == 1


def test_a_cancelled_step_does_not_change_the_state(tmp_path: Path, serving: Callable[..., Served]) -> None:
    steps.adder(tmp_path)
    server = serving(tmp_path)
    server.infer(step(1, 1, start=True))
    with server.hold():
        # With the engine waiting for the device, the steps and the cancel are read together after that.
        other = server.inference.ModelInfer.future(step(7, 2, start=True), timeout=PATIENCE_S)
        wait_until(lambda: server.loaded_models.device_scheduler.waiting() == 1, "the engine waits")
        calls = [server.inference.ModelInfer.future(step(v, 1), timeout=PATIENCE_S) for v in (10, 100)]
        wait_until(lambda: len(server.app.requests) == 3, "the steps have arrived")
        calls[0].cancel()
        wait_until(lambda: len(server.app.requests) == 2, "the cancel has arrived")
    assert value(calls[1].result()) == 101
    assert value(other.result()) == 7


def test_a_step_cannot_bring_what_the_server_generates(server: Served) -> None:
    request = fakes.request("cached", {"token": ("INT64", [1]), "mask": ("BOOL", [[True]])})
    request.parameters["sequence_id"].int64_param = 90
    request.parameters["sequence_start"].bool_param = True
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "mask", "omit it"):
        server.infer(request)


def test_steps_that_are_sometimes_wrong_in_company_are_found_out(tmp_path: Path) -> None:
    """The self-test cannot know the value that changes the answers of others; verification sees them."""
    files = {"step.onnx": fakes.sometimes_contagious(step=True)}
    steps.write(tmp_path, "contagious", steps.SUM.format(slots=64, idle_s=60), files, steps.characters())
    with serve(tmp_path, verify_share=1.0) as server:

        def together() -> list[float]:
            calls = [
                server.inference.ModelInfer.future(
                    step(50 if i == 3 else 1, i, start=True, end=True, model="contagious"), timeout=PATIENCE_S
                )
                for i in range(1, 17)
            ]
            return [value(call.result()) for call in calls]

        assert server.metric("lockstep_model_batched", model="contagious") == 1

        def found() -> bool:
            together()
            return server.metric("lockstep_batch_mismatch_total", model="contagious") == 1

        wait_until(found, "a found difference")
        assert together() == [51 if i == 3 else 1 for i in range(1, 17)]
        assert server.metric("lockstep_verified_answers_total", model="contagious") > 0
        assert server.metric("lockstep_model_batched", model="contagious") == 0
