"""Tiny models of frames: a strided convolution over samples."""

from __future__ import annotations

from typing import Any

import fakes
import numpy as np
from onnx import helper

STRIDED = """
lengths.samples.max = 20000
inputs.x = {batch_axis = 0, lengths = {1 = "samples"}}
outputs.y = {batch_axis = 0, lengths = {1 = "LENGTH"}}
batching.max_padded_elements = 100000
"""


def strided(kernel: int, stride: int, *, counts: bool = False) -> Any:
    """x [n, samples] -> y [n, frames, 4]: a convolution. With `counts`, plus the number of frames."""
    weights = np.random.default_rng(0).standard_normal((4, 1, kernel))
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["u"]),
        helper.make_node("Conv", ["u", "W"], ["c"], kernel_shape=[kernel], strides=[stride]),
        helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Shape", ["t"], ["size"], start=1, end=2),
        helper.make_node("Cast", ["size"], ["count"], to=1),
        helper.make_node("Add", ["t", "count" if counts else "zero"], ["y"]),
    ]
    return fakes.model(
        nodes,
        [fakes.tensor("x", shape=("n", "samples"))],
        [fakes.tensor("y", shape=("n", "frames", 4))],
        [
            fakes.constant("one", [1], np.int64),
            fakes.constant("zero", 0, np.float32),
            fakes.constant("W", weights, np.float32),
        ],
    )
