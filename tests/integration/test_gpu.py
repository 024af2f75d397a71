"""Shipped models give the same answers on a GPU as on the CPU, within the GPU's precision."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from integration.harness import REPOSITORY, serve
from integration.test_batched_equals_solo import MODELS, draw, solo, unary

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
        reason="needs a CUDA device and onnxruntime-gpu",
    ),
]


def test_shipped_models_give_the_same_answers_as_on_the_cpu() -> None:
    sent = draw(5)
    with serve(REPOSITORY, device="cuda") as server:
        for model in MODELS:
            assert server.app.registry.resolve(model).spec.provider == "CUDAExecutionProvider"
            unbatched = solo(model)
            for ids, reply in zip(sent, unary(server, model, sent), strict=True):
                logits = reply["logits"]
                np.testing.assert_allclose(logits, unbatched(ids)["logits"], rtol=1e-2, atol=1e-2)
