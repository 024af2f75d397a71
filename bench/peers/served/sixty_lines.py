"""The server that most people write: grpc.aio, an executor of two threads, one session a model, no batching.

PEER_MODELS=folder PEER_PORT=port python sixty_lines.py
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort

from described import Described

from lockstep_proto import open_inference_pb2 as pb
from lockstep_proto.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server

MASKS = {"tensor(float)": np.float32, "tensor(bool)": np.bool_, "tensor(int64)": np.int64}


def load(file: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


class Service(Described):
    def __init__(self, models: Path) -> None:
        self.sessions = {file.parent.parent.name: load(file) for file in models.glob("*/1/model.onnx")}
        self.executor = ThreadPoolExecutor(2)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.executor, self.predict, request)

    def predict(self, request: Any) -> Any:
        session, tensor = self.sessions[request.model_name], request.inputs[0]
        ids = np.frombuffer(request.raw_input_contents[0], np.int64).reshape(tensor.shape)
        feed = {tensor.name: ids}
        for extra in session.get_inputs():
            if extra.name == "mask":
                feed["mask"] = np.ones(ids.shape, MASKS[extra.type])
            elif extra.name == "lengths":
                feed["lengths"] = np.array([ids.shape[1]], np.int64)
        (output,) = session.run([request.outputs[0].name], feed)
        reply = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        reply.outputs.add(name=request.outputs[0].name, datatype="FP32", shape=output.shape)
        reply.raw_output_contents.append(output.tobytes())
        return reply


async def main() -> None:
    server = grpc.aio.server()
    add_GRPCInferenceServiceServicer_to_server(Service(Path(os.environ["PEER_MODELS"])), server)
    server.add_insecure_port(f"127.0.0.1:{os.environ['PEER_PORT']}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
