"""Part 3: one generated text as a stream, then many streams whose steps share runs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from lockstep_client.demo.output import emit, ms, quantile
from lockstep_client.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_client import AsyncClient, AsyncStream, Generation, GenerationPart

OTHER_PROMPT, MAX_WORDS = "a man in a blue", 16
PROMPT, TOKENS, TEMPERATURE, SEED = "ROMEO:", 200, 0.8, 7
STREAMS = (1, 8, 64)
HEADER = ("streams", "tokens", "tokens/s", "rows/step", "first token ms", "ms/step", "same text")


async def show(client: AsyncClient, models: Sequence[str]) -> None:
    """Stream one text, print the table of concurrent streams, then one line per other model."""
    model = models[0]
    emit(f"\n{model} continues {PROMPT!r}, temperature {TEMPERATURE}, seed {SEED}:\n")
    emit(PROMPT, end="")
    stream = _generate(client, model, SEED)
    async for part in stream:
        emit(part.text, end="")
    unbatched = (await stream.result()).text
    emit(f"\n\n{TOKENS} tokens each for several streams at once, in lockstep:\n")
    rows = [await _row(client, model, streams, unbatched) for streams in STREAMS]
    table(HEADER, rows, left=0)
    emit(
        "\nrows/step: mean number of streams that shared a step; streams join and leave between any two\n"
        f"steps. same text: whether seed {SEED} gave the same text as without other streams."
    )

    if models[1:]:
        emit(
            f"\nThe other language models continue {OTHER_PROMPT!r}, with the most probable word each time:\n"
        )
        table(("model", "writes"), [(name, await _first_line(client, name)) for name in models[1:]], left=2)


async def _first_line(client: AsyncClient, model: str) -> str:
    result = await client.generate(model, OTHER_PROMPT, max_tokens=MAX_WORDS, temperature=0).result()
    return f"{OTHER_PROMPT}{result.text}".partition("\n")[0]


def _generate(client: AsyncClient, model: str, seed: int) -> AsyncStream[GenerationPart, Generation]:
    return client.generate(model, PROMPT, max_tokens=TOKENS, temperature=TEMPERATURE, seed=seed)


async def _row(client: AsyncClient, model: str, streams: int, unbatched: str) -> tuple[str, ...]:
    start = time.perf_counter()
    results = await asyncio.gather(*(_generate(client, model, SEED + n).result() for n in range(streams)))
    wall_s = time.perf_counter() - start
    tokens, steps = (
        sum(len(result.tokens) for result in results),
        sum(result.timings.steps for result in results),
    )
    rows = sum(result.timings.batch_rows * result.timings.steps for result in results) / max(steps, 1)
    return (
        str(streams),
        f"{tokens:,}",
        f"{tokens / wall_s:,.0f}",
        f"{rows:.1f}",
        ms(quantile([result.timings.first_token_s for result in results], 0.5)),
        f"{sum(result.timings.compute_s for result in results) / max(steps, 1) * 1e3:.2f}",
        "yes" if results[0].text == unbatched else "no",
    )
