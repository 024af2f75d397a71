"""Runs the `lockstep` command in a separate process."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

CODE = "from lockstep_client.__main__ import main; main()"


def process(*arguments: str, **how: Any) -> subprocess.Popen[str]:
    """Start the command with its output in pipes."""
    return started(CODE, *arguments, **how)


def started(code: str, *arguments: str, **how: Any) -> subprocess.Popen[str]:
    """Start the command with `code`, which may prepare the process before it calls `main`."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )
