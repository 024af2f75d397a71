"""A run as it goes: a few lines that are drawn over and over at a terminal, or a plain line now and then.

Nothing here can hold up a run. `Screen.look` makes a picture of the ledger twice a second and leaves it for a
thread that writes; a terminal that stands still stops that thread only, and pictures in between are dropped.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lockstep_load.histogram import LatencyHistogram
from lockstep_load.outcome import RequestOutcome
from lockstep_load.plan import Closed, LoadProfile, Open

if TYPE_CHECKING:
    from collections.abc import Callable

    from lockstep_load.counts import RunCounts

DRAWN_EVERY_S, PLAIN_EVERY_S = 0.5, 2.0
LEAVE_S = 1.0
"""A terminal that has not taken the last picture by then does without it."""


class TerminalWriter:
    """Writes the latest picture, in a thread; what comes too fast for the file is dropped."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._latest: str | None = None
        self._news = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def show(self, picture: str) -> None:
        """Leave it to be written; never waits."""
        self._latest = picture
        self._news.set()

    def close(self) -> None:
        """Write the last one, if it can be written soon."""
        self._closed = True
        self._news.set()
        self._thread.join(LEAVE_S)

    def _run(self) -> None:
        while not self._closed or self._latest is not None:
            self._news.wait()
            self._news.clear()
            picture, self._latest = self._latest, None
            if picture is not None:
                try:
                    self._write(picture)
                except (OSError, ValueError):  # whoever read it has gone
                    return


class LiveView:
    """Shows runs on stderr; `quiet` shows nothing."""

    def __init__(self, *, quiet: bool = False, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._quiet = quiet
        self._drawn = self._out.isatty()
        self._live: Live | None = None
        self._writer: TerminalWriter | None = None
        self._load: LoadProfile | None = None
        self._ledger: RunCounts | None = None
        self._next_s = 0.0
        self.title = ""
        """What the run is part of, in a few words."""

    def begin(self, load: LoadProfile, ledger: RunCounts) -> None:
        self._load, self._ledger, self._next_s = load, ledger, 0.0
        if not self._quiet:
            self._writer = TerminalWriter(self._draw if self._drawn else self._print)

    def look(self) -> None:
        if not self._writer or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + (DRAWN_EVERY_S if self._drawn else PLAIN_EVERY_S)
        assert self._load is not None
        assert self._ledger is not None
        if self._ledger.now_s > -self._load.warmup_s:
            make = lines if self._drawn else line
            self._writer.show(make(self.title, self._load, self._ledger))

    def end(self) -> None:
        if self._writer:
            if self._drawn:
                self._writer.show("")
            self._writer.close()
        self._writer = None

    def _draw(self, picture: str) -> None:
        """In the place of the one before; an empty one leaves nothing there."""
        if self._live is None:
            console = Console(file=self._out)
            self._live = Live(
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        if picture:
            self._live.update(Text(picture, no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            self._live.stop()
            self._live = None

    def _print(self, picture: str) -> None:
        self._out.write(picture + "\n")
        self._out.flush()


def line(title: str, load: LoadProfile, ledger: RunCounts) -> str:
    """One line: how far, rates, latency, what went wrong."""
    now = Snapshot(load, ledger)
    parts = [
        f"{now.at}",
        f"asked {now.asked}",
        f"answered {now.answered:,.0f}/s",
        f"in flight {ledger.in_flight:,}",
        f"p50 {now.p50_ms:,.1f} ms",
        f"p99 {now.p99_ms:,.1f} ms",
    ]
    if now.tokens:
        parts.append(f"{now.tokens:,.0f} tokens/s")
    return (f"{title}: " if title else "") + " · ".join([*parts, *now.trouble])


class Snapshot:
    """The last two whole seconds of a run, in numbers."""

    def __init__(self, load: LoadProfile, ledger: RunCounts) -> None:
        self._load, self._ledger = load, ledger
        last = min(int(max(ledger.now_s, 0)), int(load.seconds))
        seconds = [ledger.seconds[n] for n in range(max(last - 2, 0), last) if n in ledger.seconds]
        whole = max(len(seconds), 1)
        self.answered = sum(one.ended[RequestOutcome.OK] for one in seconds) / whole
        self.tokens = sum(one.tokens for one in seconds) / whole
        latency = LatencyHistogram()
        for one in seconds:
            latency.add(one.latency)
        self.p50_ms, self.p99_ms = latency.percentile_ms(50), latency.percentile_ms(99)

    @property
    def at(self) -> str:
        if self._ledger.now_s < 0:
            return "warming up"
        return f"{min(self._ledger.now_s, self._load.seconds):.0f} of {self._load.seconds:g} s"

    @property
    def asked(self) -> str:
        pace = self._load.pace
        if isinstance(pace, Open):
            return f"{pace.rate:,g}/s"
        if isinstance(pace, Closed):
            return f"{pace.concurrency} at a time"
        return f"{pace.samples:,} in all"

    @property
    def trouble(self) -> list[str]:
        """What did not end well so far, by outcome."""
        counts = self._ledger.outcomes
        return [
            f"{counts[one]:,} {one.label}"
            for one in RequestOutcome
            if one is not RequestOutcome.OK and counts[one]
        ]


def lines(title: str, load: LoadProfile, ledger: RunCounts) -> str:
    """The same in a few lines."""
    now = Snapshot(load, ledger)
    done = round(30 * min(max(ledger.now_s, 0) / load.seconds, 1))
    shown = [
        f"{title or 'load'}  {'█' * done}{'░' * (30 - done)} {now.at}",
        f"  asked {now.asked} · answered {now.answered:,.0f}/s · in flight {ledger.in_flight:,}",
        f"  p50 {now.p50_ms:,.2f} ms · p99 {now.p99_ms:,.2f} ms",
    ]
    if now.tokens:
        shown[-1] += f" · {now.tokens:,.0f} tokens/s"
    shown.append(f"  generator {ledger.cpu_share:.0%} of a core")
    if isinstance(load.pace, Open):
        shown[-1] += f" · sent late by {ledger.lag.percentile_ms(99):,.2f} ms (p99)"
    if now.trouble:
        shown.append("  " + " · ".join(now.trouble))
    return "\n".join(shown)
