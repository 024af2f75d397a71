"""Calls that go on until they are told to stop, each with its outcome."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lockstep_client import AsyncClient, LockstepError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass
class Outcomes:
    """What became of calls. `wrong` counts answers other than the expected one."""

    answered: int = 0
    wrong: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    messages: set[str] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.answered + self.wrong + self.failed.total()

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def keep_calling(
    address: str, callers: int, call: Callable[[AsyncClient, int], Awaitable[bool]], stop: asyncio.Event
) -> Outcomes:
    """`callers` tasks call one after another, without retries, until `stop` is set; `call` gets the number of
    the call and says whether the answer is right."""
    outcomes = Outcomes()

    async def one(client: AsyncClient, number: int) -> None:
        while not stop.is_set():
            begun = time.perf_counter()
            try:
                right = await call(client, number)
            except LockstepError as error:
                outcomes.failed[type(error).__name__] += 1
                outcomes.messages.add(str(error))
            else:
                outcomes.seconds.append(time.perf_counter() - begun)
                outcomes.answered += right
                outcomes.wrong += not right
            number += callers

    async with AsyncClient(address, retries=0) as client, asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(one(client, number))
    return outcomes
