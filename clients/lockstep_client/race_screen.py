"""The bars of a race at a terminal: they move in each contender's first lap, which is not timed.

Nothing draws while laps are timed: drawing would take the time that is measured.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from lockstep_client.race import Contender

WIDTH, EVERY_S = 40, 0.04


class RaceScreen:
    """One length at a time: a bar for each contender, full when it has read the whole text."""

    def __init__(self, contenders: tuple[Contender, ...], *, shown: bool) -> None:
        self._contenders = contenders
        self._words = 0
        self._steps: dict[Contender, int] = {}
        self._live = Live(self, console=Console(quiet=not shown), auto_refresh=False, transient=True)
        self._drawn_s = 0.0

    def start(self, words: int) -> None:
        """The next length."""
        self._words, self._steps = words, {}
        self._live.refresh()

    def watch(self, one: Contender, words: int, steps: int) -> None:
        """A prediction came: the many of a long text are not drawn one by one."""
        self._steps[one] = steps
        now = time.monotonic()
        if now - self._drawn_s > EVERY_S or steps in (1, words):
            self._drawn_s = now
            self._live.refresh()

    def __rich__(self) -> Group:
        return Group(Text(f"{self._words:,} words", style="bold"), *self._bars())

    def _bars(self) -> Iterator[Text]:
        for one in self._contenders:
            steps = self._steps.get(one, 0)
            share = steps / self._words if one.follows else float(steps > 0)
            full = round(WIDTH * min(share, 1.0))
            yield Text.assemble(
                f"  {one.way:<12} {one.model:<24} ",
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
