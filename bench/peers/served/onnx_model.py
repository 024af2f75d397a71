"""One model of the comparison as the peers run it: a session of one thread, rows padded to the longest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

if TYPE_CHECKING:
    from collections.abc import Sequence

MODELS = Path(os.environ.get("PEER_MODELS", "."))
PORT = int(os.environ.get("PEER_PORT", "0"))
MAX_BATCH = int(os.environ.get("PEER_MAX_BATCH", "1"))
WORKERS = 2
_MASKS = {"tensor(float)": np.float32, "tensor(bool)": np.bool_, "tensor(int64)": np.int64}


def names() -> list[str]:
    return sorted(file.parent.parent.name for file in MODELS.glob("*/1/model.onnx"))


class OnnxModel:
    """`run`: sequences of ids -> the model's first output, float32 [rows, columns]."""

    def __init__(self, name: str, models: Path = MODELS) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(
            models / name / "1" / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self._types = {one.name: one.type for one in self._session.get_inputs()}
        self.output = self._session.get_outputs()[0].name

    def run(self, sequences: Sequence[Any]) -> Any:
        lengths = np.array([len(one) for one in sequences], np.int64)
        ids = np.zeros((len(sequences), lengths.max()), np.int64)
        for row, one in zip(ids, sequences, strict=True):
            row[: len(one)] = one
        feed: dict[str, Any] = {"tokens": ids}
        if "mask" in self._types:
            real = np.arange(ids.shape[1]) < lengths[:, None]
            feed["mask"] = real.astype(_MASKS[self._types["mask"]])
        if "lengths" in self._types:
            feed["lengths"] = lengths
        return self._session.run([self.output], feed)[0]
