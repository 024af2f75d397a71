"""The second act: a burst of mixed lengths to each classifier, and what batching made of it."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING
from urllib.request import ProxyHandler, build_opener

from lockstep_client.demo.output import emit, ms, quantile
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
"""What the burst is cut from."""

REQUESTS, IN_FLIGHT, LONGEST_WORDS = 512, 64, 60
MANY = 4096
HEADER = (
    "model", "sent", "runs", "rows/run", "padding", "req/s",
    "p50 ms", "p99 ms", "queue ms", "compute ms",
)  # fmt: skip
_SAMPLE = re.compile(r'^(lockstep_\w+)\{[^}]*model="([^"]+)"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class BurstResult:
    """What became of one model's burst: what callers saw, what replies told, what the server counted."""

    latencies_s: list[float]
    answers: list[Classification]
    wall_s: float
    runs: float
    rows: float
    elements: float
    padded_elements: float

    def row(self, model: str) -> tuple[str, ...]:
        """A line of the table that `HEADER` heads."""
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
    """A burst to each model in turn, a row for each."""
    emit(
        f"\n{REQUESTS} requests of 1 to {LONGEST_WORDS} words to each model in turn, {IN_FLIGHT} in flight:\n"
    )
    table(HEADER, [(await burst(client, name, metrics_port)).row(name) for name in names])
    emit(
        "\nrows/run: requests that shared one run of the model, the mean. padding: computed for nothing, to\n"
        "make them equally long. queue, compute: where the time went on the server, the median; the rest of\n"
        "a latency is gRPC, the tokenizer and this client, which shares the machine with the server."
    )
    many = await pipelined(client, names[0])
    emit(f"\nOver one stream instead, {MANY:,} texts to {names[0]} by classify_many: {many:,.0f} texts/s")


async def burst(client: AsyncClient, model: str, metrics_port: int) -> BurstResult:
    """Send the burst's texts with so many in flight; the server's counters are read before and after."""
    texts, latencies, answers = iter(mixed_texts(REQUESTS)), list[float](), list["Classification"]()

    async def worker() -> None:
        for text in texts:
            begun = time.perf_counter()
            answers.extend(await client.classify(model, text))
            latencies.append(time.perf_counter() - begun)

    before, begun = await counters(metrics_port, model), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    wall_s, after = time.perf_counter() - begun, await counters(metrics_port, model)
    gained = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return BurstResult(
        latencies,
        answers,
        wall_s,
        runs=gained["lockstep_batch_rows_count"],
        rows=gained["lockstep_batch_rows_sum"],
        elements=gained["lockstep_elements_total"],
        padded_elements=gained["lockstep_padded_elements_total"],
    )


async def pipelined(client: AsyncClient, model: str) -> float:
    """Texts a second, each with an outcome of its own."""
    begun = time.perf_counter()
    async for one in client.classify_many(model, mixed_texts(MANY), top_k=1):
        if one.error:
            raise one.error
    return MANY / (time.perf_counter() - begun)


def mixed_texts(count: int) -> list[str]:
    """Texts of 1 to 60 words, the lengths well mixed, the same ones each time."""
    words = " ".join(REVIEWS).split()
    lengths = (1 + 37 * i % LONGEST_WORDS for i in range(count))
    starts = (11 * i % len(words) for i in range(count))
    return [
        " ".join(islice(cycle(words), start, start + n)) for start, n in zip(starts, lengths, strict=True)
    ]


async def counters(metrics_port: int, model: str) -> dict[str, float]:
    """The model's samples at /metrics, by name; those that differ in other labels count together."""
    page = await asyncio.to_thread(_fetch, f"http://127.0.0.1:{metrics_port}/metrics")
    found: dict[str, float] = {}
    for name, labelled, value in _SAMPLE.findall(page):
        if labelled == model:
            found[name] = found.get(name, 0.0) + float(value)
    return found


def _fetch(url: str) -> str:
    # No proxy: one that is set for the outside world cannot reach this machine's own ports.
    with build_opener(ProxyHandler({})).open(url, timeout=5) as page:
        text: str = page.read().decode()
    return text
