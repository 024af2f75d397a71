"""Triton by pytriton: the Open Inference Protocol over gRPC, two instances a model, dynamic batching.

Triton joins only requests of equal length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx_model import MAX_BATCH, PORT, WORKERS, OnnxModel, names
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

if TYPE_CHECKING:
    from collections.abc import Callable


def inference(name: str) -> Callable[..., Any]:
    model = OnnxModel(name)

    @batch
    def infer(tokens: Any) -> Any:
        return {model.output: model.run(tokens)}

    return infer


if __name__ == "__main__":
    config = TritonConfig(
        grpc_address="127.0.0.1", grpc_port=PORT, allow_http=False, allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        for name in names():
            triton.bind(
                model_name=name,
                infer_func=[inference(name) for _ in range(WORKERS)],
                inputs=[Tensor(name="tokens", dtype=np.int64, shape=(-1,))],
                outputs=[Tensor(name=OnnxModel(name).output, dtype=np.float32, shape=(-1,))],
                config=ModelConfig(max_batch_size=MAX_BATCH, batcher=DynamicBatcher()),
            )
        triton.serve()
