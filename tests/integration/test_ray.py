"""The demo on a local Ray cluster, whose parts check what they show: in short, or by `make ray-test` in
full."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("LOCKSTEP_RAY_PYTHON", "")
INSTALLED = ROOT / ".venv" / "ray" / "bin" / "python"
PARTS = ("configuration", "answers", "killed", "cancelled", "scaled", "multiplexed")

pytestmark = pytest.mark.timeout(600)


def demo(python: str, report: Path, *parts: str) -> dict[str, Any]:
    """The figures of parts of the demo."""
    command = [python, "-m", "deploy.ray", "--only", ",".join(parts), "--report", str(report)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=20 * PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures: dict[str, Any] = json.loads(report.read_text())
    assert list(figures) == list(parts)
    return figures


@pytest.mark.skipif(not INSTALLED.exists(), reason="needs an environment with Ray: `make ray-demo` makes one")
@pytest.mark.skipif(bool(PYTHON), reason="`make ray-test` tests each part")
def test_answers_are_those_of_a_lone_server_and_sequences_keep_their_state(tmp_path: Path) -> None:
    figures = demo(str(INSTALLED), tmp_path / "report.json", "short")
    assert len(figures["short"]) == 4
    assert set(figures["short"].values()) == {"equal"}


@pytest.mark.skipif(not PYTHON, reason="`make ray-test` tests each part")
def test_each_part_of_the_demo(tmp_path: Path) -> None:
    figures = demo(PYTHON, tmp_path / "report.json", *PARTS)
    assert len(figures["answers"]) == 7
    assert set(figures["answers"].values()) == {"equal"}
    streams = figures["killed"]["streams"]
    assert streams["unavailable"] + streams["resumed"] > 0
    assert figures["scaled"]["failed"] == 0
    left = subprocess.run(["pgrep", "-f", "lockstep_ray.served"], capture_output=True, text=True, check=False)
    assert not left.stdout, f"servers of replicas are left behind: {left.stdout}"
