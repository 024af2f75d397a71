"""Translate a text, and show its attention: python examples/translate.py [HOST:PORT]"""

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
        source_token = whole.source_tokens[weights.argmax()]
        print(f"{piece:<12} {source_token:<12} {weights.max():4.0%}")
