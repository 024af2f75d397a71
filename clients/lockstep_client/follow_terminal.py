"""Interactive `follow`: the prediction changes with each word that is typed.

keys → `InputLine` (complete words are sent, the last one can still be edited) → pieces of the stream →
predictions → `FollowScreen`. Everything runs on one event loop. Enter starts a new text; Ctrl-D quits.
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

BAR_CELLS, MAX_LABELS = 30, 5
_ENTER, _QUIT, _BACK, _CLEAR = "\r\n", "\x04", "\x7f\b", "\x15\x17"
_HINT = "  Type a text: the prediction changes with each word. Enter starts a new text, Ctrl-D quits."
_ESCAPES = re.compile(r"\x1b(?:[\[O][0-9;?]*[ -/]*[@-~])?")


@dataclass
class InputLine:
    """The typed text. White space sends the word before it; a sent word cannot be edited."""

    sent: str = ""
    pending: str = ""
    done: bool = False
    """Enter or Ctrl-D was pressed."""
    quitting: bool = False
    """Ctrl-D was pressed."""

    def press(self, key: str) -> str:
        """Handle a key. Returns the piece to send, or an empty string."""
        if key in _ENTER or key == _QUIT:
            self.done, self.quitting = True, key == _QUIT
            return self._send()
        if key in _BACK:
            self.pending = self.pending[:-1]
        elif key in _CLEAR:
            self.pending = ""
        elif key.isprintable() or key.isspace():
            self.pending += key
        return self._send() if key.isspace() else ""

    def _send(self) -> str:
        piece, self.pending = self.pending, ""
        self.sent += piece
        return piece


@dataclass
class FollowScreen:
    """The text and the labels after its last word, redrawn at each change."""

    line: InputLine = field(default_factory=InputLine)
    prediction: Prediction | None = None

    def __rich__(self) -> Group:
        cursor = "" if self.line.done else "▏"
        typed = Text.assemble(("> ", "dim"), self.line.sent, (self.line.pending + cursor, "bold"))
        return Group(typed, *self._labels())

    def _labels(self) -> Iterator[Text]:
        if self.prediction is None:
            yield Text("" if self.line.done else _HINT, style="dim")
            return
        prediction = self.prediction
        for label in sorted(prediction.labels[:MAX_LABELS], key=lambda label: label.index):
            full = round(label.probability * BAR_CELLS)
            style = "bold cyan" if label is prediction.best else "dim"
            name = Text(label.name if label.name.strip() else repr(label.name))
            name.truncate(14, overflow="ellipsis", pad=True)
            bar = f" {'█' * full}{'░' * (BAR_CELLS - full)} {label.probability:4.0%}"
            yield Text("  ").append_text(name).append(bar, style)
        took_ms = prediction.timings.compute_s * 1e3
        yield Text(
            f"  {prediction.position} read · computed {prediction.computed_elements} in {took_ms:.2f} ms",
            style="dim",
        )


async def follow_typed_text(client: AsyncClient, *, model: str, version: str, top_k: int) -> None:
    """Follow typed texts until Ctrl-D. Raises the errors of the stream."""
    keys: asyncio.Queue[str] = asyncio.Queue()
    with _read_keys(sys.stdin.fileno(), keys):
        screen = FollowScreen()
        while not screen.line.quitting:
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
def _read_keys(descriptor: int, keys: asyncio.Queue[str]) -> Iterator[None]:
    """Within the block, put typed keys into the queue. Escape sequences (cursor keys) are dropped."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read() -> None:
        data = os.read(descriptor, 1 << 12)
        for key in _ESCAPES.sub("", decoder.decode(data)) if data else _QUIT:
            keys.put_nowait(key)

    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


@contextmanager
def unbuffered_keys(descriptor: int) -> Iterator[None]:
    """Within the block, the terminal delivers each key at once and does not echo it. Restored afterwards."""
    try:
        import termios
        import tty
    except ImportError:
        raise InputError("interactive input is not supported on this system: pass TEXT, or a pipe") from None
    before = termios.tcgetattr(descriptor)
    with interrupts.raised():
        try:
            tty.setcbreak(descriptor)
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
