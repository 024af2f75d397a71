"""The committed stubs are what proto/generate.sh makes of the .proto files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROTO = Path(__file__).parents[2] / "proto"
MADE = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", ".binpb")


def generated(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.name.endswith(MADE)
    }


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("stubs")
    (folder / "lockstep_proto").mkdir()
    ended = subprocess.run(
        ["bash", str(PROTO / "generate.sh"), str(folder)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stderr
    return generated(folder)


def test_no_stub_is_missing_and_none_is_left_over(fresh: dict[str, bytes]) -> None:
    assert set(fresh) == set(generated(PROTO))
    assert len(fresh) == 9


def test_the_stubs_have_not_drifted(fresh: dict[str, bytes]) -> None:
    drifted = [name for name, content in generated(PROTO).items() if fresh.get(name) != content]
    assert drifted == [], "run `make proto` and commit what it writes"
