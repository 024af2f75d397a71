"""Follow at a terminal: type, and see the prediction move at each word.

keys → `Line` (what is typed: its whole words go out, its last one can still be changed) → the stream's pieces
→ predictions → `Screen`. One event loop does it all. Enter ends a text and begins the next; Ctrl-D leaves.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from lockstep_client import interrupts
from lockstep_client.texts import InputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from lockstep_client.client import AsyncClient
    from lockstep_client.stream_results import Prediction

BAR, MOST_LABELS = 30, 5
_ENTER, _LEAVE, _BACK, _CLEAR = "\r\n", "\x04", "\x7f\b", "\x15\x17"
_HINT = "  type: each word moves the prediction. Enter begins a new text, Ctrl-D leaves."
_ESCAPES = re.compile(r"\x1b(?:[\[O][0-9;?]*[ -/]*[@-~])?")


@dataclass
class InputLine:
    """What is typed. White space sends the word before it; what was sent cannot be taken back."""

    sent: str = ""
    held: str = ""
    done: bool = False
    """Enter or Ctrl-D was pressed."""
    leaving: bool = False
    """Ctrl-D was pressed."""

    def press(self, key: str) -> str:
        """Take a key; the piece that it sends, or nothing."""
        if key in _ENTER or key == _LEAVE:
            self.done, self.leaving = True, key == _LEAVE
            return self._send()
        if key in _BACK:
            self.held = self.held[:-1]
        elif key in _CLEAR:
            self.held = ""
        elif key.isprintable() or key.isspace():
            self.held += key
        return self._send() if key.isspace() else ""

    def _send(self) -> str:
        piece, self.held = self.held, ""
        self.sent += piece
        return piece


@dataclass
class FollowScreen:
    """The text and the labels after its last word, drawn again at each change."""

    line: InputLine = field(default_factory=InputLine)
    prediction: Prediction | None = None

    def __rich__(self) -> Group:
        cursor = "" if self.line.done else "▏"
        typed = Text.assemble(("> ", "dim"), self.line.sent, (self.line.held + cursor, "bold"))
        return Group(typed, *self._labels())

    def _labels(self) -> Iterator[Text]:
        if self.prediction is None:
            yield Text("" if self.line.done else _HINT, style="dim")
            return
        one = self.prediction
        for label in sorted(one.labels[:MOST_LABELS], key=lambda label: label.index):
            full = round(label.probability * BAR)
            style = "bold cyan" if label is one.best else "dim"
            name = Text(label.name if label.name.strip() else repr(label.name))
            name.truncate(14, overflow="ellipsis", pad=True)
            bar = f" {'█' * full}{'░' * (BAR - full)} {label.probability:4.0%}"
            yield Text("  ").append_text(name).append(bar, style)
        took_ms = one.timings.compute_s * 1e3
        yield Text(
            f"  {one.position} read · computed {one.computed_elements} in {took_ms:.2f} ms", style="dim"
        )


async def converse(client: AsyncClient, *, model: str, version: str, top_k: int) -> None:
    """Follow what is typed, text after text, until Ctrl-D. Raises what the stream does."""
    keys: asyncio.Queue[str] = asyncio.Queue()
    with _reading(sys.stdin.fileno(), keys):
        screen = FollowScreen()
        while not screen.line.leaving:
            screen = FollowScreen()
            with Live(screen, console=Console(), auto_refresh=False) as live:
                pieces = _pieces(keys, screen.line, live)
                async for screen.prediction in client.follow(model, pieces, top_k=top_k, version=version):
                    live.refresh()


async def _pieces(keys: asyncio.Queue[str], line: InputLine, live: Live) -> AsyncIterator[str]:
    while not line.done:
        piece = line.press(await keys.get())
        live.refresh()
        if piece:
            yield piece


@contextmanager
def _reading(file: int, keys: asyncio.Queue[str]) -> Iterator[None]:
    """Keys go into the queue while this holds, without those that move a cursor."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read() -> None:
        some = os.read(file, 1 << 12)
        for key in _ESCAPES.sub("", decoder.decode(some)) if some else _LEAVE:
            keys.put_nowait(key)

    loop = asyncio.get_running_loop()
    loop.add_reader(file, read)
    try:
        yield
    finally:
        loop.remove_reader(file)


@contextmanager
def keys_at_once(file: int) -> Iterator[None]:
    """The terminal gives each key as it is pressed, and does not show it; as it was, afterwards."""
    try:
        import termios
        import tty
    except ImportError:
        raise InputError("this system's terminal cannot be read key by key: give TEXT, or a pipe") from None
    before = termios.tcgetattr(file)
    with interrupts.raised():
        try:
            tty.setcbreak(file)
            yield
        finally:
            termios.tcsetattr(file, termios.TCSADRAIN, before)
