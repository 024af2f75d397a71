"""numpy in, numpy out: one-shot, and step by step. python examples/tensors.py [HOST:PORT]

These calls are of the Open Inference Protocol: they work on Triton, MLServer and KServe too.
"""

import sys

import numpy as np

from lockstep_client import Client

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"
IDS = [12, 7, 431, 5]

with Client(ADDRESS) as client:
    described = client.metadata("sentiment-lstm")
    print(*described.inputs, *described.outputs, sep="\n")

    whole = client.infer("sentiment-lstm", {"tokens": np.array([IDS])}, outputs=["logits"])
    print("at once     ", whole["logits"])

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
