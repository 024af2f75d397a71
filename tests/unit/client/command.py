"""The `lockstep` command in a process of its own, as a shell runs it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

CODE = "from lockstep_client.__main__ import main; main()"


def process(*arguments: str, **how: Any) -> subprocess.Popen[str]:
    """Started, its output in pipes."""
    return started(CODE, *arguments, **how)


def started(code: str, *arguments: str, **how: Any) -> subprocess.Popen[str]:
    """The same, with what is done before `main` in its code."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )
