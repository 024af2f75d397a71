"""Runs a Lockstep server, or another program, as a child process with its log in a file.

flags → `python -m lockstep_server` → ports, read from its log → health checks → ready → SIGTERM, SIGKILL
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

START_TIMEOUT_S, STOP_TIMEOUT_S = 120.0, 10.0
_POLL_S = 0.05
_CALL_TIMEOUT_S = 5.0
_TAIL_LINES = 20
_PORTS = r"serving .* on .*:(\d+), metrics on (\d+)\D"


class ProcessError(RuntimeError):
    """A child process exited or was not ready in time. The message ends with the last lines of its log."""


class LoggedProcess:
    """A child process that runs inside the `with` block. Its output goes to a temporary file.

    The process has ended when the block has, whether the block returns, raises or is interrupted. Ctrl-C at
    the terminal reaches only this process. On the main thread, SIGTERM and SIGHUP raise SystemExit inside the
    block, unless the program has its own handlers.

    Args:
        name: what error messages call the process.
        command: the program and its arguments.
        folder: its working directory; None: that of this process.
        stop_timeout_s: time between SIGTERM and SIGKILL.
    """

    process: subprocess.Popen[bytes]
    log: Path
    started: float
    """The time.monotonic() of the start."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path | None = None,
        stop_timeout_s: float = STOP_TIMEOUT_S,
    ) -> None:
        self.name, self._command, self._folder = name, command, folder
        self._stop_timeout_s = stop_timeout_s

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_exit_on_signals())
            log = stack.enter_context(NamedTemporaryFile(prefix="lockstep-", suffix=".log"))
            self.log = Path(log.name)
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                self._command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
            _running.add(self)
            stack.callback(self.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def stop(self) -> int:
        """Send SIGTERM, and SIGKILL after the timeout or if interrupted. Returns the exit code."""
        try:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(self._stop_timeout_s)
        finally:
            self.kill()
            code = self.process.wait()
            _running.discard(self)
        return code

    def kill(self) -> None:
        """Send SIGKILL to the process and those that it has started."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(self.process.pid, signal.SIGKILL)

    def check_running(self) -> None:
        """Raises ProcessError if the process has exited."""
        code = self.process.poll()
        if code is not None:
            raise ProcessError(f"the {self.name} exited with code {code}{self.log_tail()}")

    def wait_for_log(self, pattern: str, timeout_s: float = START_TIMEOUT_S) -> tuple[str, ...]:
        """Wait until the log matches `pattern`. Returns the groups of the match.

        Raises:
            ProcessError: the process exited, or the time is up.
        """
        end = time.monotonic() + timeout_s
        while not (match := re.search(pattern, self.log_text())):
            self.check_running()
            self.check_time(end, f"the {self.name} is not ready after {timeout_s:g} s")
            time.sleep(_POLL_S)
        return match.groups()

    def check_time(self, end: float, message: str) -> None:
        """Raises ProcessError with `message` and the log if time.monotonic() is past `end`."""
        if time.monotonic() > end:
            raise ProcessError(f"{message}{self.log_tail()}")

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def log_tail(self) -> str:
        """The last lines of the log, to append to a message."""
        lines = self.log_text().splitlines()[-_TAIL_LINES:]
        return "".join(f"\n  {self.name}: {line}" for line in lines)


_running: set[LoggedProcess] = set()
"""The processes whose blocks have not ended."""


class ServerProcess(LoggedProcess):
    """`python -m lockstep_server` on this machine, on free ports unless the flags name ports."""

    port: int
    metrics_port: int

    def __init__(
        self,
        *flags: str,
        stop_timeout_s: float = STOP_TIMEOUT_S,
        program: Sequence[str] = ("lockstep_server",),
    ) -> None:
        """
        Args:
            program: the module that runs the server, and arguments before the flags.
        """
        usual = ("--host", "127.0.0.1", "--port", "0", "--metrics-port", "0")
        command = [sys.executable, "-m", *program, *usual, *flags]
        super().__init__("server", command, stop_timeout_s=stop_timeout_s)

    @property
    def address(self) -> str:
        """HOST:PORT of gRPC. Known after `wait_listening` or `wait_ready`."""
        return f"127.0.0.1:{self.port}"

    @property
    def metrics_address(self) -> str:
        """HOST:PORT of /metrics. Known after `wait_listening` or `wait_ready`."""
        return f"127.0.0.1:{self.metrics_port}"

    def wait_listening(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until both ports are open. The log level must be info or debug.

        Raises:
            ProcessError: the server exited, or the time is up.
        """
        self.port, self.metrics_port = map(int, self.wait_for_log(_PORTS, timeout_s))

    def wait_ready(self, models: Sequence[str] = ("",), timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until these models serve; "" stands for all models.

        Raises:
            ProcessError: the server exited, or the time is up.
        """
        import grpc
        from grpc_health.v1 import health_pb2_grpc

        end = time.monotonic() + timeout_s
        self.wait_listening(timeout_s)
        missing = list(models)
        with grpc.insecure_channel(self.address, [("grpc.enable_http_proxy", 0)]) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
            while missing := [model for model in missing if not _is_serving(check, model)]:
                self.check_running()
                names = ", ".join(model or "the server" for model in missing)
                self.check_time(end, f"{names} not ready after {timeout_s:g} s")
                time.sleep(_POLL_S)


def _is_serving(check: Any, model: str) -> bool:
    import grpc
    from grpc_health.v1 import health_pb2

    try:
        reply = check(health_pb2.HealthCheckRequest(service=model), timeout=_CALL_TIMEOUT_S)
    except grpc.RpcError:  # the model is not known yet, or the server has exited
        return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise SystemExit where they would end the process.

    A second one kills the children. It raises nothing: an exception could come between two lines of the code
    that stops them, and leave them running.
    """
    handled = []
    exiting = False

    def exit_once(number: int, _: object) -> None:
        nonlocal exiting
        if not exiting:
            exiting = True
            raise SystemExit(128 + number)
        for one in list(_running):
            one.kill()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, exit_once)
                handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
