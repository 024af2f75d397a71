"""A load from the client library's own calls, with replies parsed into results.

`python -m bench.many '{"address": …, "model": …, "call": "classify_many", "count": 8000, "async": false}'`
prints {"rate", "failed"} as JSON. `call` is classify_many, infer_many, or classify (single calls, 64 in
flight, sent by the load generator's driver). The pipelines of classify_many and infer_many keep their own
number of requests in flight, which is what is measured, so nothing drives them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_client import AsyncClient, Client
from lockstep_load.in_process import send_all

if TYPE_CHECKING:
    from lockstep_load.senders import ReplyTimes

LENGTH = 32


def rows(call: str, count: int) -> list[Any]:
    """`count` rows of 32 ids each."""
    ids = np.random.default_rng(0).integers(1, 8000, (count, LENGTH))
    return [{"x": row[None]} for row in ids] if call == "infer_many" else ids.tolist()


def blocking(spec: dict[str, Any], given: list[Any]) -> int:
    with Client(spec["address"]) as client:
        return sum(one.error is not None for one in getattr(client, spec["call"])(spec["model"], given))


async def awaited(spec: dict[str, Any], given: list[Any]) -> int:
    async with AsyncClient(spec["address"]) as client:
        if spec["call"] == "classify":
            return await single(client, spec["model"], given)
        outcomes = getattr(client, spec["call"])(spec["model"], given)
        return sum([one.error is not None async for one in outcomes])


@dataclass(frozen=True)
class Row:
    """The ids of one text."""

    ids: list[int]

    @property
    def length(self) -> int:
        return len(self.ids)


async def single(client: AsyncClient, model: str, given: list[list[int]]) -> int:
    """Classify each row by a call of its own. Returns the number of failures."""

    async def send(row: Row, _: ReplyTimes) -> None:
        await client.classify(model, ids=[row.ids])

    return (await send_all([Row(ids) for ids in given], send, 64)).failed


def main(spec: dict[str, Any]) -> None:
    given = rows(spec["call"], spec["count"])

    def drive(some: list[Any]) -> int:
        return asyncio.run(awaited(spec, some)) if spec["async"] else blocking(spec, some)

    drive(given[: len(given) // 10])
    begun = time.perf_counter()
    failed = drive(given)
    print(json.dumps({"rate": len(given) / (time.perf_counter() - begun), "failed": failed}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
