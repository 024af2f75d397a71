"""A client written for Triton works unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import fakes
import pytest
from integration.harness import serve
from integration.triton_checks import CHECKS
from patience import limit_s


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    fakes.write_model(root, "same", fakes.identity())
    fakes.write_model(root, "wide", fakes.identity("FP32", ("n", 3)))
    fakes.write_model(root, "words", fakes.identity("BYTES"))
    with serve(root, shared_memory_keys="/lockstep-test") as server:
        ended = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("triton_checks.py")), server.address],
            capture_output=True, text=True, timeout=limit_s(100), check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("check", CHECKS)
def test_tritonclient(outcomes: dict[str, str], check: str) -> None:
    assert outcomes[check] == ""
