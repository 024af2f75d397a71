"""Classify texts, and encode them as vectors: python examples/classify.py [HOST:PORT]"""

import sys

from lockstep_client import Client

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"

with Client(ADDRESS) as client:
    texts = ["a warm , funny and moving film", "two hours of noise without a single idea"]
    for text, answer in zip(texts, client.classify("sentiment-lstm", texts), strict=True):
        print(f"{answer.best.name:<9} {answer.best.probability:4.0%}  {text}")

    [answer] = client.classify("sentiment-lstm", texts[0])
    timings = answer.timings
    print(f"queued for {timings.queue_s * 1e3:.2f} ms, computed for {timings.compute_s * 1e3:.2f} ms,")
    print(f"with {timings.batch_rows:.0f} rows in the run, version {answer.version}")

    [encoding] = client.encode("sentiment-transformer", texts[0], attention=True)
    if encoding.attention is not None:  # [layers, heads, tokens, tokens]
        print(f"a vector of {encoding.vector.shape}, attention of {encoding.attention.shape}")
