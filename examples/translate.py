"""A translation, and what the model looked at for each token: python examples/translate.py [HOST:PORT]"""

import sys

from lockstep_client import Client

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"

with Client(ADDRESS) as client:
    stream = client.translate("translate-en-fr", "A man is riding a red bicycle .", attention=True)
    for part in stream:
        print(part.text, end="", flush=True)
    print()

    whole = stream.result()
    rows = whole.attention if whole.attention is not None else ()  # [tokens, source tokens]
    for piece, weights in zip(whole.pieces, rows, strict=True):
        looked_at = whole.source_tokens[weights.argmax()]
        print(f"{piece:<12} {looked_at:<12} {weights.max():4.0%}")
