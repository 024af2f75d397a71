"""Starts a process of the server that talks to this one over a socket pair.

`__main__` starts the engine process before the front end is imported, so this file imports next to nothing.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all else
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ENGINE = "lockstep_server.ipc.engine_main"
"""The module of the engine process. It takes the log level and format, and for several front ends the
descriptor to which they connect."""

SOCKET_BYTES = 4 << 20
"""What a socket holds of frames that are not read yet."""


class ChildProcess:
    """A process `python -m MODULE FD ARGS` with one end of a socket pair; `socket` is the other end.

    It starts with SIGINT and SIGTERM blocked: Ctrl-C and SIGTERM do not end it before it ignores them.

    Args:
        keep: further descriptors that the process gets.

    Raises:
        OSError: the system has no process, memory or descriptor for it.
    """

    def __init__(self, module: str, *args: str, keep: Sequence[int] = ()) -> None:
        self.socket, theirs = socket.socketpair()
        try:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            command = [sys.executable, "-m", module, str(theirs.fileno()), *args]
            with _signals_blocked():
                self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(), *keep))
        except BaseException:
            self.socket.close()
            raise
        finally:
            theirs.close()

    def end(self) -> None:
        """Close the socket, and kill the process if it runs still. Does not wait for its end."""
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_text(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
