"""Ctrl-C handling of the `lockstep` command, and process exit while calls are in flight.

During a blocking call, KeyboardInterrupt is raised inside the code of gRPC and threading: a lock is released
twice, closing the channel hangs (grpc/grpc#19973), or gRPC's threads abort the process during interpreter
shutdown (grpc/grpc#19780). Therefore Ctrl-C exits the process immediately; the operating system closes the
connection, and the server cancels the calls. KeyboardInterrupt is raised as usual only where cleanup is
needed: to restore a terminal, or to cancel the tasks of an event loop.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all else
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

INTERRUPTED = 130
"""The exit code that shells use: 128 + the signal number."""


def leave(code: int) -> NoReturn:
    """Exit the process immediately. Buffered output is lost: flush first."""
    os._exit(code)


def end_at_once() -> None:
    """Make Ctrl-C exit the process with INTERRUPTED, unless the parent process had SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextmanager
def raised() -> Iterator[None]:
    """Within the block, Ctrl-C raises KeyboardInterrupt, on which asyncio cancels its main task."""
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
