"""Stream the text of a language model: python examples/generate.py [HOST:PORT]"""

import sys

from lockstep_client import Client

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"
MODEL = "shakespeare-char-lstm"

with Client(ADDRESS) as client:
    stream = client.generate(MODEL, "ROMEO:", max_tokens=200, temperature=0.8, seed=7)
    with stream:
        for part in stream:  # all tokens that were ready when the server wrote the message
            print(part.text, end="", flush=True)
    whole = stream.result()
    print(f"\n-- {len(whole.tokens)} tokens, ended by {whole.reason}, seed {whole.seed}")
    print(f"-- first token after {whole.timings.first_token_s * 1e3:.1f} ms on the server")

    for part in client.generate(MODEL, "JULIET:", seed=7, stop="\n\n"):
        if len(part.text) > 1000:
            break  # leaving a stream cancels it on the server
