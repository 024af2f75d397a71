"""What is shown of a run, on terminals that are slow, gone, or none."""

from __future__ import annotations

import io
import threading
import time

from unit.load import sample_runs

from lockstep_load.live_view import LiveView, TerminalWriter, progress_line, progress_lines
from lockstep_load.outcome import RequestOutcome
from lockstep_load.plan import LoadProfile, OpenLoop

LOAD = LoadProfile(OpenLoop(100.0), 4.0)


def some_counts():
    refused = sample_runs.record(1.6, 0.001, outcome=RequestOutcome.OVERLOADED)
    return sample_runs.counts([sample_runs.record(at / 10, 0.02) for at in range(30)] + [refused], 4.0)


def test_a_terminal_that_stands_still_holds_nothing_up() -> None:
    stuck, taking = threading.Event(), threading.Event()

    def write(_: str) -> None:
        taking.set()
        stuck.wait(10)

    writer = TerminalWriter(write)
    writer.show("first")
    assert taking.wait(10)
    begun = time.monotonic()
    for frame in range(100):
        writer.show(str(frame))
    assert time.monotonic() - begun < 5
    writer.close()
    stuck.set()


def test_only_the_latest_picture_is_written_once_the_terminal_goes_on() -> None:
    stuck, written = threading.Event(), []

    def write(frame: str) -> None:
        written.append(frame)
        stuck.wait(10)

    writer = TerminalWriter(write)
    writer.show("first")
    while not written:
        time.sleep(0.001)
    for frame in ("second", "third"):
        writer.show(frame)
    stuck.set()
    writer.close()
    assert written == ["first", "third"]


def test_a_reader_that_has_gone_is_no_error() -> None:
    def write(_: str) -> None:
        raise BrokenPipeError

    writer = TerminalWriter(write)
    writer.show("first")
    writer.close()
    writer.show("second")


def test_without_a_terminal_there_are_plain_lines() -> None:
    out, counts = io.StringIO(), some_counts()
    view = LiveView(out=out)
    view.begin(LOAD, counts)
    view.update()
    view.end()
    [output] = out.getvalue().splitlines()
    assert "asked 100/s" in output
    assert "1 overloaded" in output
    assert "\x1b" not in output


def test_quiet_shows_nothing() -> None:
    out = io.StringIO()
    view = LiveView(quiet=True, out=out)
    view.begin(LOAD, some_counts())
    view.update()
    view.end()
    assert out.getvalue() == ""


def test_a_picture_tells_rates_latency_and_trouble() -> None:
    frame = progress_lines("the run", LOAD, some_counts())
    assert "the run" in frame
    assert "p50 20.0" in frame
    assert "1 overloaded" in frame
    assert progress_line("", LOAD, some_counts()).startswith("4 of 4 s")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_picture_at_a_time_and_none_in_the_end(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    out, counts = Terminal(), some_counts()
    view = LiveView(out=out)
    view.begin(LOAD, counts)
    view.update()
    while "p50" not in out.getvalue():
        time.sleep(0.001)
    view.end()
    output = out.getvalue()
    frames, wiped = output.rsplit("p99", 1)
    assert "\x1b[2K" in wiped  # a line was wiped
    assert "asked 100/s" in frames
