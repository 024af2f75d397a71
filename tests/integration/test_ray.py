"""The demo on a local Ray cluster, whose parts check what they show. `make ray-test` runs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("LOCKSTEP_RAY_PYTHON", "")
PARTS = ("configuration", "answers", "killed", "cancelled", "scaled", "multiplexed")

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="needs an environment with Ray: `make ray-test` makes one"),
    pytest.mark.timeout(600),
]


def test_each_part_of_the_demo(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [PYTHON, "-m", "deploy.ray", "--only", ",".join(PARTS), "--report", str(report)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=20 * PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(report.read_text())
    assert list(figures) == list(PARTS)
    assert len(figures["answers"]) == 7
    assert set(figures["answers"].values()) == {"equal"}
    streams = figures["killed"]["streams"]
    assert streams["unavailable"] + streams["resumed"] > 0
    assert figures["scaled"]["failed"] == 0
    left = subprocess.run(["pgrep", "-f", "lockstep_ray.served"], capture_output=True, text=True, check=False)
    assert not left.stdout, f"servers of replicas are left behind: {left.stdout}"
