"""Several streams of one model that write at the same time: what arrives, and then the steps that made it.

The first stream writes the longest text. The others join one by one while it writes, and write texts of
different lengths, so that streams join and leave whatever the model's speed is.
"""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from lockstep_client.errors import LockstepError
from lockstep_ui import problems

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from lockstep_client.client import AsyncClient

MAX_SEED = (1 << 53) - 1
"""The largest integer that a page writes exactly."""
_SHORTEST = 0.25
"""Length of the shortest text, as a share of the longest."""
_JOINED = 0.6
"""Share of the longest text that is written when the last stream joins."""


class LanesRequest(Struct, forbid_unknown_fields=True):
    """How many streams, and what they write."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    prompt: str = ""
    streams: Annotated[int, Meta(ge=1, le=64)] = 8
    max_tokens: Annotated[int, Meta(ge=4, le=1000)] = 120
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.8
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] = 1


class Arrival(Struct, omit_defaults=True):
    """What one message of a stream brought, or how the stream ended."""

    lane: int
    at_s: float
    """Seconds since the first stream was started."""
    tokens: int = 0
    text: str = ""
    joined: bool = False
    """The stream was started."""
    reason: str = ""
    """Why it ended; empty if it goes on."""
    steps: int = 0
    """Runs that it took part in; set when it ends, as is `rows`."""
    rows: float = 0.0
    """Mean number of rows in those runs."""
    request_id: str = ""
    """Of the stream in the server's record of runs; set when it ends."""
    problem: problems.Problem | None = None


class LaneRun(Struct):
    """A run of the model, as the server recorded it."""

    begun_s: float
    """Seconds since the first of the runs began."""
    seconds: float
    rows: int
    """Rows with a request, those of other callers among them."""
    lanes: list[int]
    """The streams that it advanced."""


class Recorded(Struct):
    """The runs that wrote the texts, in order, or why there are none."""

    runs: list[LaneRun] = []
    problem: problems.Problem | None = None


def lengths(wanted: LanesRequest) -> list[int]:
    """The number of tokens of each stream; the first one's is the largest."""
    draw = Random(wanted.seed)
    shortest = max(1, round(wanted.max_tokens * _SHORTEST))
    return [
        wanted.max_tokens,
        *(draw.randint(shortest, wanted.max_tokens) for _ in range(wanted.streams - 1)),
    ]


def joins_after(wanted: LanesRequest) -> list[int]:
    """Tokens that the first stream has written when each stream joins; 0 for the first."""
    step = wanted.max_tokens * _JOINED / max(1, wanted.streams - 1)
    return [round(lane * step) for lane in range(wanted.streams)]


class _Lanes:
    """The streams of one request, and the queue that their arrivals go through."""

    def __init__(self, client: AsyncClient, wanted: LanesRequest, address: str) -> None:
        self._client, self._wanted, self._address = client, wanted, address
        self._lengths, self._joins = lengths(wanted), joins_after(wanted)
        self._may_join = [asyncio.Event() for _ in self._joins]
        self._start = 0.0
        self.arrivals: asyncio.Queue[Arrival | None] = asyncio.Queue()

    async def run(self) -> None:
        """Run all streams. The last arrival is None."""
        self._let_in(0)
        await asyncio.gather(*(self._lane(lane) for lane in range(self._wanted.streams)))
        self.arrivals.put_nowait(None)

    async def _lane(self, lane: int) -> None:
        await self._may_join[lane].wait()
        self._arrive(lane, joined=True)
        try:
            await self._write(lane)
        except LockstepError as error:
            self._arrive(lane, reason="FAILED", problem=problems.of_error(error, self._address))
        if lane == 0:  # whoever has not joined need not wait any longer
            self._let_in(self._wanted.max_tokens)

    async def _write(self, lane: int) -> None:
        wanted, written = self._wanted, 0
        async with self._client.generate(
            wanted.model, wanted.prompt, max_tokens=self._lengths[lane], temperature=wanted.temperature,
            seed=wanted.seed + lane,
        ) as stream:  # fmt: skip
            async for part in stream:
                written += len(part.tokens)
                took = part.timings
                self._arrive(
                    lane, tokens=len(part.tokens), text=part.text, reason=part.reason,
                    steps=took.steps if took else 0, rows=took.batch_rows if took else 0.0,
                    request_id=took.request_id if took else "",
                )  # fmt: skip
                if lane == 0:
                    self._let_in(written)

    def _let_in(self, written: int) -> None:
        for event, after in zip(self._may_join, self._joins, strict=True):
            if after <= written:
                event.set()

    def _arrive(self, lane: int, **what: Any) -> None:
        now = time.perf_counter()
        self._start = self._start or now
        self.arrivals.put_nowait(Arrival(lane, now - self._start, **what))


async def lanes(client: AsyncClient, wanted: LanesRequest, address: str) -> AsyncIterator[Arrival | Recorded]:
    """Run the streams. Yields what arrives, in order, then what the server recorded. Leaving the loop cancels
    all of them."""
    running = _Lanes(client, wanted, address)
    task = asyncio.create_task(running.run())
    lane_of: dict[str, int] = {}
    try:
        while (arrival := await running.arrivals.get()) is not None:
            if arrival.request_id:
                lane_of[arrival.request_id] = arrival.lane
            yield arrival
        await task
        yield await _recorded(client, wanted.model, lane_of, address)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _recorded(client: AsyncClient, model: str, lane_of: Mapping[str, int], address: str) -> Recorded:
    """The runs that the requests with these ids took part in."""
    try:
        runs = await client.runs(model).result()
    except LockstepError as error:  # another caller's token, or another server
        return Recorded(problem=problems.of_error(error, address))
    ours = [(run, [lane_of[one] for one in run.requests if one in lane_of]) for run in runs]
    ours = sorted(((run, lanes) for run, lanes in ours if lanes), key=lambda pair: pair[0].begun)
    return Recorded(
        [LaneRun(run.begun - ours[0][0].begun, run.seconds, run.rows, lanes) for run, lanes in ours]
    )
