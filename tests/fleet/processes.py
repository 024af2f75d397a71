"""The processes of a fleet: three servers, and HAProxy before them."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import fakes
import steps
from patience import PATIENCE_S, limit_s, wait_until

from lockstep_client.server_process import LoggedProcess, ServerProcess

if TYPE_CHECKING:
    import signal
    from types import TracebackType
    from typing import Self

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
CONFIGURATION = Path(__file__).parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
NAMES = ("s1", "s2", "s3")


def write_models(root: Path) -> None:
    """A one-shot model, a language model for streams, and a client-driven one that adds."""
    fakes.write_model(root, "identity", fakes.identity())
    fakes.write_model(root, "slow", fakes.slow())
    steps.language(root)
    steps.adder(root, slots=64)


class Fleet:
    """Three servers of one model repository, by the names that HAProxy gives them.

    They are peers of one another, and move their sequences when they stop.

    Args:
        delay_s: `--shutdown-delay-s` of the servers; longer than HAProxy takes to notice.
    """

    def __init__(self, models: Path, *, delay_s: float = 2.0) -> None:
        self._flags = ["--models", str(models), "--shutdown-delay-s", str(delay_s), "--drain-s", "600"]
        self._ports = dict(zip(NAMES, _free_ports(len(NAMES)), strict=True))
        peers = ",".join(f"127.0.0.1:{port}" for port in self._ports.values())
        self._flags += ["--peers", peers, "--sequence-key-file", str(_write_key(models.with_name("key")))]
        self._flags += ["--cache", os.environ.get("LOCKSTEP_CACHE", str(models.with_name("cache")))]
        self._stack = ExitStack()
        self.servers: dict[str, ServerProcess] = {}
        self.haproxy: LoggedProcess
        self.address = ""

    def __enter__(self) -> Self:
        assert HAPROXY is not None
        with ExitStack() as stack:
            stack.callback(self._stop)
            self.servers = {name: self._start("--port", str(self._ports[name])) for name in NAMES}
            for server in self.servers.values():
                server.wait_ready(timeout_s=limit_s(120))
            self.address = f"127.0.0.1:{_free_ports(1)[0]}"
            os.environ["LOCKSTEP_FLEET"] = self.address
            for name, server in self.servers.items():
                variable = f"LOCKSTEP_{name[1:]}"
                os.environ[variable] = server.address
                os.environ[f"{variable}_METRICS"] = str(server.metrics_port)
            self.haproxy = LoggedProcess("haproxy", [HAPROXY, "-db", "-f", str(CONFIGURATION)])
            stack.enter_context(self.haproxy)
            wait_until(self._listens, "HAProxy")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _start(self, *flags: str) -> ServerProcess:
        return ServerProcess(*self._flags, *flags, stop_timeout_s=PATIENCE_S).__enter__()

    def _stop(self) -> None:
        for server in self.servers.values():
            server.kill()  # also one that is stalled
            server.__exit__(None, None, None)

    def _listens(self) -> bool:
        self.haproxy.check_running()
        host, port = self.address.rsplit(":", 1)
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    # --- what is done to servers ----------------------------------------------------------------------

    def stop(self, name: str) -> int:
        """SIGTERM, and wait for the end of the drain. Returns the exit code."""
        old = self.servers[name]
        code = old.stop()
        old.__exit__(None, None, None)
        return code

    def start(self, name: str) -> None:
        """Start a server that has ended again, on its ports, and wait until it is ready."""
        old = self.servers[name]
        old.__exit__(None, None, None)
        ports = ("--port", str(old.port), "--metrics-port", str(old.metrics_port))
        self.servers[name] = self._start(*ports)
        self.servers[name].wait_ready(timeout_s=limit_s(120))

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to all processes of a server."""
        os.killpg(self.servers[name].process.pid, number)

    def reports(self, name: str, condition: str) -> int:
        """How often HAProxy has reported that a server is `UP`, `DOWN` or `stopping`."""
        return len(
            re.findall(rf"^Server oneshot/{name} is {condition}", self.haproxy.log_text(), re.MULTILINE)
        )


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _write_key(path: Path) -> Path:
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    return path
