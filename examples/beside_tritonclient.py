"""The same question by Triton's client and by this one, in one process.

python examples/beside_tritonclient.py [HOST:PORT], after pip install 'tritonclient[grpc]'
"""

import sys

import numpy as np
import tritonclient.grpc as triton

from lockstep_client import Client

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"
TOKENS = np.array([[12, 7, 431, 5]], np.int64)

theirs = triton.InferenceServerClient(ADDRESS)
asked = triton.InferInput("tokens", TOKENS.shape, "INT64")
asked.set_data_from_numpy(TOKENS)
print("tritonclient   ", theirs.infer("sentiment-lstm", [asked]).as_numpy("logits"))
theirs.close()

with Client(ADDRESS) as ours:
    print("lockstep_client", ours.infer("sentiment-lstm", {"tokens": TOKENS})["logits"])
