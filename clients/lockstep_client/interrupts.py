"""Ctrl-C at the `lockstep` command, and how the process ends where a call may still be under way.

Where a blocking call waits, a KeyboardInterrupt is raised in the middle of gRPC's and threading's own code:
a lock is released twice, closing the channel hangs (grpc/grpc#19973), or gRPC's threads abort the process
while the interpreter ends (grpc/grpc#19780). So Ctrl-C ends the process there and then; the operating system
closes the connection, and the server cancels what was asked. Only where something has to be put back first, a
terminal or the tasks of an event loop, is KeyboardInterrupt raised as usual.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERRUPTED = 130
"""The exit code, as shells tell it: 128 and the signal's number."""


def leave(code: int) -> NoReturn:
    """End the process now. What is printed must have been flushed."""
    os._exit(code)


def end_at_once() -> None:
    """From now on Ctrl-C ends the process with INTERRUPTED, unless whoever started it had it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextmanager
def raised() -> Iterator[None]:
    """Meanwhile Ctrl-C is a KeyboardInterrupt, which asyncio turns into its main task's cancellation."""
    if signal.getsignal(signal.SIGINT) is not _end:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _end)


def _end(*_: object) -> None:
    leave(INTERRUPTED)
