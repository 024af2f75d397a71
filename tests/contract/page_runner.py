"""Runs the blocks of a page of the documentation, in order, in a folder of its own.

Only the server's ports are changed, to free ones. Scripts and commands run in this process, as each would
import PyTorch for seconds; the server is a process.
"""

import io
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import chdir, redirect_stdout, suppress
from pathlib import Path

import pytest
from patience import PATIENCE_S, wait_until

import lockstep_export.cli
from lockstep_client import Client, LockstepError, cli

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVE = "lockstep-serve"
PORT = "8001"


class PageRunner:
    """Runs the blocks of a page in a folder; the server runs in the background."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: subprocess.Popen[bytes] | None = None
        self.outputs: dict[str, str] = {}
        port, metrics_port = _free_ports()
        self.port = str(port)
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "LOCKSTEP_PORT": self.port,
            "LOCKSTEP_METRICS_PORT": str(metrics_port),
            "LOCKSTEP_ADDRESS": f"localhost:{port}",
        }

    def follow(self, page: str) -> None:
        """Writes or runs every block, in order."""
        for language, block in BLOCK.findall(page):
            if language == "python":
                (name,) = re.findall(r"^# (\w+\.py)$", block.split("\n")[0])
                (self.folder / name).write_text(block.replace(PORT, self.port), encoding="utf-8")
            elif not language:
                for command in block.splitlines():
                    with pytest.MonkeyPatch.context() as patch, chdir(self.folder):
                        for name, value in self.environment.items():
                            patch.setenv(name, value)
                        self._run(command, patch)

    def close(self) -> None:
        """Stops the server with SIGINT."""
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait(PATIENCE_S)

    def _is_ready(self) -> bool:
        with Client(f"localhost:{self.port}", retries=0) as client, suppress(LockstepError):
            return client.health(timeout_s=PATIENCE_S).serving
        return False

    def _run(self, command: str, patch: pytest.MonkeyPatch) -> None:
        program, *arguments = words = shlex.split(command)
        if program == "pip":
            return  # already installed
        if program == SERVE:
            self.close()
            self.server = subprocess.Popen(words)
            return
        if command == "lockstep health":
            wait_until(self._is_ready, "the server is ready")
        patch.setattr(sys, "argv", words)
        with redirect_stdout(io.StringIO()) as printed:
            if program == "python":
                [script] = arguments
                runpy.run_path(script, run_name="__main__")
            elif program == "lockstep":
                assert cli.run(arguments) == 0, command
            else:
                assert program == "lockstep-export"
                with pytest.raises(SystemExit, match="0"):
                    lockstep_export.cli.main()
        self.outputs[command] = printed.getvalue()


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def output(followed: PageRunner, command: str) -> str:
    """The output of the one command that starts with `command`."""
    (found,) = [text for line, text in followed.outputs.items() if line.startswith(command)]
    return found
