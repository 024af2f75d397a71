"""MLServer: the Open Inference Protocol over gRPC, two worker processes, adaptive batching off.

Its batcher joins requests of unequal lengths into one array, which fails for every one of them.
"""

from __future__ import annotations

import asyncio

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from onnx_model import PORT, WORKERS, OnnxModel, names


class Inference(MLModel):
    async def load(self) -> bool:
        self.model = OnnxModel(self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        ids = NumpyCodec.decode_input(payload.inputs[0])
        output = self.model.run(ids)
        name = payload.outputs[0].name if payload.outputs else "output"
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(name, np.asarray(output))]
        )


async def main() -> None:
    settings = Settings(
        host="127.0.0.1", grpc_port=PORT, http_port=0, metrics_port=0, metrics_endpoint=None,
        parallel_workers=WORKERS, debug=False,
    )  # fmt: skip
    server = MLServer(settings)
    models = [ModelSettings(name=name, implementation=Inference) for name in names()]
    await server.start(models)


if __name__ == "__main__":
    asyncio.run(main())
