"""The committed stubs equal what proto/generate.sh writes from the .proto files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import limit_s

PROTO = Path(__file__).parents[2] / "proto"
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", ".binpb")


def stubs(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.name.endswith(SUFFIXES)
    }


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("stubs")
    (folder / "lockstep_proto").mkdir()
    result = subprocess.run(
        ["bash", str(PROTO / "generate.sh"), str(folder)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s(100),
    )
    assert result.returncode == 0, result.stderr
    return stubs(folder)


def test_no_stub_is_missing_or_left_over(generated: dict[str, bytes]) -> None:
    assert set(generated) == set(stubs(PROTO))
    assert len(generated) == 15


def test_the_stubs_are_up_to_date(generated: dict[str, bytes]) -> None:
    outdated = [name for name, content in stubs(PROTO).items() if generated.get(name) != content]
    assert outdated == [], "run `make proto` and commit the result"
