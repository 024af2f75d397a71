"""Any number of texts over one stream: python examples/many_texts.py [HOST:PORT] < texts.txt

Classifies the lines of standard input; without a pipe, ten thousand generated texts. Lines are read lazily,
so the file may have any size, and an invalid line fails alone.
"""

import sys
import time
from collections import Counter

from lockstep_client import Client

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"


def generated(count: int = 10_000) -> list[str]:
    return [f"a film that is {'very ' * (n % 9)}{'good' if n % 3 else 'bad'}" for n in range(count)]


lines = generated() if sys.stdin.isatty() else (line.strip() for line in sys.stdin)
seen: Counter[str] = Counter()
start = time.perf_counter()
with Client(ADDRESS) as client:
    for one in client.classify_many("sentiment-bow", lines, top_k=1):
        if one.error:
            print(f"line {one.number + 1}: {one.error}", file=sys.stderr)
        seen[one.error.meaning if one.error else one.answer.best.name] += 1
took_s = time.perf_counter() - start
print(f"{seen.total()} texts in {took_s:.2f} s, {seen.total() / took_s:,.0f} per second")
for name, count in seen.most_common():
    print(f"{name:<16} {count}")
