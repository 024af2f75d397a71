"""Handling errors and deadlines: python examples/errors_and_deadlines.py [HOST:PORT]"""

import sys

import lockstep_client as lc

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"

with lc.Client(ADDRESS, timeout_s=2.0, retries=2) as client:
    try:
        client.classify("sentinent-lstm", "a fine film")
    except lc.ModelNotFound as error:
        print(f"unknown model {error.resource!r}; available:", *(model.name for model in client.models()))

    try:
        client.classify("sentiment-lstm", ["a fine film", " "])
    except lc.InvalidRequest as error:
        for violation in error.violations:
            print(f"invalid: {violation.field}: {violation.description}")

    try:
        client.generate("shakespeare-char-lstm", "ROMEO:", max_tokens=60_000, timeout_s=0.1).result()
    except lc.DeadlineExceeded as error:
        print(f"deadline exceeded: {error}")

    try:  # more work than fits into the deadline: rejected on arrival
        client.classify("sentiment-transformer", ["a long text " * 40] * 500, timeout_s=0.05)
    except (lc.Overloaded, lc.DeadlineExceeded) as error:
        print(f"{error.meaning}, retry in {error.retry_after_s} s: {error}")

try:
    with lc.Client("localhost:1", retries=0) as nowhere:
        nowhere.health()
except lc.Unreachable as error:
    print(f"unreachable: {error}")
