"""A bare loop of steps around one ONNX Runtime session: the baseline for step-wise serving.

No sampling, no scheduling, no gRPC; the states of one step are the inputs of the next.
`python -m bench.bare_steps STEP.onnx ROWS` prints {"rate": tokens/s} as JSON.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from .bare import session

SECONDS = 1.5


def rate(file: str, rows: int) -> float:
    model = session(file)
    token = np.ones(rows, np.int64)
    sizes = {arg.name: arg.shape for arg in model.get_inputs() if arg.name != "token"}
    states = {
        name: np.zeros([rows if isinstance(size, str) else size for size in shape], np.float32)
        for name, shape in sizes.items()
    }
    outputs = ["logits", *(name.replace("_in", "_out") for name in states)]
    steps, begun = 0, 0.0
    while True:
        if steps == 100:  # warm-up is over
            begun = time.perf_counter()
        _, *new = model.run(outputs, {"token": token, **states})
        states = dict(zip(states, new, strict=True))
        steps += 1
        if begun and time.perf_counter() - begun > SECONDS:
            return (steps - 100) * rows / (time.perf_counter() - begun)


if __name__ == "__main__":
    print(json.dumps({"rate": rate(sys.argv[1], int(sys.argv[2]))}))
