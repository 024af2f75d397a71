"""The fourth act: a translation as it is made, and where the model looked for each word of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from lockstep_client.demo.output import emit
from lockstep_client.heatmap import heat_map

if TYPE_CHECKING:
    from lockstep_client import AsyncClient

SOURCE = "A man in a blue shirt is standing on a ladder ."


async def show(client: AsyncClient, model: str) -> None:
    """The words as they come, then the heat map of their attention."""
    emit(f"\n{model}: {SOURCE}\n")
    stream = client.translate(model, SOURCE, attention=True)
    async for part in stream:
        emit(part.text, end="")
    whole = await stream.result()
    emit("\n\nWhat each token of it looked at, in the source across:\n")
    if whole.attention is not None:
        console = Console()
        for line in heat_map(whole.attention, whole.source_tokens, whole.pieces, console):
            console.print(line, no_wrap=True, crop=False)
