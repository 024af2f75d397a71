"""Starts the processes of a rehearsal on free ports, which it reads from their logs, and stops them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .prometheus import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "prometheus"
SCRAPE_S = 1
_START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Rehearsal:
    """A running server and the Prometheus that scrapes it."""

    address: str  # HOST:PORT of gRPC
    metrics: str  # HOST:PORT of /metrics
    prometheus: Prometheus


def has_prometheus() -> bool:
    return shutil.which("prometheus") is not None


@contextmanager
def rehearsal(folder: Path, models: Sequence[str] = ()) -> Iterator[Rehearsal]:
    """Run a server with the shipped models and a Prometheus that scrapes it. Yields once both are ready.

    Args:
        folder: where both write their files.
        models: names of the models to serve. Empty: all.

    Raises:
        RuntimeError: a process died before it was ready. The message contains its log.
    """
    with ExitStack() as stack:
        port, metrics_port = stack.enter_context(_server(models, folder / "cache"))
        metrics = f"127.0.0.1:{metrics_port}"
        prometheus = stack.enter_context(_prometheus(folder, metrics))
        _wait_healthy(f"http://{metrics}/healthz")
        yield Rehearsal(f"127.0.0.1:{port}", metrics, prometheus)


@contextmanager
def load(address: str) -> Iterator[None]:
    """Send requests of every kind to the server until the context ends. See traffic.py."""
    with _process([sys.executable, "-m", "deploy.rehearsal.traffic", address], r"(sending)"):
        yield


@contextmanager
def _server(models: Sequence[str], cache: Path) -> Iterator[tuple[str, str]]:
    command = [
        sys.executable, "-m", "lockstep_server", "--models", str(ROOT / "models"), "--only", ",".join(models),
        "--host", "127.0.0.1", "--port", "0", "--metrics-port", "0", "--device", "auto",
        "--cache", str(cache),
    ]  # fmt: skip
    with _process(command, r"serving .* on .*:(\d+), metrics on (\d+)") as (port, metrics_port):
        yield port, metrics_port


@contextmanager
def _prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Run Prometheus with the shipped configuration, except for targets/lockstep.yml, which users edit.

    Long windows use the interval of the short ones, so that their first values do not take two minutes.
    """
    config = folder / "config"
    shutil.copytree(SHIPPED, config)
    rules = config / "rules" / "objectives.yml"
    rules.write_text(re.sub(r"\n    interval: .*", "", rules.read_text()))
    labels = f'{{__scrape_interval__: "{SCRAPE_S}s", __scrape_timeout__: "{SCRAPE_S}s"}}'
    (config / "targets" / "lockstep.yml").write_text(f"- targets: [{target!r}]\n  labels: {labels}\n")
    command = [
        "prometheus", f"--config.file={config / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage",
    ]  # fmt: skip
    with _process(command, r'msg="Listening on".* address=127.0.0.1:(\d+)') as (port,):
        yield Prometheus(f"http://127.0.0.1:{port}")


def _wait_healthy(url: str) -> None:
    """
    Raises:
        RuntimeError: the server was not healthy within two minutes.
    """
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except urllib.error.HTTPError as error:  # 503: models are loading
            error.close()
            time.sleep(0.2)
    raise RuntimeError(f"{url} was not healthy within {_START_TIMEOUT_S:g} s")


@contextmanager
def _process(command: list[str], ready: str) -> Iterator[tuple[str, ...]]:
    """Run a process until the context ends. Yields the groups of the first log line that matches `ready`.

    Raises:
        RuntimeError: the process died.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    log = _ProcessLog(process, ready)
    try:
        yield log.wait()
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command[:3])} died:\n{log.last_lines()}")
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


class _ProcessLog:
    """Reads the log of a process on a thread, so that the process never blocks on a full pipe."""

    def __init__(self, process: subprocess.Popen[str], ready: str) -> None:
        self._process, self._ready = process, re.compile(ready)
        self._lines: list[str] = []
        self._groups: tuple[str, ...] | None = None
        self._done = threading.Event()  # a line matched, or the log ended
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait(self) -> tuple[str, ...]:
        """
        Raises:
            RuntimeError: the process died, or no line matched within two minutes.
        """
        self._done.wait(_START_TIMEOUT_S)
        if self._groups is None:
            raise RuntimeError(f"the process did not start:\n{self.last_lines()}")
        return self._groups

    def last_lines(self) -> str:
        return "".join(self._lines[-20:])

    def close(self) -> None:
        self._thread.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            if self._groups is None and (match := self._ready.search(line)):
                self._groups = match.groups()
                self._done.set()
        self._done.set()
