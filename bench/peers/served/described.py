"""What perf_analyzer asks a server before it loads it; no part of the 60 lines."""

from __future__ import annotations

from typing import Any

from lockstep_proto import model_config_pb2, open_inference_pb2
from lockstep_proto.open_inference_pb2_grpc import GRPCInferenceServiceServicer


class Described(GRPCInferenceServiceServicer):
    """Models with one input, tokens int64 [n], of which a request holds one row.

    `sessions`: ONNX Runtime's session of each model.
    """

    sessions: dict[str, Any]

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return open_inference_pb2.ServerMetadataResponse(name="60 lines", version="1")

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        reply = open_inference_pb2.ModelMetadataResponse(name=request.name, versions=["1"], platform="onnx")
        reply.inputs.add(name="tokens", datatype="INT64", shape=[-1, -1])
        reply.outputs.add(name=self._output(request.name), datatype="FP32", shape=[-1, -1])
        return reply

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        config = model_config_pb2.ModelConfig(name=request.name, max_batch_size=1)
        config.input.add(name="tokens", data_type=model_config_pb2.TYPE_INT64, dims=[-1])
        config.output.add(name=self._output(request.name), data_type=model_config_pb2.TYPE_FP32, dims=[-1])
        return open_inference_pb2.ModelConfigResponse(config=config)

    def _output(self, name: str) -> str:
        output: str = self.sessions[name].get_outputs()[0].name
        return output
