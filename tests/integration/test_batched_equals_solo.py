"""Batching never changes an answer: every shipped model, random lengths, 64 or more in flight."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import fakes
import numpy as np
import onnxruntime
import pytest
from integration.harness import REPOSITORY, Served

if TYPE_CHECKING:
    from collections.abc import Callable

MODELS = sorted(folder.name for folder in REPOSITORY.glob("sentiment-*"))
REQUESTS, IN_FLIGHT = 160, 64
Array = np.ndarray[Any, Any]


def draw(seed: int) -> list[Array]:
    """Random ids of 1 to 60 words per row; some requests have several rows."""
    rng = np.random.default_rng(seed)
    shapes = [
        (1 if rng.random() < 0.8 else int(rng.integers(2, 6)), int(rng.integers(1, 61)))
        for _ in range(REQUESTS)
    ]
    return [rng.integers(1, 8000, shape) for shape in shapes]


def solo(model: str) -> Callable[[Array], dict[str, Array]]:
    """Runs each request unbatched and unpadded in an ONNX Runtime session."""
    session = onnxruntime.InferenceSession(
        str(REPOSITORY / model / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [one.name for one in session.get_outputs()]
    types = {one.name: one.type for one in session.get_inputs()}

    def run(ids: Array) -> dict[str, Array]:
        feeds: dict[str, Array] = {"tokens": ids}
        if "lengths" in types:
            feeds["lengths"] = np.full(
                len(ids), ids.shape[1], np.int32 if "int32" in types["lengths"] else np.int64
            )
        if "mask" in types:
            kinds = {"tensor(bool)": np.bool_, "tensor(int64)": np.int64, "tensor(float)": np.float32}
            feeds["mask"] = np.ones(ids.shape, kinds[types["mask"]])
        return dict(zip(names, session.run(None, feeds), strict=True))

    return run


def request(model: str, ids: Array, index: int) -> Any:
    return fakes.request(model, {"tokens": ("INT64", ids)}, request_id=str(index))


def unary(server: Served, model: str, sent: list[Array]) -> list[Any]:
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(pool.map(lambda i: server.infer(request(model, sent[i], i)), range(len(sent))))


def stream(server: Served, model: str, sent: list[Array]) -> list[Any]:
    requests = (request(model, ids, i) for i, ids in enumerate(sent))
    replies = list(server.inference.ModelStreamInfer(requests, timeout=100))
    assert [reply.error_message for reply in replies if reply.error_message] == []
    return sorted((reply.infer_response for reply in replies), key=lambda reply: int(reply.id))


@pytest.mark.parametrize("way", [unary, stream])
@pytest.mark.parametrize("model", MODELS)
def test_batched_equals_solo(shipped: Served, model: str, way: Any) -> None:
    sent = draw(seed=MODELS.index(model))
    unbatched = solo(model)
    replies = way(shipped, model, sent)
    assert [reply.id for reply in replies] == [str(i) for i in range(REQUESTS)]
    for ids, reply in zip(sent, replies, strict=True):
        for name, expected in unbatched(ids).items():
            got = fakes.values(reply, name)
            assert got.shape == expected.shape
            assert np.allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_queued_requests_of_a_recurrent_model_run_in_batches(shipped: Served) -> None:
    runs = shipped.metric("lockstep_batch_rows_count", model="sentiment-lstm")
    rows = shipped.metric("lockstep_batch_rows_sum", model="sentiment-lstm")
    sent = [np.full((1, 20), i + 1) for i in range(IN_FLIGHT)]
    with shipped.hold():
        calls = [
            shipped.inference.ModelInfer.future(request("sentiment-lstm", ids, i), timeout=60)
            for i, ids in enumerate(sent)
        ]
        shipped.wait_waiting("sentiment-lstm", IN_FLIGHT)
    for call in calls:
        call.result()
    runs = shipped.metric("lockstep_batch_rows_count", model="sentiment-lstm") - runs
    rows = shipped.metric("lockstep_batch_rows_sum", model="sentiment-lstm") - rows
    assert rows == IN_FLIGHT
    assert runs <= IN_FLIGHT / 4


@pytest.mark.parametrize("model", MODELS)
def test_the_shipped_models_pass_their_self_test(shipped: Served, model: str) -> None:
    spec = shipped.app.registry.get(model, 1).spec
    assert spec.batched
    assert spec.notice == ""
