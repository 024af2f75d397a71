"""docs/security.md takes an operator from nothing to mutual TLS with two callers: its commands are run."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_commands_of_the_security_page_work(tmp_path: Path) -> None:
    for name in ("Makefile", "deploy", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "security.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    ports = {"8001": _free_port(), "8002": _free_port()}
    script = "".join(blocks)
    for usual, port in ports.items():
        script = script.replace(f"localhost:{usual}", f"localhost:{port}")
    flags = f"--port {ports['8001']} --metrics-port {ports['8002']} --device cpu --only sentiment-lstm"
    script = script.replace("lockstep-serve ", f"lockstep-serve {flags} ")
    process = subprocess.Popen(
        ["bash", "-e", "-o", "pipefail", "-c", f"trap 'kill $(jobs -p)' EXIT\n{script}"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
    assert "sentiment-lstm" in output
    assert "positive" in output
    assert "lockstep_engine_up 1.0" in output
