"""A bare grpc.aio server that echoes its input tensor: an upper bound for gRPC in Python.

`python -m bench.echo` listens on a free port, prints it, and serves ModelInfer and ModelStreamInfer. Requests
are parsed and replies serialised, as in any server.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from lockstep_proto import open_inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"


def _answer(request: Any) -> Any:
    tensor = request.inputs[0]
    reply = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    reply.outputs.add(name="y", datatype=tensor.datatype, shape=tensor.shape)
    reply.raw_output_contents.append(request.raw_input_contents[0])
    return reply


async def _unary(request: Any, _: Any) -> Any:
    return _answer(request)


async def _stream(_: Any, context: Any) -> None:
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(pb.ModelStreamInferResponse(infer_response=_answer(request)))


async def main() -> None:
    server = grpc.aio.server()
    handlers = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(
            _unary, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
        ),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
            _stream, pb.ModelInferRequest.FromString, pb.ModelStreamInferResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
