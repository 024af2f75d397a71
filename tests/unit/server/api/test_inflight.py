"""The reader of a stream leaves no task behind, however its stream ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from lockstep_server.api.inflight import Reader


class SilentContext:
    """A stream whose client sends nothing and does not close it."""

    async def read(self) -> Any:
        await asyncio.Event().wait()


async def test_a_drain_that_is_cancelled_leaves_no_task() -> None:
    async def take(message: Any) -> None:
        raise AssertionError(message)

    reader = Reader(SilentContext(), take)
    before = asyncio.all_tasks()
    reading = asyncio.create_task(reader.run())
    draining = asyncio.create_task(reader.drain(reading))
    await asyncio.sleep(0)
    for task in (draining, reading):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
