"""Part 2: a burst of texts of mixed lengths to each classifier, and how the server batched it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

from lockstep_client import Overloaded
from lockstep_client.demo import DemoError
from lockstep_client.demo.output import emit, ms, quantile
from lockstep_client.metrics_text import scrape
from lockstep_client.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_client import AsyncClient, Classification

REVIEWS = (
    "an intimate and quietly devastating portrait of a family that has forgotten how to talk",
    "the jokes land flat and the plot limps from one tired cliche to the next",
    "gorgeous to look at , but there is nothing behind the pretty pictures",
    "the cast is superb and the script gives each of them a moment to shine",
    "two hours of noise without a single idea",
    "it made me laugh and then , without warning , it broke my heart",
)
"""Source of the words of the burst."""

REQUESTS, IN_FLIGHT, LONGEST_WORDS = 512, 64, 60
MANY = 4096
MIN_WAIT_S = 0.05
"""Before the next attempt of a rejected request if the server names no time."""
HEADER = (
    "model", "sent", "runs", "rows/run", "padding", "req/s",
    "p50 ms", "p99 ms", "queue ms", "compute ms",
)  # fmt: skip


@dataclass(frozen=True)
class BurstText:
    """A request of the burst."""

    text: str

    @property
    def length(self) -> int:
        """Its words."""
        return len(self.text.split())


@dataclass(frozen=True)
class BurstResult:
    """The result of one burst: latencies at the client, replies, and increases of the server's counters."""

    latencies_s: list[float]
    answers: list[Classification]
    wall_s: float
    runs: float
    rows: float
    elements: float
    padded_elements: float

    def row(self, model: str) -> tuple[str, ...]:
        """The row below `HEADER`."""
        return (
            model,
            str(len(self.answers)),
            f"{self.runs:.0f}",
            f"{self.rows / max(self.runs, 1):.1f}",
            f"{1 - self.elements / max(self.padded_elements, 1):.0%}",
            f"{len(self.answers) / self.wall_s:.0f}",
            ms(quantile(self.latencies_s, 0.5)),
            ms(quantile(self.latencies_s, 0.99)),
            ms(quantile([answer.timings.queue_s for answer in self.answers], 0.5)),
            ms(quantile([answer.timings.compute_s for answer in self.answers], 0.5)),
        )


async def show(client: AsyncClient, names: Sequence[str], metrics_port: int) -> None:
    """Send a burst to each model in turn, and print a row per model."""
    emit(
        f"\n{REQUESTS} requests of 1 to {LONGEST_WORDS} words to each model in turn, {IN_FLIGHT} in flight:\n"
    )
    table(HEADER, [(await burst(client, name, metrics_port)).row(name) for name in names])
    emit(
        "\nrows/run: mean number of requests per run of the model. padding: share of computed elements that\n"
        "only make the rows of a run equally long. queue, compute: median times on the server; the rest of\n"
        "a latency is gRPC, the tokenizer and this client, which runs on the same machine."
    )
    texts_per_s = await pipelined(client, names[0])
    emit(
        f"\nOver one stream instead, {MANY:,} texts to {names[0]} by classify_many:"
        f" {texts_per_s:,.0f} texts/s"
    )


async def burst(client: AsyncClient, model: str, metrics_port: int) -> BurstResult:
    """Send the burst with `IN_FLIGHT` requests in flight; reads the server's counters before and after.

    Raises:
        DemoError: a request failed.
    """
    # The load generator; this part of it needs none of the packages of its extra.
    from lockstep_load.in_process import send_all

    answers: list[Classification] = []

    async def send(text: BurstText, _: object) -> None:
        answers.extend(await classify_when_accepted(client, model, text.text))

    address = f"127.0.0.1:{metrics_port}"
    before = await asyncio.to_thread(scrape, address)
    sent = await send_all([BurstText(text) for text in mixed_texts(REQUESTS)], send, IN_FLIGHT)
    after = await asyncio.to_thread(scrape, address)
    if sent.failed:
        raise DemoError(f"{sent.failed} of {REQUESTS} requests to {model} failed: {sent.first_error}")

    def increase(name: str) -> float:
        return after.total(name, model=model) - before.total(name, model=model)

    return BurstResult(
        sent.seconds.tolist(),
        answers,
        sent.wall_s,
        runs=increase("lockstep_batch_rows_count"),
        rows=increase("lockstep_batch_rows_sum"),
        elements=increase("lockstep_elements_total"),
        padded_elements=increase("lockstep_padded_elements_total"),
    )


async def classify_when_accepted(client: AsyncClient, model: str, text: str) -> list[Classification]:
    """Classify a text; while the server is overloaded, as on a slow machine, wait for as long as it says."""
    while True:
        try:
            return await client.classify(model, text)
        except Overloaded as error:
            await asyncio.sleep(error.retry_after_s or MIN_WAIT_S)


async def pipelined(client: AsyncClient, model: str) -> float:
    """Classify `MANY` texts over one stream. Returns texts per second."""
    start = time.perf_counter()
    async for outcome in client.classify_many(model, mixed_texts(MANY), top_k=1):
        if outcome.error:
            raise outcome.error
    return MANY / (time.perf_counter() - start)


def mixed_texts(count: int) -> list[str]:
    """`count` texts of 1 to 60 words in mixed order, the same ones on each call."""
    words = " ".join(REVIEWS).split()
    lengths = (1 + 37 * i % LONGEST_WORDS for i in range(count))
    starts = (11 * i % len(words) for i in range(count))
    return [
        " ".join(islice(cycle(words), start, start + n)) for start, n in zip(starts, lengths, strict=True)
    ]
