"""Calls of NVIDIA's tritonclient: `triton_calls.py ADDRESS MODEL` prints what they answer, as JSON."""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton

TOKENS = np.array([[12, 7, 431, 5]], np.int64)
SEQUENCES = range(1, 9)


def tensor(name: str, value: np.ndarray) -> Any:
    found = triton.InferInput(name, list(value.shape), "INT64")
    found.set_data_from_numpy(value)
    return found


def whole(client: Any, model: str) -> Any:
    return client.infer(model, [tensor("tokens", TOKENS)]).as_numpy("logits").tolist()


def stepped(client: Any, model: str) -> Any:
    """Sequences in turns, by a call for each step, so that each step must find its state."""
    found: dict[int, Any] = {}
    last = TOKENS.shape[1] - 1
    for index, token in enumerate(TOKENS[0]):
        for sequence in SEQUENCES:
            step = tensor("token", np.array([token + sequence], np.int64))
            reply = client.infer(
                f"{model}.step",
                [step],
                sequence_id=sequence,
                sequence_start=index == 0,
                sequence_end=index == last,
            )
            found[sequence] = reply.as_numpy("logits").tolist()
    return found


def streamed(client: Any, model: str) -> Any:
    replies: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: replies.put((result, error)))
    found = []
    for _ in range(3):
        client.async_stream_infer(model, [tensor("tokens", TOKENS)])
        result, error = replies.get(timeout=60)
        found.append(str(error) if error is not None else result.as_numpy("logits").tolist())
    client.stop_stream()
    return found


def main(address: str, model: str) -> None:
    with triton.InferenceServerClient(address) as client:
        print(json.dumps([call(client, model) for call in (whole, stepped, streamed)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
