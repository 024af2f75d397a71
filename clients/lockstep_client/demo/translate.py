"""Part 4: a translation as a stream, and its attention over the source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from lockstep_client.demo.output import emit
from lockstep_client.heatmap import heat_map

if TYPE_CHECKING:
    from lockstep_client import AsyncClient

SOURCE = "A man in a blue shirt is standing on a ladder ."


async def show(client: AsyncClient, model: str) -> None:
    """Stream the translation, then print the heat map of its attention."""
    emit(f"\n{model}: {SOURCE}\n")
    stream = client.translate(model, SOURCE, attention=True)
    async for part in stream:
        emit(part.text, end="")
    whole = await stream.result()
    emit("\n\nAttention of each token (rows) over the source (columns):\n")
    if whole.attention is not None:
        console = Console()
        for line in heat_map(whole.attention, whole.source_tokens, whole.pieces, console):
            console.print(line, no_wrap=True, crop=False)
