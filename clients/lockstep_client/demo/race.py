"""Part 6: the same text step-wise, fused, one-shot and re-encoded, as in `lockstep race`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockstep_client import race_report
from lockstep_client.demo.output import emit
from lockstep_client.race import TEXT, Race
from lockstep_client.reading import contenders

if TYPE_CHECKING:
    from lockstep_client import AsyncClient

LENGTHS, REPEAT = (10, 100), 3


async def show(client: AsyncClient, stepper: str, transformer: str) -> None:
    """Run the race at two lengths, and print its report."""
    emit("\nThe same text four ways, 10 and 100 words of it:\n")
    race = Race(client, contenders(stepper, stepper, transformer), TEXT, REPEAT)
    race_report.show([result for words in LENGTHS for result in await race.results(words)])
