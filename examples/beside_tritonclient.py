"""The same request with Triton's client and with this one, in one process.

python examples/beside_tritonclient.py [HOST:PORT]; needs pip install 'tritonclient[grpc]'
"""

import sys

import numpy as np
import tritonclient.grpc as triton

from lockstep_client import Client

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"
TOKENS = np.array([[12, 7, 431, 5]], np.int64)

triton_client = triton.InferenceServerClient(ADDRESS)
tokens = triton.InferInput("tokens", TOKENS.shape, "INT64")
tokens.set_data_from_numpy(TOKENS)
print("tritonclient   ", triton_client.infer("sentiment-lstm", [tokens]).as_numpy("logits"))
triton_client.close()

with Client(ADDRESS) as client:
    print("lockstep_client", client.infer("sentiment-lstm", {"tokens": TOKENS})["logits"])
