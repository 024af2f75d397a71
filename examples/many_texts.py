"""Any number of texts over one stream: python examples/many_texts.py [HOST:PORT] < texts.txt

The lines of standard input, each labelled; without a pipe, ten thousand made here. They are read as they are
needed, so a file of any size will do, and a line that is wrong has an error of its own.
"""

import sys
import time
from collections import Counter

from lockstep_client import Client

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"


def made(count: int = 10_000) -> list[str]:
    return [f"a film that is {'very ' * (n % 9)}{'good' if n % 3 else 'bad'}" for n in range(count)]


lines = made() if sys.stdin.isatty() else (line.strip() for line in sys.stdin)
seen: Counter[str] = Counter()
begun = time.perf_counter()
with Client(ADDRESS) as client:
    for one in client.classify_many("sentiment-bow", lines, top_k=1):
        if one.error:
            print(f"line {one.number + 1}: {one.error}", file=sys.stderr)
        seen[one.error.meaning if one.error else one.answer.best.name] += 1
took_s = time.perf_counter() - begun
print(f"{seen.total()} texts in {took_s:.2f} s, {seen.total() / took_s:,.0f} a second")
for name, count in seen.most_common():
    print(f"{name:<16} {count}")
