"""NVIDIA's perf_analyzer, a compiled load over gRPC, made once in the cache folder as the peers are."""

from __future__ import annotations

import csv
import ctypes
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench import lengths

from .environments import NotInstalledError, run_or_fail
from .load import DIFFERENT, IDS, cpu_seconds

VERSION = "2.50.0"
"""The last version of tritonclient whose wheel holds the program."""

_LIBRARY, _LIBRARY_PACKAGE = "libb64.so.0d", "libb64-0d"
_WINDOWS = 3
"""It compares so many windows, whose results it then joins."""

_TIMEOUT_S = 120


class PerfAnalyzer:
    """The program, with the libraries that it needs."""

    def __init__(self, cache: Path) -> None:
        """Make it in `cache` if it is not there.

        Raises:
            NotInstalledError: it or one of its libraries cannot be had.
        """
        folder = cache / f"perf-analyzer-{VERSION}"
        if not (folder / "made").exists():
            _make(folder)
        self._program = folder / "bin" / "perf_analyzer"
        libraries = {str(one.parent) for one in folder.rglob("*.so.*")}
        self._environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(sorted(libraries))}
        self._data = folder / "lengths.json"
        if not self._data.exists():
            self._data.write_text(json.dumps(_requests()))

    def send(
        self, address: str, model: str, inflight: int, seconds: float, pids: list[int]
    ) -> dict[str, float]:
        """Load a server for about this time; what `load.run` reports. CPU includes its start.

        Raises:
            RuntimeError: it failed. The message has its last words.
        """
        with tempfile.NamedTemporaryFile(suffix=".csv") as report:
            command = [
                str(self._program), "-m", model, "-u", address, "-i", "grpc", "--async",
                "--input-data", str(self._data), "--concurrency-range", str(inflight),
                "--measurement-interval", str(round(seconds / _WINDOWS * 1000)),
                "--stability-percentage", "999", "--max-trials", str(_WINDOWS),
                "--percentile", "99", "-f", report.name,
            ]  # fmt: skip
            before, used, begun = cpu_seconds(pids), _children_seconds(), time.perf_counter()
            done = subprocess.run(
                command, env=self._environment, capture_output=True, text=True, timeout=_TIMEOUT_S
            )
            took_s, server_s = time.perf_counter() - begun, cpu_seconds(pids) - before
            if done.returncode:
                raise RuntimeError(f"perf_analyzer: {(done.stdout + done.stderr).strip()[-500:]}")
            found = read_report(Path(report.name).read_text())
        calls = found["rate"] * took_s
        load_s = _children_seconds() - used
        return {
            **found, "failed": 0, "calls": calls,
            "server_us": server_s / calls * 1e6, "load_us": load_s / calls * 1e6,
        }  # fmt: skip


def read_report(text: str) -> dict[str, float]:
    """Rate and latencies of its CSV report of one measurement."""
    (row,) = csv.DictReader(io.StringIO(text))
    return {
        "rate": float(row["Inferences/Second"]),
        "p50_ms": float(row["p50 latency"]) / 1000,
        "p99_ms": float(row["p99 latency"]) / 1000,
    }


def _requests() -> dict[str, list[dict[str, object]]]:
    rng = np.random.default_rng(0)
    drawn = [rng.integers(1, IDS, length).tolist() for length in lengths.sst2(DIFFERENT)]
    return {"data": [{"tokens": {"content": ids, "shape": [len(ids)]}} for ids in drawn]}


def _make(folder: Path) -> None:
    print(f"installing perf_analyzer in {folder} (once)", file=sys.stderr)
    run_or_fail(sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder))
    packages = (f"tritonclient=={VERSION}", "nvidia-cuda-runtime-cu12")
    python = str(folder / "bin" / "python")
    run_or_fail(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", *packages)
    if not (folder / "bin" / "perf_analyzer").exists():
        raise NotInstalledError(f"tritonclient {VERSION} holds no perf_analyzer for this system")
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:  # Debian's package, unpacked beside it and not installed
        run_or_fail("apt-get", "download", _LIBRARY_PACKAGE, folder=folder)
        (package,) = folder.glob(f"{_LIBRARY_PACKAGE}_*.deb")
        run_or_fail("dpkg", "-x", str(package), str(folder / "b64"))
    (folder / "made").touch()


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
