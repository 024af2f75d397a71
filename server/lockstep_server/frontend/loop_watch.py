"""Watches the event loop: a thread asks it every 100 ms to answer, and logs what it is doing if it does not.

The log names functions and lines of code, and nothing that callers sent.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import threading
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

T = TypeVar("T")

log = logging.getLogger(__name__)

_EVERY_S = 0.1
LATE_S = 0.25
"""An event loop that does not answer for this long is logged."""

_LOOK_S = 0.05
"""How often a late event loop is looked at. What it is seen doing most often is logged."""

_FRAMES = 8
_FRAMEWORKS = ("/asyncio/", "/uvloop/", "/selectors.py", "lockstep_server/lifecycle.py")
_NOT_PYTHON = "no function of Python: gRPC copies a large message, or other programs use the processor"

_TURN_S = 0.002
_MOST_STEPS = 2000


class Turns:
    """Splits a long work on the event loop into turns of at most 2 ms. Call `end` between its parts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begun = clock, clock()

    async def end(self) -> None:
        """Let the event loop do other work if this turn has lasted long enough."""
        if self._clock() - self._begun >= _TURN_S:
            await asyncio.sleep(0)
            self._begun = self._clock()


async def in_turns(made: Iterable[T]) -> list[T]:
    """What an iterator makes, part by part; the event loop does other work in between if that takes long."""
    found: list[T] = []
    turns = Turns()
    for one in made:
        found.append(one)
        await turns.end()
    return found


async def await_in_turns(made: Iterable[Awaitable[T]]) -> list[T]:
    """As `in_turns`, of what is awaited one after another."""
    found: list[T] = []
    turns = Turns()
    for one in made:
        found.append(await one)
        await turns.end()
    return found


async def off_loop(steps: int, work: Callable[..., T], *arguments: Any) -> T:
    """`work(*arguments)`: at once, or on a thread if it takes so many `steps`, of about a microsecond each,
    that the event loop would be late for others."""
    if steps <= _MOST_STEPS:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


class LoopWatch:
    """`observe` gets the seconds until each answer, on the event loop. Made on the event loop."""

    def __init__(self, observe: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._observe, self._clock = observe, clock
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loop-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(_EVERY_S):
            try:
                self._ask()
            except RuntimeError:  # the loop is closed
                return

    def _ask(self) -> None:
        asked, answered = self._clock(), threading.Event()

        def answer() -> None:
            self._observe(self._clock() - asked)
            answered.set()

        self._loop.call_soon_threadsafe(answer)
        seen = Counter[str]()
        while not answered.wait(_LOOK_S):
            if self._stopped.is_set() or self._loop.is_closed():
                return
            if where := self._where():
                seen[where] += 1
        late_s = self._clock() - asked
        if late_s >= LATE_S:
            where = seen.most_common(1)[0][0] if seen else _NOT_PYTHON
            log.warning("the event loop was busy for %.0f ms in: %s", late_s * 1000, where)

    def _where(self) -> str:
        """The functions that the event loop has called, outermost first; "" if it is in none."""
        frame = sys._current_frames().get(self._loop_thread)
        frames = traceback.extract_stack(frame) if frame is not None else traceback.StackSummary()
        called = list(itertools.takewhile(lambda one: not _is_framework(one), reversed(frames)))
        return " > ".join(
            f"{one.name} ({one.filename.rsplit('/', 1)[-1]}:{one.lineno})" for one in called[:_FRAMES][::-1]
        )


def _is_framework(frame: traceback.FrameSummary) -> bool:
    return any(part in frame.filename for part in _FRAMEWORKS)
