"""What is built works without the checkout: contents of wheel and sdist, and a server of what the wheel has.

The wheel is unpacked into an empty folder and run with the packages of this environment. With LOCKSTEP_PYTHON
(`make test-package`), it is the interpreter of an environment in which the wheel is installed as users do.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from made_once import made_once
from patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXAMPLES = (
    "sentiment-bow",
    "sentiment-lstm",
    "sentiment-transformer",
    "shakespeare-char-lstm",
    "shakespeare-gpt",
)
SOURCES = {
    folder: root
    for root in ("proto", "server", "export", "clients")
    for folder in sorted(one.name for one in (ROOT / root).glob("lockstep_*"))
}
"""Where each package of the wheel is in the checkout."""

KINDS = {
    ".py", ".pyi", ".typed", ".binpb", ".proto",
    ".json", ".toml", ".html", ".js", ".css", ".svg",
    ".onnx", ".bin", ".md",
}  # fmt: skip


def _build(folder: Path) -> None:
    """The sdist, and the wheel that is built from it."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]


@pytest.fixture(scope="module")
def built() -> Path:
    return made_once("package", _build)


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [wheel] = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def in_wheel(wheel: Path) -> set[str]:
    return {one for one in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in one}


def _files(folder: Path) -> set[Path]:
    """Files below a folder, relative to it, without what tools leave there."""
    return {
        file.relative_to(folder)
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(in_wheel: set[str]) -> None:
    wanted = {f"{name}/{file}" for name, root in SOURCES.items() for file in _files(ROOT / root / name)}
    wanted |= {
        f"lockstep_server/examples/{name}/{f}" for name in EXAMPLES for f in _files(ROOT / "models" / name)
    }
    wanted.add("lockstep_server/examples/SHA256SUMS")
    wanted |= {f"lockstep_proto/protos/lockstep/{file}" for file in _files(ROOT / "proto" / "lockstep")}
    assert in_wheel == wanted
    assert {Path(name).suffix for name in in_wheel} <= {*KINDS, ""}


def test_the_sdist_builds_that_wheel_and_has_no_tests(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        files = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= files
    tops = {name.partition("/")[0] for name in names if "/" in name}
    assert tops == {"proto", "server", "export", "clients", "models", "lockstep_inference.egg-info"}
    assert {name.split("/")[1] for name in files if name.startswith("models/")} == {*EXAMPLES, "SHA256SUMS"}


def test_a_release_has_its_changes_written_down() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = f"## [{PROJECT['version']}] - " in changes
    assert released or f"will be version {PROJECT['version']}" in changes


def test_the_hashes_are_those_of_the_shipped_models() -> None:
    """`make models` writes them; after an edit: cd models && sha256sum */*.json */1/* > SHA256SUMS."""
    sums = (ROOT / "models" / "SHA256SUMS").read_text(encoding="utf-8")
    files = sorted((*(ROOT / "models").glob("*/*.json"), *(ROOT / "models").glob("*/[0-9]*/*")))
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(ROOT / 'models')}"
        for file in files
    ]
    assert sums.splitlines() == lines


class Installed:
    """The wheel where it is installed, with a HOME and a working folder that are empty."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        kept = ("PATH", "LOCKSTEP_CACHE", "LOCKSTEP_PYTHON")  # one cache of measurements for all tests
        self.environment = {key: os.environ[key] for key in kept if key in os.environ}
        self.environment |= {"HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        self.python = os.environ.get("LOCKSTEP_PYTHON", sys.executable)
        if self.python == sys.executable:
            self.environment["PYTHONPATH"] = str(folder / "site")  # before the checkout
            zipfile.ZipFile(wheel).extractall(folder / "site")

    def start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        command = [self.python, "-P", "-m", module, *arguments]
        return subprocess.Popen(
            command, cwd=self.home, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, module: str, *arguments: str) -> str:
        process = self.start(module, *arguments)
        out, error = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, out + error
        return out


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Installed:
    return Installed(wheel, tmp_path)


def test_the_wheel_serves_its_models_without_the_checkout(installed: Installed) -> None:
    """The first steps of a new user, in an empty folder and with an empty HOME."""
    flags = ("--models", "examples:", "--port", "0", "--metrics-port", "0", "--device", "cpu")
    with installed.start("lockstep_server", *flags) as server:
        try:
            assert server.stderr is not None
            lines: list[str] = []
            while not lines or " serving " not in lines[-1]:
                line = server.stderr.readline()
                assert line, "".join(lines)
                lines.append(line)
            assert "/lockstep_server/examples on " in lines[-1]
            assert str(ROOT / "server") not in lines[-1]
            port = lines[-1].split(":")[-1].split(",")[0]
            address = ("--address", f"127.0.0.1:{port}")

            installed.run("lockstep_client", "health", "--wait", str(PATIENCE_S), *address)
            listed = installed.run("lockstep_client", "models", *address)
            for model in EXAMPLES:
                assert any(line.split()[:3] == [model, "1", "READY"] for line in listed.splitlines()), listed
            for model in ("sentiment-lstm", "sentiment-transformer"):
                answer = installed.run("lockstep_client", "classify", "-m", model, "a fine film", *address)
                assert "positive" in answer
            made = ("generate", "-m", "shakespeare-char-lstm", "--prompt", "ROMEO:", "--max-tokens", "20")
            assert len(installed.run("lockstep_client", *made, *address)) > 20
        finally:
            server.terminate()
            server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 0


def test_the_commands_of_the_wheel_are_there(wheel: Path) -> None:
    [name] = [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("entry_points.txt")]
    text = zipfile.ZipFile(wheel).read(name).decode()
    for script, target in PROJECT["scripts"].items():
        assert f"{script} = {target}" in text
