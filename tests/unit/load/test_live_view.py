"""The progress display on slow, closed and missing terminals."""

from __future__ import annotations

import io
import threading

from patience import PATIENCE_S
from unit.load import sample_runs

from lockstep_load.live_view import LiveView, TerminalWriter, progress_line, progress_lines
from lockstep_load.outcome import RequestOutcome
from lockstep_load.plan import LoadProfile, OpenLoop

LOAD = LoadProfile(OpenLoop(100.0), 4.0)


def some_counts():
    refused = sample_runs.record(1.6, 0.001, outcome=RequestOutcome.OVERLOADED)
    return sample_runs.counts([sample_runs.record(at / 10, 0.02) for at in range(30)] + [refused], 4.0)


def test_a_blocked_terminal_does_not_block_the_caller() -> None:
    stuck, taking, written = threading.Event(), threading.Event(), []

    def write(frame: str) -> None:
        taking.set()
        stuck.wait(PATIENCE_S)
        written.append(frame)

    writer = TerminalWriter(write)
    writer.show("first")
    assert taking.wait(PATIENCE_S)
    for frame in range(100):
        writer.show(str(frame))
    writer.close()
    assert written == []  # the terminal still blocks
    stuck.set()


def test_only_the_latest_frame_is_written_after_the_terminal_unblocks() -> None:
    stuck, taking, written = threading.Event(), threading.Event(), []

    def write(frame: str) -> None:
        written.append(frame)
        taking.set()
        stuck.wait(PATIENCE_S)

    writer = TerminalWriter(write)
    writer.show("first")
    assert taking.wait(PATIENCE_S)
    for frame in ("second", "third"):
        writer.show(frame)
    stuck.set()
    writer.close()
    assert written == ["first", "third"]


def test_a_closed_reader_is_not_an_error() -> None:
    def write(_: str) -> None:
        raise BrokenPipeError

    writer = TerminalWriter(write)
    writer.show("first")
    writer.close()
    writer.show("second")


def test_without_a_terminal_plain_lines_are_written() -> None:
    out, counts = io.StringIO(), some_counts()
    view = LiveView(out=out)
    view.begin(LOAD, counts)
    view.update()
    view.end()
    [output] = out.getvalue().splitlines()
    assert "offered 100/s" in output
    assert "1 overloaded" in output
    assert "\x1b" not in output


def test_quiet_shows_nothing() -> None:
    out = io.StringIO()
    view = LiveView(quiet=True, out=out)
    view.begin(LOAD, some_counts())
    view.update()
    view.end()
    assert out.getvalue() == ""


def test_a_frame_shows_rates_latency_and_failures() -> None:
    frame = progress_lines("the run", LOAD, some_counts())
    assert "the run" in frame
    assert "p50 20.0" in frame
    assert "1 overloaded" in frame
    assert progress_line("", LOAD, some_counts()).startswith("4 of 4 s")


class Terminal(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.shown = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if "p50" in text:
            self.shown.set()
        return written

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_one_frame_at_a_time_and_is_cleared_at_the_end(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    out, counts = Terminal(), some_counts()
    view = LiveView(out=out)
    view.begin(LOAD, counts)
    view.update()
    assert out.shown.wait(PATIENCE_S)
    view.end()
    output = out.getvalue()
    frames, wiped = output.rsplit("p99", 1)
    assert "\x1b[2K" in wiped  # a line was wiped
    assert "offered 100/s" in frames
