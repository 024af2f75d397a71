"""An environment of its own for each peer, made once in a cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .catalogue import Peer

INSTALL_TIMEOUT_S = 900
_ERROR_LINES = 3
_VERSIONS = (
    "import json, sys; from importlib.metadata import version; "
    "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
)


class NotInstalledError(RuntimeError):
    """A peer cannot be had on this machine. The message says why."""


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lockstep-peers"


def python_of(peer: Peer, cache: Path) -> Path:
    """The Python that runs a peer; makes its environment first if there is none with these packages.

    Raises:
        NotInstalledError: pip could not install the packages.
    """
    if not peer.packages:
        return Path(sys.executable)
    wanted = [one.format(onnxruntime=metadata.version("onnxruntime")) for one in peer.packages]
    digest = hashlib.sha256(json.dumps([peer.python, *wanted]).encode()).hexdigest()[:12]
    folder = cache / f"{wanted[0]}-{digest}"
    python, done = folder / "bin" / "python", folder / "made"
    if not done.exists():
        print(f"installing {', '.join(wanted)} in {folder} (once)", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        run_or_fail(peer.python or sys.executable, "-m", "venv", "--without-pip", str(folder))
        run_or_fail(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *wanted)
        done.touch()
    return python


def versions(peer: Peer, python: Path) -> dict[str, str]:
    """The versions of the packages that the table names."""
    found: dict[str, str] = json.loads(
        subprocess.run([python, "-c", _VERSIONS, *peer.shows], check=True, stdout=subprocess.PIPE).stdout
    )
    return found


def run_or_fail(*command: str, folder: Path | None = None) -> None:
    """Run a step of an installation.

    Raises:
        NotInstalledError: it failed. The message has its last words.
    """
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except FileNotFoundError:
        raise NotInstalledError(f"there is no {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"{' '.join(command)} took more than {INSTALL_TIMEOUT_S} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()[-_ERROR_LINES:]
        raise NotInstalledError(" ".join(lines))
