"""Progress bars of a race on a terminal.

They move during the untimed warm-up runs only: drawing would distort the timed runs.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from lockstep_client.tables import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from lockstep_client.reading import Contender

WIDTH, EVERY_S = 40, 0.04


class RaceScreen:
    """Progress at one length: a bar per contender, full when the whole text has been read."""

    def __init__(self, contenders: tuple[Contender, ...], *, shown: bool) -> None:
        self._contenders = contenders
        self._words = 0
        self._steps: dict[Contender, int] = {}
        self._live = Live(self, console=Console(quiet=not shown), auto_refresh=False, transient=True)
        self._drawn_s = 0.0

    def start(self, words: int) -> None:
        """Reset the bars for the next length."""
        self._words, self._steps = words, {}
        self._live.refresh()

    def on_progress(self, contender: Contender, words: int, steps: int) -> None:
        """Update the bar of a contender, at most every 40 ms."""
        self._steps[contender] = steps
        now = time.monotonic()
        if now - self._drawn_s > EVERY_S or steps in (1, words):
            self._drawn_s = now
            self._live.refresh()

    def __rich__(self) -> Group:
        return Group(Text(counted(self._words, "word"), style="bold"), *self._bars())

    def _bars(self) -> Iterator[Text]:
        for contender in self._contenders:
            steps = self._steps.get(contender, 0)
            share = steps / self._words if contender.follows else float(steps > 0)
            full = round(WIDTH * min(share, 1.0))
            yield Text.assemble(
                f"  {contender.way:<12} {contender.model:<24} ",
                ("█" * full, "cyan"),
                ("░" * (WIDTH - full), "dim"),
                f" {steps:>6,} predictions",
            )

    def __enter__(self) -> RaceScreen:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
