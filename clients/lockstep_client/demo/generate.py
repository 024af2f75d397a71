"""The third act: a text as a model makes it, then many at once, a step of all of them in one run."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from lockstep_client.demo.output import emit, ms, quantile
from lockstep_client.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_client import AsyncClient, AsyncStream, Generation, GenerationPart

OTHER_PROMPT, MOST_WORDS = "a man in a blue", 16
PROMPT, TOKENS, TEMPERATURE, SEED = "ROMEO:", 200, 0.8, 7
STREAMS = (1, 8, 64)
HEADER = ("streams", "tokens", "tokens/s", "rows/step", "first token ms", "ms/step", "same text")


async def show(client: AsyncClient, models: Sequence[str]) -> None:
    """One text, streamed; then the table of several at once; then what the other models write."""
    model = models[0]
    emit(f"\n{model} goes on from {PROMPT!r}, temperature {TEMPERATURE}, seed {SEED}:\n")
    emit(PROMPT, end="")
    stream = _text(client, model, SEED)
    async for part in stream:
        emit(part.text, end="")
    alone = (await stream.result()).text
    emit(f"\n\n{TOKENS} tokens each for several at once, in lockstep:\n")
    rows = [await _row(client, model, streams, alone) for streams in STREAMS]
    table(HEADER, rows, left=0)
    emit(
        "\nrows/step: streams that shared one step of the model, the mean; they join and leave between any\n"
        f"two steps. same text: whether seed {SEED} gave, in that company, the text that it gave alone."
    )

    if models[1:]:
        emit(f"\nThe other language models go on from {OTHER_PROMPT!r}, the most probable word each time:\n")
        table(("model", "writes"), [(name, await _line(client, name)) for name in models[1:]], left=2)


async def _line(client: AsyncClient, model: str) -> str:
    made = await client.generate(model, OTHER_PROMPT, max_tokens=MOST_WORDS, temperature=0).result()
    return f"{OTHER_PROMPT}{made.text}".partition("\n")[0]


def _text(client: AsyncClient, model: str, seed: int) -> AsyncStream[GenerationPart, Generation]:
    return client.generate(model, PROMPT, max_tokens=TOKENS, temperature=TEMPERATURE, seed=seed)


async def _row(client: AsyncClient, model: str, streams: int, alone: str) -> tuple[str, ...]:
    begun = time.perf_counter()
    made = await asyncio.gather(*(_text(client, model, SEED + n).result() for n in range(streams)))
    wall_s = time.perf_counter() - begun
    tokens, steps = sum(len(one.tokens) for one in made), sum(one.timings.steps for one in made)
    rows = sum(one.timings.batch_rows * one.timings.steps for one in made) / max(steps, 1)
    return (
        str(streams),
        f"{tokens:,}",
        f"{tokens / wall_s:,.0f}",
        f"{rows:.1f}",
        ms(quantile([one.timings.first_token_s for one in made], 0.5)),
        f"{sum(one.timings.compute_s for one in made) / max(steps, 1) * 1e3:.2f}",
        "yes" if made[0].text == alone else "no",
    )
