"""Progress: plain lines in a pipe, ever more seldom; a bar on a terminal, which leaves nothing behind."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE_S

from lockstep_client.progress import ProgressDisplay, line

numbers = st.one_of(st.integers(0, 10**6), st.floats(0, 1e6))


def lines(seconds: list[float], *, quiet: bool = False) -> list[str]:
    """What is written if an update comes at each of these seconds, on the way to 100."""
    out, now = io.StringIO(), SimpleNamespace(s=0.0)
    with ProgressDisplay("wait", quiet=quiet, out=out, clock=lambda: now.s) as display:
        for now.s in seconds:
            display.update(int(now.s), 100, "self-test")
    return out.getvalue().splitlines()


def test_what_is_quick_or_quiet_writes_nothing() -> None:
    assert lines([0.0, 1.0, 1.9]) == []
    assert lines([float(second) for second in range(100)], quiet=True) == []


def test_lines_name_the_amount_the_step_and_the_rest() -> None:
    assert lines([0.0, 20.0]) == ["wait: 20 of 100, self-test, 20 s, about 1 min 20 s left"]
    assert line("load m", 0, 0, "opening model.onnx", 7.2) == "load m: opening model.onnx, 7 s"
    assert line("m", 0.5, 1.0, "", 4000.0) == "m: 50%, 1 h 6 min, about 1 h 6 min left"
    assert (
        line("m", 3.5, 10.0, "loss 0.1", 10.0, first=3.0) == "m: 35%, loss 0.1, 10 s, about 2 min 10 s left"
    )


def test_lines_become_seldom() -> None:
    hour = lines([float(second) for second in range(3600)])
    assert 40 < len(hour) < 120


@given(numbers, numbers, st.floats(0, 1e9), numbers)
def test_every_line_is_one_line_without_escapes(
    done: float, total: float, seconds: float, first: float
) -> None:
    made = line("m", done, total, "what", seconds, first)
    assert made.isprintable()
    assert made.startswith("m: ")


def test_a_terminal_gets_a_bar_that_disappears() -> None:
    code = (
        "import time; from lockstep_client.progress import ProgressDisplay\n"
        "with ProgressDisplay('18 models') as display:\n"
        "    display.update(3, 18, 'm: self-test'); display._bar.refresh()\n"
    )
    main, worker = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run(
        [sys.executable, "-c", code], stderr=worker, env=environment, timeout=PATIENCE_S, check=True
    )
    os.close(worker)
    shown = b""
    while chunk := _read(main):
        shown += chunk
    os.close(main)
    text = shown.decode()
    assert "18 models  3 of 18  m: self-test" in text
    assert text.rstrip().endswith("\x1b[2K")  # the line is erased


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side is closed
        return b""
