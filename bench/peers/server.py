"""A running server of the comparison: its address, its processes, what they use."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bench import levels, processes
from lockstep_client.server_process import LoggedProcess, ProcessError

from . import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .catalogue import Peer

_SERVED = Path(__file__).with_name("served")
_TRY_S = 0.2
_STOP_TIMEOUT_S = 20.0


class Running:
    """A server that has answered a call for every model."""

    def __init__(self, peer: Peer, address: str, pid: int) -> None:
        self.peer, self.address, self._pid = peer, address, pid

    def pids(self) -> list[int]:
        """The server's process and all below it; none if it has ended."""
        try:
            root = psutil.Process(self._pid)
            return [one.pid for one in (root, *root.children(recursive=True))]
        except psutil.NoSuchProcess:
            return []

    def memory_mb(self) -> float:
        """Memory of all its processes, pages that several share counted once (PSS)."""
        total = 0.0
        for pid in self.pids():
            with suppress(FileNotFoundError, ProcessLookupError):
                total += levels.pss_mb(pid)
        return total

    def stop_for_now(self) -> None:
        """Take no CPU until `go_on`, if it is a server that polls."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.peer.polls:
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)


@contextmanager
def running(peer: Peer, python: Path, repository: Path, models: Sequence[str]) -> Iterator[Running]:
    """Run a peer on a repository, ready with every model.

    Raises:
        ProcessError: it exited, or was not ready in time.
    """
    if not peer.script:
        with processes.server_process(repository) as lockstep:
            yield Running(peer, lockstep.address, lockstep.process.pid)
        return
    port = _free_port()
    variables = {
        "PEER_MODELS": str(repository), "PEER_PORT": str(port), "MOSEC_PORT": str(port),
        "MOSEC_ADDRESS": "127.0.0.1", "MOSEC_LOG_LEVEL": "warning", **dict(peer.variables),
    }  # fmt: skip
    words = [f"{name}={value}" for name, value in variables.items()]
    command = ["/usr/bin/env", *words, str(python), str(_SERVED / peer.script)]
    with LoggedProcess(
        peer.name, command, folder=repository.parent, stop_timeout_s=_STOP_TIMEOUT_S
    ) as process:
        server = Running(peer, f"127.0.0.1:{port}", process.process.pid)
        try:
            for model in models:
                _wait_ready(process, server, model)
            yield server
        finally:
            server.go_on()
            process.stop()
            with suppress(ProcessLookupError):  # workers that outlived it
                os.killpg(process.process.pid, signal.SIGKILL)


def _wait_ready(process: LoggedProcess, server: Running, model: str) -> None:
    end = time.monotonic() + server.peer.start_timeout_s
    spec = {
        "address": server.address, "kind": server.peer.kind, "models": [model], "inflight": 1,
        "seconds": _TRY_S, "lead_s": 0.0, "pids": [],
    }  # fmt: skip
    while True:
        process.check_running()
        with suppress(OSError):
            found = load.run(spec)
            if found["calls"] and not found["failed"]:
                return
        process.check_time(end, f"the {server.peer.name} does not answer for {model}")
        time.sleep(_TRY_S)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


__all__ = ["ProcessError", "Running", "running"]
