"""Models of frames: outputs of computed length."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import fakes
import frames
import grpc
import numpy as np
import onnxruntime
import pytest
from integration.harness import Served, refused, serve

from lockstep_client import Client
from lockstep_proto import open_inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    graph = frames.strided(400, 320)
    fakes.write_model(root, "strided", graph, frames.STRIDED.replace("LENGTH", "(samples - 400) // 320 + 1"))
    fakes.write_model(root, "wrong", graph, frames.STRIDED.replace("LENGTH", "ceil(samples / 320)"))
    with serve(root) as started:
        yield started


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
