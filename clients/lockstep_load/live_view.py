"""Shows the progress of a run: redrawn lines on a terminal, otherwise one plain line every two seconds.

The display cannot delay a run. `LiveView.update` formats a frame twice per second and passes it to a thread
that writes it; a blocked terminal blocks only that thread, and frames in between are dropped.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lockstep_client.tables import counted
from lockstep_load.histogram import LatencyHistogram
from lockstep_load.outcome import RequestOutcome
from lockstep_load.plan import ClosedLoop, LoadProfile, OpenLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from lockstep_load.counts import RunCounts

REDRAW_S, LINE_S = 0.5, 2.0
CLOSE_TIMEOUT_S = 1.0
"""Time allowed for writing the last frame."""


class TerminalWriter:
    """Writes the latest frame in a thread. Frames that arrive while it writes replace one another."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._latest: str | None = None
        self._changed = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def show(self, frame: str) -> None:
        """Schedule a frame for writing. Never blocks."""
        self._latest = frame
        self._changed.set()

    def close(self) -> None:
        """Write the last frame, if that takes less than CLOSE_TIMEOUT_S, and stop."""
        self._closed = True
        self._changed.set()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._closed or self._latest is not None:
            self._changed.wait()
            self._changed.clear()
            frame, self._latest = self._latest, None
            if frame is not None:
                try:
                    self._write(frame)
                except (OSError, ValueError):  # the reader has closed the stream
                    return


class LiveView:
    """Shows the progress of runs on stderr; nothing if `quiet`."""

    def __init__(self, *, quiet: bool = False, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._quiet = quiet
        self._is_terminal = self._out.isatty()
        self._live: Live | None = None
        self._writer: TerminalWriter | None = None
        self._load: LoadProfile | None = None
        self._counts: RunCounts | None = None
        self._next_s = 0.0
        self.title = ""
        """Name of the run."""

    def begin(self, load: LoadProfile, counts: RunCounts) -> None:
        self._load, self._counts, self._next_s = load, counts, 0.0
        if not self._quiet:
            self._writer = TerminalWriter(self._draw if self._is_terminal else self._print)

    def update(self) -> None:
        if not self._writer or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + (REDRAW_S if self._is_terminal else LINE_S)
        assert self._load is not None
        assert self._counts is not None
        if self._counts.now_s > -self._load.warmup_s:
            make = progress_lines if self._is_terminal else progress_line
            self._writer.show(make(self.title, self._load, self._counts))

    def end(self) -> None:
        if self._writer:
            if self._is_terminal:
                self._writer.show("")
            self._writer.close()
        self._writer = None

    def _draw(self, frame: str) -> None:
        """Replace the previous frame; an empty frame clears the display."""
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
        if frame:
            self._live.update(Text(frame, no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            self._live.stop()
            self._live = None

    def _print(self, frame: str) -> None:
        self._out.write(frame + "\n")
        self._out.flush()


def progress_line(title: str, load: LoadProfile, counts: RunCounts) -> str:
    """Progress in one line: elapsed time, rates, latency and failures."""
    now = RecentSeconds(load, counts)
    parts = [
        f"{now.at}",
        f"offered {now.offered_load}",
        f"answered {now.answered:,.0f}/s",
        f"in flight {counts.in_flight:,}",
        f"p50 {now.p50_ms:,.1f} ms",
        f"p99 {now.p99_ms:,.1f} ms",
    ]
    if now.tokens:
        parts.append(f"{now.tokens:,.0f} tokens/s")
    return (f"{title}: " if title else "") + " · ".join([*parts, *now.failures])


class RecentSeconds:
    """Metrics of the last two whole seconds of a run."""

    def __init__(self, load: LoadProfile, counts: RunCounts) -> None:
        self._load, self._counts = load, counts
        last = min(int(max(counts.now_s, 0)), int(load.seconds))
        seconds = [counts.seconds[n] for n in range(max(last - 2, 0), last) if n in counts.seconds]
        whole = max(len(seconds), 1)
        self.answered = sum(one.ended[RequestOutcome.OK] for one in seconds) / whole
        self.tokens = sum(one.tokens for one in seconds) / whole
        latency = LatencyHistogram()
        for one in seconds:
            latency.add(one.latency)
        self.p50_ms, self.p99_ms = latency.percentile_ms(50), latency.percentile_ms(99)

    @property
    def at(self) -> str:
        if self._counts.now_s < 0:
            return "warming up"
        return f"{min(self._counts.now_s, self._load.seconds):.0f} of {self._load.seconds:g} s"

    @property
    def offered_load(self) -> str:
        pattern = self._load.pattern
        if isinstance(pattern, OpenLoop):
            return f"{pattern.rate:,g}/s"
        if isinstance(pattern, ClosedLoop):
            return f"{pattern.concurrency} in flight"
        return counted(pattern.samples, "sample")

    @property
    def failures(self) -> list[str]:
        """Counts of the outcomes other than OK so far."""
        counts = self._counts.outcomes
        return [
            f"{counts[one]:,} {one.label}"
            for one in RequestOutcome
            if one is not RequestOutcome.OK and counts[one]
        ]


def progress_lines(title: str, load: LoadProfile, counts: RunCounts) -> str:
    """Progress in a few lines, with a bar."""
    now = RecentSeconds(load, counts)
    done = round(30 * min(max(counts.now_s, 0) / load.seconds, 1))
    shown = [
        f"{title or 'load'}  {'█' * done}{'░' * (30 - done)} {now.at}",
        f"  offered {now.offered_load} · answered {now.answered:,.0f}/s · in flight {counts.in_flight:,}",
        f"  p50 {now.p50_ms:,.2f} ms · p99 {now.p99_ms:,.2f} ms",
    ]
    if now.tokens:
        shown[-1] += f" · {now.tokens:,.0f} tokens/s"
    shown.append(f"  generator CPU {counts.cpu_share:.0%} of a core")
    if isinstance(load.pattern, OpenLoop):
        shown[-1] += f" · send lag p99 {counts.lag.percentile_ms(99):,.2f} ms"
    if now.failures:
        shown.append("  " + " · ".join(now.failures))
    return "\n".join(shown)
