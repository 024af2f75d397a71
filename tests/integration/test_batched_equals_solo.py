"""Batching never changes an answer: every shipped model, random lengths, 64 or more in flight."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import fakes
import numpy as np
import onnxruntime
import pytest
from integration.harness import REPOSITORY, Served
from patience import PATIENCE_S, limit_s

import lockstep_client as lc

if TYPE_CHECKING:
    from collections.abc import Callable

MODELS = sorted(folder.name for folder in REPOSITORY.glob("sentiment-*"))
REQUESTS, IN_FLIGHT = 96, 64
QUEUED = 16  # few enough short ones for the queue limit of the model, on a slow machine too
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


def unary(server: Served, model: str, sent: list[Array]) -> list[dict[str, Array]]:
    """64 calls in flight; those that are rejected for overload are sent again, as the client does."""

    def infer(ids: Array) -> dict[str, Array]:
        while True:
            with suppress(lc.Overloaded):
                return dict(client.infer(model, {"tokens": ids}).outputs)

    with lc.Client(server.address, timeout_s=PATIENCE_S) as client, ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(pool.map(infer, sent))


def stream(server: Served, model: str, sent: list[Array]) -> list[dict[str, Array]]:
    """One stream with 64 requests in flight; those that are rejected for overload are sent again."""
    inputs = [{"tokens": ids} for ids in sent]
    with lc.Client(server.address) as client:
        outcomes = list(client.infer_many(model, inputs, in_flight=IN_FLIGHT, timeout_s=limit_s(100)))
    assert [outcome.error for outcome in outcomes] == [None] * REQUESTS
    return [dict(outcome.answer.outputs) for outcome in outcomes]


@pytest.mark.parametrize("way", [unary, stream])
@pytest.mark.parametrize("model", MODELS)
def test_batched_equals_solo(shipped: Served, model: str, way: Any) -> None:
    sent = draw(seed=MODELS.index(model))
    unbatched = solo(model)
    replies = way(shipped, model, sent)
    for ids, reply in zip(sent, replies, strict=True):
        for name, expected in unbatched(ids).items():
            got = reply[name]
            assert got.shape == expected.shape
            assert np.allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_queued_requests_of_a_recurrent_model_run_in_batches(shipped: Served) -> None:
    runs = shipped.metric("lockstep_batch_rows_count", model="sentiment-lstm")
    rows = shipped.metric("lockstep_batch_rows_sum", model="sentiment-lstm")
    sent = [np.full((1, 5), i + 1) for i in range(QUEUED)]
    with shipped.hold():
        calls = [
            shipped.inference.ModelInfer.future(request("sentiment-lstm", ids, i), timeout=PATIENCE_S)
            for i, ids in enumerate(sent)
        ]
        shipped.wait_waiting("sentiment-lstm", QUEUED)
    for call in calls:
        call.result()
    runs = shipped.metric("lockstep_batch_rows_count", model="sentiment-lstm") - runs
    rows = shipped.metric("lockstep_batch_rows_sum", model="sentiment-lstm") - rows
    assert rows == QUEUED
    assert runs <= QUEUED / 4


@pytest.mark.parametrize("model", MODELS)
def test_the_shipped_models_pass_their_self_test(shipped: Served, model: str) -> None:
    spec = shipped.app.registry.get(model, 1).spec
    assert spec.batched
    assert spec.notice == ""
