"""Tensors as numpy arrays: one-shot, step by step, and many. python examples/tensors.py [HOST:PORT]

These calls use the Open Inference Protocol, so they also work with Triton, MLServer and KServe.
"""

import sys

import numpy as np

from lockstep_client import Client

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"
IDS = [12, 7, 431, 5]

with Client(ADDRESS) as client:
    metadata = client.metadata("sentiment-lstm")
    print(*metadata.inputs, *metadata.outputs, sep="\n")

    whole = client.infer("sentiment-lstm", {"tokens": np.array([IDS])}, outputs=["logits"])
    print("one-shot    ", whole["logits"])

    for index, token in enumerate(IDS):  # the server keeps the state from step to step
        step = client.infer(
            "sentiment-lstm.step",
            {"token": np.array([token])},
            sequence_id="my sequence",
            sequence_start=index == 0,
            sequence_end=index == len(IDS) - 1,
        )
    print("step by step", step["logits"])

    rows = ({"tokens": np.arange(1, length)[None]} for length in range(2, 100))
    print(sum(one.answer["logits"].size for one in client.infer_many("sentiment-lstm", rows)), "answers")
