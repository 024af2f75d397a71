"""What is shown of a run, on terminals that are slow, gone, or none."""

from __future__ import annotations

import io
import threading
import time

from unit.load import sample_runs

from lockstep_load.live_view import LiveView, TerminalWriter, line, lines
from lockstep_load.outcome import RequestOutcome
from lockstep_load.plan import LoadProfile, Open

LOAD = LoadProfile(Open(100.0), 4.0)


def some_ledger():
    refused = sample_runs.record(1.6, 0.001, outcome=RequestOutcome.OVERLOADED)
    return sample_runs.ledger([sample_runs.record(at / 10, 0.02) for at in range(30)] + [refused], 4.0)


def test_a_terminal_that_stands_still_holds_nothing_up() -> None:
    stuck, taking = threading.Event(), threading.Event()

    def write(_: str) -> None:
        taking.set()
        stuck.wait(10)

    writer = TerminalWriter(write)
    writer.show("first")
    assert taking.wait(10)
    begun = time.monotonic()
    for picture in range(100):
        writer.show(str(picture))
    assert time.monotonic() - begun < 5
    writer.close()
    stuck.set()


def test_only_the_latest_picture_is_written_once_the_terminal_goes_on() -> None:
    stuck, written = threading.Event(), []

    def write(picture: str) -> None:
        written.append(picture)
        stuck.wait(10)

    writer = TerminalWriter(write)
    writer.show("first")
    while not written:
        time.sleep(0.001)
    for picture in ("second", "third"):
        writer.show(picture)
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
    out, ledger = io.StringIO(), some_ledger()
    screen = LiveView(out=out)
    screen.begin(LOAD, ledger)
    screen.look()
    screen.end()
    [told] = out.getvalue().splitlines()
    assert "asked 100/s" in told
    assert "1 overloaded" in told
    assert "\x1b" not in told


def test_quiet_shows_nothing() -> None:
    out = io.StringIO()
    screen = LiveView(quiet=True, out=out)
    screen.begin(LOAD, some_ledger())
    screen.look()
    screen.end()
    assert out.getvalue() == ""


def test_a_picture_tells_rates_latency_and_trouble() -> None:
    picture = lines("the run", LOAD, some_ledger())
    assert "the run" in picture
    assert "p50 20.0" in picture
    assert "1 overloaded" in picture
    assert line("", LOAD, some_ledger()).startswith("4 of 4 s")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_picture_at_a_time_and_none_in_the_end(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    out, ledger = Terminal(), some_ledger()
    screen = LiveView(out=out)
    screen.begin(LOAD, ledger)
    screen.look()
    while "p50" not in out.getvalue():
        time.sleep(0.001)
    screen.end()
    told = out.getvalue()
    pictures, wiped = told.rsplit("p99", 1)
    assert "\x1b[2K" in wiped  # a line was wiped
    assert "asked 100/s" in pictures
