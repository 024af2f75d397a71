"""mosec: MessagePack over HTTP, a route a model, two worker processes a model."""

from __future__ import annotations

import os
from typing import Any

from mosec import Runtime, Server, Worker
from mosec.mixin import MsgpackMixin
from onnx_model import MAX_BATCH, WORKERS, OnnxModel, names

MAX_WAIT_MS = 10  # mosec's default


class Inference(MsgpackMixin, Worker):
    def __init__(self) -> None:
        super().__init__()
        self.model = OnnxModel(os.environ["PEER_MODEL"])

    def forward(self, data: Any) -> Any:
        """One request if mosec does not batch, otherwise a list of them."""
        if MAX_BATCH == 1:
            return {"output": self.model.run([data["tokens"]])[0].tolist()}
        return [{"output": row} for row in self.model.run([one["tokens"] for one in data]).tolist()]


if __name__ == "__main__":
    server = Server()
    server.register_runtime(
        {
            f"/{name}": [
                Runtime(Inference, WORKERS, MAX_BATCH, MAX_WAIT_MS, env=[{"PEER_MODEL": name}] * WORKERS)
            ]
            for name in names()
        }
    )
    server.run()
