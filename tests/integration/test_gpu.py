"""On a GPU the shipped models answer as on the CPU, within what its arithmetic allows."""

from __future__ import annotations

import fakes
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


def test_the_shipped_models_answer_as_on_the_cpu() -> None:
    sent = draw(5)
    with serve(REPOSITORY, device="cuda") as server:
        for model in MODELS:
            assert server.app.registry.resolve(model).spec.provider == "CUDAExecutionProvider"
            alone = solo(model)
            for ids, reply in zip(sent, unary(server, model, sent), strict=True):
                logits = fakes.values(reply, "logits")
                np.testing.assert_allclose(logits, alone(ids)["logits"], rtol=1e-2, atol=1e-2)
