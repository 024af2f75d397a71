"""LitServe: JSON over HTTP, a path a model, two worker processes a model, batches of up to MAX_BATCH."""

from __future__ import annotations

from typing import Any

import litserve
from onnx_model import MAX_BATCH, PORT, WORKERS, OnnxModel, names

BATCH_TIMEOUT_S = 0.01


class Inference(litserve.LitAPI):
    def __init__(self, name: str) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S, api_path=f"/{name}")
        self.name = name

    def setup(self, device: str) -> None:
        self.model = OnnxModel(self.name)

    def batch(self, inputs: Any) -> Any:
        return [one["tokens"] for one in inputs]

    def predict(self, x: Any) -> Any:
        """One request if LitServe does not batch, otherwise what `batch` made of several."""
        return self.model.run([x["tokens"]])[0] if MAX_BATCH == 1 else self.model.run(x)

    def unbatch(self, output: Any) -> Any:
        return list(output)

    def encode_response(self, output: Any) -> Any:
        return {"output": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        [Inference(name) for name in names()], accelerator="cpu", workers_per_device=WORKERS
    )
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
