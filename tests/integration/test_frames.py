"""Models of frames: outputs of computed length, and Follow with tensors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import fakes
import frames
import grpc
import numpy as np
import onnxruntime
import pytest
from integration.harness import Served, refused, serve
from patience import PATIENCE_S, wait_until

import lockstep_client as lc
from lockstep_client import FLUSH, AsyncClient, Client
from lockstep_proto import open_inference_pb2
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lockstep_client import Prediction

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    graph = frames.strided(400, 320)
    fakes.write_model(root, "strided", graph, frames.STRIDED.replace("LENGTH", "(samples - 400) // 320 + 1"))
    fakes.write_model(root, "wrong", graph, frames.STRIDED.replace("LENGTH", "ceil(samples / 320)"))
    frames.summing(root, "sums", 3)
    frames.summing(root, "window", 8, overlap=2, pad=7)
    frames.summing(root, "rated", 2, rate=True)
    frames.labelled(root, "labelled")
    frames.chunked(root, "chunks")
    frames.chunked(root, "unpadded", padded=False)
    frames.chunked(root, "pooled", pooled=True)
    frames.prompted(root, "prompted")
    frames.prompted(root, "forgetful", wrong=True)
    frames.prompted(root, "answerless", manifest=frames.PROMPTED.replace('lengths = {1 = "frames"}\n', ""))
    with serve(root) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[Client]:
    with Client(server.address, timeout_s=PATIENCE_S) as opened:
        yield opened


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def outputs(replies: Iterable[Prediction], name: str = "y") -> list[Array]:
    return [reply.outputs[name] for reply in replies]


def test_strided_requests_of_many_lengths_share_runs_and_get_their_own_frames(server: Served) -> None:
    session = onnxruntime.InferenceSession(frames.strided(400, 320).SerializeToString())
    rng = np.random.default_rng(0)
    sounds = [rng.standard_normal((1, int(size))).astype(np.float32) for size in rng.integers(400, 9000, 48)]
    with Client(server.address) as client, ThreadPoolExecutor(len(sounds)) as pool:
        with server.hold():
            calls = [pool.submit(client.infer, "strided", {"x": sound}) for sound in sounds]
            server.wait_waiting("strided", len(sounds))
        for sound, call in zip(sounds, calls, strict=True):
            (alone,) = session.run(None, {"x": sound})
            answer = call.result().outputs["y"]
            assert answer.shape == alone.shape
            assert np.allclose(answer, alone, atol=1e-4)
    rows, runs = (server.metric(f"lockstep_batch_rows_{part}", model="strided") for part in ("sum", "count"))
    assert rows > 4 * runs


def test_a_sound_that_is_too_short_for_a_frame_is_refused(server: Served) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "x", "samples is 399"):
        server.infer(fakes.floats("strided", np.zeros((1, 399))))


def test_a_formula_that_the_graph_does_not_follow_is_the_reason_of_the_model(server: Served) -> None:
    index = server.inference.RepositoryIndex(open_inference_pb2.RepositoryIndexRequest())
    (wrong,) = (model for model in index.models if model.name == "wrong")
    assert wrong.state == "UNAVAILABLE"
    assert '{1 = "(samples - 80) // 320"}' in wrong.reason


# --- Follow -------------------------------------------------------------------------------------------------


def test_each_frame_is_a_step_however_frames_are_sent(client: Client) -> None:
    x = drawn(10, 3)
    for pieces in ([x], [x[:1], x[1:7], x[7:]], list(x)):
        replies = client.follow_frames("sums", pieces).result()
        assert [reply.position for reply in replies] == list(range(1, 11))
        assert np.allclose(outputs(replies), np.cumsum(x, axis=0), atol=1e-5)
        assert all(reply.computed_elements == reply.timings.steps == 1 for reply in replies)
        assert (replies[0].model, replies[1].model) == ("sums", "")


def test_the_same_frames_batched_give_the_same_outputs(server: Served, client: Client) -> None:
    streams = [drawn(20 + n, 3, seed=n) for n in range(16)]
    alone = [outputs(client.follow_frames("sums", x)) for x in streams]
    with ThreadPoolExecutor(len(streams)) as pool:
        together = list(pool.map(lambda x: outputs(client.follow_frames("sums", x)), streams))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
    rows, steps = (server.metric(f"lockstep_batch_rows_{part}", model="sums") for part in ("sum", "count"))
    assert rows > 1.2 * steps


def test_samples_are_buffered_until_they_fill_a_window(client: Client) -> None:
    """Windows of 8 samples, of which 2 are those of the window before; 7 is the padding."""
    x = np.arange(1, 21, dtype=np.float32)
    padded = np.concatenate([[7, 7], x, [7] * 4])
    windows = [padded[start : start + 8] for start in range(0, 24, 6)]
    ways: list[list[Any]] = [[x], np.split(x, [1, 4, 5, 17]), [x[:20], FLUSH]]
    for pieces in ways:
        replies = client.follow_frames("window", pieces).result()
        assert [reply.position for reply in replies] == [6, 12, 18, 20]
        assert np.allclose(outputs(replies), np.cumsum(windows, axis=0))
    whole = client.follow_frames("window", np.array(windows, np.float32)).result()
    assert np.allclose(outputs(whole), np.cumsum(windows, axis=0))


def test_a_scalar_input_is_sent_once(client: Client) -> None:
    x = drawn(4, 2)
    pieces = [{"x": x[:1], "sr": np.array(3)}, {"x": x[1:]}]
    replies = client.follow_frames("rated", pieces).result()
    assert np.allclose(outputs(replies), np.cumsum(3 * x, axis=0), atol=1e-5)


def test_frames_get_labels_and_the_outputs_that_are_asked_for(client: Client) -> None:
    x = np.array([[0, 1, 0], [2, 0, 0]], np.float32)
    replies = client.follow_frames("labelled", x, top_k=1).result()
    assert [reply.best.name for reply in replies] == ["b", "a"]
    assert not replies[0].outputs
    (both,) = client.follow_frames("labelled", x[:1], outputs=["y"]).result()
    assert len(both.labels) == 3
    assert np.array_equal(both.outputs["y"], x[0])


def test_nan_is_taken_and_returned_as_a_tensor_and_is_no_label(client: Client) -> None:
    x = np.full((1, 3), np.nan, np.float32)
    assert np.isnan(outputs(client.follow_frames("sums", x))[0]).all()
    with pytest.raises(lc.ServerFailure, match="NaN or infinite"):
        client.follow_frames("labelled", x).result()


@pytest.mark.parametrize("model", ["chunks", "unpadded", "pooled"])
def test_a_chunk_of_any_length_is_one_step_beside_those_of_others(
    server: Served, client: Client, model: str
) -> None:
    """What is batched equals what is alone, though chunks have different lengths."""
    rng = np.random.default_rng(1)
    streams = [[drawn(int(n), 3, seed=k) for n in rng.integers(2, 12, 12)] for k in range(12)]
    alone = [outputs(client.follow_frames(model, chunks)) for chunks in streams]
    assert [len(one) for one in alone[0]] == [len(c) // (2 if model == "pooled" else 1) for c in streams[0]]
    with ThreadPoolExecutor(len(streams)) as pool:
        together = list(pool.map(lambda chunks: outputs(client.follow_frames(model, chunks)), streams))
    for one, other in zip(alone, together, strict=True):
        assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))
    (state,) = (state for state in client.models() if state.name == model)
    assert ("only chunks of equal length" in state.reason) == (model == "unpadded")


def test_chunks_of_different_lengths_share_runs_if_padding_changes_nothing(server: Served) -> None:
    assert server.engine("chunks").spec.chunks_padded
    assert server.engine("pooled").spec.chunks_padded
    unpadded = server.engine("unpadded").spec
    assert unpadded.batched
    assert not unpadded.chunks_padded


def test_a_long_chunk_is_several_steps(client: Client) -> None:
    x = drawn(150, 3)
    whole = client.follow_frames("chunks", x).result()
    assert [reply.position for reply in whole] == [64, 128, 150]
    parts = client.follow_frames("chunks", np.split(x, 50)).result()
    assert np.allclose(np.concatenate(outputs(whole)), np.concatenate(outputs(parts)), atol=1e-5)


def test_a_one_shot_model_reads_the_prefix_again(server: Served, client: Client) -> None:
    session = onnxruntime.InferenceSession(frames.strided(400, 320).SerializeToString())
    x = drawn(1500)
    replies = client.follow_frames("strided", [x[:500], x[500:501], x[501:]]).result()
    assert [(r.position, r.computed_elements) for r in replies] == [(500, 500), (501, 501), (1500, 1500)]
    for reply in replies:
        assert np.allclose(reply.outputs["y"], session.run(None, {"x": x[None, : reply.position]})[0][0])


async def test_an_async_client_follows_frames(server: Served) -> None:
    x = drawn(5, 3)

    async def pieces() -> Any:
        for frame in x:
            yield frame

    async with AsyncClient(server.address) as client:
        replies = await client.follow_frames("sums", pieces()).result()
    assert np.allclose(outputs(replies), np.cumsum(x, axis=0), atol=1e-5)


# --- prompts ------------------------------------------------------------------------------------------------


def stepped(x: Array) -> Array:
    """The outputs y of frames x [frames, 3], by the step graph alone."""
    session = onnxruntime.InferenceSession(frames.prompted_graphs()[0].SerializeToString())
    h, found = np.zeros((1, 1, 4), np.float32), []
    for frame in x:
        y, h = session.run(["y", "h_out"], {"x": frame[None], "h_in": h})
        found.append(y[0])
    return np.array(found)


def test_a_prompt_of_frames_is_read_in_one_run_and_steps_continue_it(server: Served, client: Client) -> None:
    x = drawn(17, 3)
    runs = {mode: runs_of(server, mode) for mode in ("prefill", "stepwise")}
    first, *others = client.follow_frames("prompted", [x[:12], x[12:13], x[13:]], prompt=True)
    assert (first.position, first.computed_elements, first.timings.steps) == (12, 12, 1)
    assert first.timings.prefill_s > 0
    assert [reply.position for reply in others] == [13, 14, 15, 16, 17]
    assert np.allclose(outputs([first, *others]), stepped(x)[11:], atol=1e-5)
    assert {mode: runs_of(server, mode) - before for mode, before in runs.items()} == {
        "prefill": 1,
        "stepwise": 5,
    }
    without = client.follow_frames("prompted", x).result()
    assert np.allclose(outputs(without), stepped(x), atol=1e-5)


def runs_of(server: Served, mode: str) -> float:
    return server.metric("lockstep_batch_rows_count", model="prompted", mode=mode)


def test_prompts_of_many_callers_share_a_run_and_answer_as_alone(server: Served, client: Client) -> None:
    streams = [[drawn(5 + 3 * n, 3, seed=n), drawn(3, 3, seed=100 + n)] for n in range(10)]
    alone = [outputs(client.follow_frames("prompted", pieces, prompt=True)) for pieces in streams]
    before = runs_of(server, "prefill")
    with ThreadPoolExecutor(len(streams)) as pool, server.hold():
        calls = [
            pool.submit(lambda pieces: outputs(client.follow_frames("prompted", pieces, prompt=True)), pieces)
            for pieces in streams
        ]
        # A prompt and three frames of each.
        wait_until(lambda: len(server.app.requests) == 4 * len(streams), "all frames have arrived")
    together = [call.result() for call in calls]
    assert runs_of(server, "prefill") - before < len(streams)
    for one, other, pieces in zip(alone, together, streams, strict=True):
        assert np.array_equal(one, other)
        assert np.allclose(one, stepped(np.concatenate(pieces))[-4:], atol=1e-5)


def infer_step(server: Served, name: str, x: Array, **parameters: Any) -> Array:
    reply = server.infer(fakes.request("prompted", {name: ("FP32", x)}, **parameters))
    return fakes.values(reply, "y")


def test_a_tensor_request_starts_a_sequence_with_a_prompt(server: Served) -> None:
    x = drawn(9, 3)
    whole = stepped(x)
    first = infer_step(
        server, "frames", x[None, :8], sequence_id=7, sequence_start=True, sequence_prompt=True
    )
    assert np.allclose(first, whole[7:8], atol=1e-5)
    last = infer_step(server, "x", x[8:], sequence_id=7, sequence_end=True)
    assert np.allclose(last, whole[8:], atol=1e-5)


@pytest.mark.parametrize(
    ("model", "parameters", "field", "words"),
    [
        ("prompted", {"sequence_prompt": True}, "parameters.sequence_prompt", "send it with sequence_start"),
        (
            "prompted",
            {"sequence_prompt": 1, "sequence_start": True},
            "parameters.sequence_prompt",
            "not a bool",
        ),
        (
            "sums",
            {"sequence_prompt": True, "sequence_start": True},
            "parameters.sequence_prompt",
            "leave it out",
        ),
        ("strided", {"sequence_prompt": True}, "parameters.sequence_id", ""),
    ],
)
def test_a_prompt_where_there_can_be_none_is_refused(
    server: Served, model: str, parameters: dict[str, Any], field: str, words: str
) -> None:
    message = fakes.request(model, {"frames": ("FP32", drawn(1, 4, 3))}, sequence_id=9, **parameters)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, field, words):
        server.infer(message)


def test_a_prefill_graph_that_does_not_fit_is_reported_at_load(server: Served) -> None:
    index = server.inference.RepositoryIndex(open_inference_pb2.RepositoryIndexRequest())
    states = {model.name: (model.state, model.reason) for model in index.models}
    assert states["prompted"] == ("READY", "")
    state, reason = states["answerless"]
    assert state == "UNAVAILABLE"
    assert "prefill.inputs.frames" in reason
    with Client(server.address) as client:
        (reply,) = client.follow_frames("forgetful", drawn(3, 3), prompt=True)
    assert "a step after a prompt of 1 differs from one after as many steps" in reply.notice


START = pb.FollowRequest(start=pb.FollowStart(model="sums"))


def sent(name: str = "x", datatype: str = "FP32", shape: Any = (1, 3), contents: bytes = b"") -> Any:
    tensor = pb.NamedTensor(name=name, datatype=datatype, shape=shape, contents=contents or bytes(12))
    return pb.FollowRequest(frames=pb.Frames(tensors=[tensor]))


def begin(model: str, **more: Any) -> Any:
    return pb.FollowRequest(start=pb.FollowStart(model=model, **more))


BAD: dict[str, tuple[list[Any], str, str]] = {
    "another datatype": ([START, sent(datatype="FP64")], "frames.x", "the model takes FP32"),
    "another width": ([START, sent(shape=[1, 1, 3])], "frames.x", "[-1, 3]"),
    "too few bytes": ([START, sent(shape=[2, 3])], "frames.x", "24"),
    "a negative size": ([START, sent(shape=[-1, 3])], "frames.x", "negative"),
    "a huge shape": ([START, sent(shape=[2**40, 3])], "frames.x", "12 bytes"),
    "an unknown input": ([START, sent(name="z")], "frames.tensors[0].name", "available: x"),
    "a state": ([START, sent(name="s_in")], "frames.tensors[0].name", "available: x"),
    "an unknown output": ([begin("sums", outputs=["z"])], "start.outputs[0]", "available: y"),
    "an input twice": (
        [START, pb.FollowRequest(frames=pb.Frames(tensors=[*sent().frames.tensors] * 2))],
        "frames.x",
        "sent twice",
    ),
    "too many steps": ([START, sent(shape=[20000, 3], contents=bytes(240000))], "frames.x", "20000 steps"),
    "a missing input": ([begin("rated"), sent(shape=[1, 2], contents=bytes(8))], "frames.sr", "missing"),
    "no name among several": (
        [begin("rated"), sent(name="", shape=[1, 2], contents=bytes(8))],
        "frames.tensors[0].name",
        "x, sr",
    ),
    "no frames": ([begin("chunks"), sent(shape=[0, 3])], "frames.x", "0"),
    "text": ([START, pb.FollowRequest(text="a ")], "start.model", "send frames"),
    "too short": ([begin("strided"), sent(shape=[3])], "frames.x", "0 elements"),
    "a prompt without a graph for it": ([begin("sums", prompt=True)], "start.prompt", "leave it out"),
    "a prompt of another width": (
        [begin("prompted", prompt=True), sent(name="frames", shape=[3, 1])],
        "frames.frames",
        "[-1, 3]",
    ),
    "a prompt that is too long": (
        [begin("prompted", prompt=True), sent(name="frames", shape=[41, 3], contents=bytes(41 * 12))],
        "frames.frames",
        "40",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_frames_are_rejected(server: Served, case: str) -> None:
    requests, field, words = BAD[case]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, field, words):
        list(server.sequences.Follow(iter(requests), timeout=PATIENCE_S))


def test_a_cancelled_stream_of_frames_frees_its_slot(server: Served, client: Client) -> None:
    for _ in range(3):
        call = server.sequences.Follow(iter([START, sent()]), timeout=PATIENCE_S)
        next(call)
        call.cancel()
    server.wait_idle()
    for state in ("running", "waiting", "idle"):
        assert server.metric("lockstep_sequences", model="sums", state=state) == 0
