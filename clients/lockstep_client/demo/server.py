"""The demo's server process: start, readiness, log and stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep_client.demo import DemoError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from lockstep_client import AsyncClient

START_S, STOP_S = 60.0, 10.0


class DemoServer:
    """The server's process and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        self.started = time.monotonic()

    async def ready(self, client: AsyncClient, model: str) -> float | str:
        """Wait for the model. Returns the seconds from the server's start, or why it is unavailable.

        Raises:
            DemoError: the server exited or timed out; the message has the end of its log.
        """
        from lockstep_client import LockstepError

        while time.monotonic() - self.started < START_S:
            try:
                if (await client.health(model, timeout_s=1.0)).serving:
                    return time.monotonic() - self.started
                if reason := await self._unavailable_reason(client, model):
                    return reason
            except LockstepError:
                pass  # not listening yet
            if self.process.poll() is not None:
                raise DemoError(f"the server exited with code {self.process.returncode}{self.log_tail()}")
            await asyncio.sleep(0.05)
        raise DemoError(f"{model} is not ready after {START_S:.0f} s{self.log_tail()}")

    async def _unavailable_reason(self, client: AsyncClient, model: str) -> str:
        """Why the model failed to load; empty while it may still become ready."""
        states = [state for state in await client.models() if state.name == model]
        unavailable = states and all(state.state == "UNAVAILABLE" for state in states)
        return (states[0].reason or "no reason given") if unavailable else ""

    def log_tail(self) -> str:
        """The last lines of the server's log, to append to a message."""
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return "".join(f"\n  server: {line}" for line in lines)

    def stop(self) -> None:
        """Stop the server with SIGTERM, after a timeout with SIGKILL. Blocks, so no signal handler runs."""
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def server(options: argparse.Namespace, names: Sequence[str]) -> Iterator[DemoServer]:
    """Run a server on these models within the block, in a separate process group.

    So Ctrl-C at the terminal reaches only this process, which then stops the server in order.
    """
    arguments = {
        "--models": options.models, "--only": ",".join(names), "--device": options.device,
        "--host": "127.0.0.1", "--port": options.port, "--metrics-port": options.metrics_port,
        "--drain-s": 2,
    }  # fmt: skip
    command = [sys.executable, "-m", "lockstep_server", *(str(x) for pair in arguments.items() for x in pair)]
    with tempfile.TemporaryDirectory(prefix="lockstep-demo-") as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        running = DemoServer(process, log)
        try:
            yield running
        finally:
            running.stop()


def checked_port(port: int, what: str) -> int:
    """Check that the port is free. Returns it, or a free one for 0.

    Raises:
        DemoError: the port is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DemoError(
                f"port {port} ({what}) is not available: {error.strerror}. Stop the process that uses it, or"
                " use other ports: make demo PORT=9001 METRICS_PORT=9002"
            ) from None
        taken: int = probe.getsockname()[1]
    return taken
