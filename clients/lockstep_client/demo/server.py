"""The demo's server: its flags, its readiness model by model, and its ports."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
import tomllib
from typing import TYPE_CHECKING

from lockstep_client.demo import DemoError
from lockstep_client.server_process import ServerProcess

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from lockstep_client import AsyncClient

START_S = 60.0


def repository(models: str) -> str:
    """The folder that the server takes for `--models`: it alone knows where `examples:` is.

    Raises:
        DemoError: the server is not installed, or refuses the value.
    """
    if not models.endswith(":"):  # a folder
        return models
    command = [sys.executable, "-m", "lockstep_server", "--models", models, "--show-settings"]
    asked = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if asked.returncode:
        raise DemoError((asked.stderr.strip().splitlines() or ["no server is installed"])[-1])
    return str(tomllib.loads(asked.stdout)["models"])


def server(options: argparse.Namespace, names: Sequence[str]) -> ServerProcess:
    """A server of these models on the ports of the options, to run within a block."""
    flags = {
        "--models": options.models, "--only": ",".join(names), "--device": options.device,
        "--port": options.port, "--metrics-port": options.metrics_port, "--drain-s": 2,
    }  # fmt: skip
    return ServerProcess(*(str(part) for pair in flags.items() for part in pair))


async def ready(running: ServerProcess, client: AsyncClient, model: str) -> float | str:
    """Wait for the model. Returns the seconds from the server's start, or why it is unavailable.

    Raises:
        ProcessError: the server exited or timed out; the message has the end of its log.
    """
    from lockstep_client import LockstepError

    while True:
        try:
            if (await client.health(model, timeout_s=1.0)).serving:
                return time.monotonic() - running.started
            if reason := await _unavailable_reason(client, model):
                return reason
        except LockstepError:
            pass  # not listening yet
        running.check_running()
        running.check_time(running.started + START_S, f"{model} is not ready after {START_S:.0f} s")
        await asyncio.sleep(0.05)


async def _unavailable_reason(client: AsyncClient, model: str) -> str:
    """Why the model failed to load; empty while it may still become ready."""
    states = [state for state in await client.models() if state.name == model]
    unavailable = states and all(state.state == "UNAVAILABLE" for state in states)
    return (states[0].reason or "no reason given") if unavailable else ""


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
                " use other ports: --port 9001 --metrics-port 9002 (make demo PORT=9001 METRICS_PORT=9002)"
            ) from None
        taken: int = probe.getsockname()[1]
    return taken
