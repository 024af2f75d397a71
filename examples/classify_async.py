"""Classify a text with several models at once: python examples/classify_async.py [HOST:PORT]"""

import asyncio
import sys

from lockstep_client import AsyncClient

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"
SENTENCE = "it is funny , not sad"


async def main() -> None:
    async with AsyncClient(ADDRESS, timeout_s=5.0) as client:
        names = [model.name for model in await client.models(ready=True)]
        classifiers = [name for name in names if name.startswith("sentiment-") and not name.endswith(".step")]
        answers = await asyncio.gather(*(client.classify(name, SENTENCE, top_k=1) for name in classifiers))
        for name, [answer] in zip(classifiers, answers, strict=True):
            print(f"{name:<24} {answer.best.name} {answer.best.probability:.0%}")


asyncio.run(main())
