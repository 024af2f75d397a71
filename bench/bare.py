"""A bare loop around one ONNX Runtime session: the baseline for one-shot serving.

`python -m bench.bare MODEL.onnx LENGTHS` (a JSON list) prints sequences/s by batch size as JSON: unbatched,
and in batches sorted by length. One session, one thread, spinning off.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCHES = (1, 4, 8, 16, 32, 64)


def session(file: str) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def feeds(model: Any, lengths: Sequence[int], seed: int) -> dict[str, Any]:
    """The inputs of a padded batch with one row per length."""
    rows, longest = len(lengths), max(lengths)
    real = np.arange(longest) < np.array(lengths)[:, None]
    ids = np.where(real, np.random.default_rng(seed).integers(1, 8000, (rows, longest)), 0)
    made = {"tokens": ids, "lengths": np.array(lengths, np.int64), "mask": real}
    types = {"tensor(float)": np.float32, "tensor(bool)": np.bool_, "tensor(int64)": np.int64}
    return {arg.name: made[arg.name].astype(types[arg.type]) for arg in model.get_inputs()}


def rate(model: Any, lengths: Sequence[int], batch: int) -> float:
    """Sequences per second; sorted by length if batched."""
    order = list(lengths) if batch == 1 else sorted(lengths)
    batches = [feeds(model, order[at : at + batch], at) for at in range(0, len(order), batch)]
    for one in batches[:: max(len(batches) // 8, 1)]:
        model.run([model.get_outputs()[0].name], one)
    begun = time.perf_counter()
    for one in batches:
        model.run([model.get_outputs()[0].name], one)
    return len(lengths) / (time.perf_counter() - begun)


def main() -> None:
    model = session(sys.argv[1])
    lengths = json.loads(sys.argv[2])
    print(json.dumps({str(batch): rate(model, lengths, batch) for batch in BATCHES}))


if __name__ == "__main__":
    main()
