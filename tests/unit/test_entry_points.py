"""Ctrl-C ends each command without a traceback, whatever it imports at that moment."""

from __future__ import annotations

import subprocess
import sys

import pytest
from patience import PATIENCE_S

# Python imports what it must before `main` can handle the signal: the package, `signal`, and its own start.
CODE = """
import os, signal, sys
command, stage = sys.argv.pop(1), sys.argv.pop(1)
class Interrupted:
    def find_spec(self, name, *_):
        if name == stage:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupted())
exec(f"from {command}.__main__ import main")
main()
"""


@pytest.mark.parametrize(
    ("command", "arguments", "stage", "code"),
    [
        ("lockstep_server", ["--help"], "typing", 0),
        ("lockstep_server", ["--help"], "importlib.metadata", 0),
        ("lockstep_server", ["--help"], "click", 0),
        ("lockstep_server", ["--port", "0"], "lockstep_server.lifecycle", 0),
        ("lockstep_server", ["--port", "0"], "grpc", 0),
        ("lockstep_client", ["--help"], "typing", 130),
        ("lockstep_client", ["--help"], "typer", 130),
        ("lockstep_client", ["--help"], "lockstep_client.verbs", 130),
        ("lockstep_export", ["--help"], "typer", 130),
        ("lockstep_export", ["check", "sentiment-rnn"], "torch", 130),
        ("lockstep_export", ["study", "gradients"], "torch", 130),
    ],
)
def test_ctrl_c_during_an_import_ends_a_command_quietly(
    command: str, arguments: list[str], stage: str, code: int
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CODE, command, stage, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")
