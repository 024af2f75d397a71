"""The demo's server: a process of its own, its log, and its end."""

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
        self.begun = time.monotonic()

    async def ready(self, client: AsyncClient, model: str) -> float | str:
        """Seconds from the start until the model was seen to answer, or why it is not served.

        Raises:
            DemoError: neither comes about; with what the server has to say of it.
        """
        from lockstep_client import LockstepError

        while time.monotonic() - self.begun < START_S:
            try:
                if (await client.health(model, timeout_s=1.0)).serving:
                    return time.monotonic() - self.begun
                if reason := await self._refusal(client, model):
                    return reason
            except LockstepError:
                pass  # it does not listen yet
            if self.process.poll() is not None:
                raise DemoError(f"the server ended with exit code {self.process.returncode}{self.told()}")
            await asyncio.sleep(0.05)
        raise DemoError(f"{model} is not ready after {START_S:.0f} s{self.told()}")

    async def _refusal(self, client: AsyncClient, model: str) -> str:
        """Why the model will not be served; empty while it may be."""
        states = [state for state in await client.models() if state.name == model]
        given_up = states and all(state.state == "UNAVAILABLE" for state in states)
        return (states[0].reason or "no reason is told") if given_up else ""

    def told(self) -> str:
        """The end of the server's log, to go behind a message."""
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return "".join(f"\n  server: {line}" for line in lines)

    def stop(self) -> None:
        """Ask it to drain and go; make it go where it does not. Blocks, so that no signal comes between."""
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def server(options: argparse.Namespace, names: Sequence[str]) -> Iterator[DemoServer]:
    """A server on these models while the block runs, in a process group of its own.

    A Ctrl-C at the terminal so reaches this process only, which then stops the server in order.
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
    """The port, free at this moment; 0 takes any.

    Raises:
        DemoError: something listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DemoError(
                f"port {port} ({what}) cannot be had: {error.strerror}. Stop what listens there, or take"
                " other ports: make demo PORT=9001 METRICS_PORT=9002"
            ) from None
        taken: int = probe.getsockname()[1]
    return taken
