"""The processes of a rehearsal: each starts on a free port, tells it in its log, and is always stopped."""

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
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Rehearsal:
    """What has been started."""

    address: str  # of the server's gRPC
    metrics: str  # HOST:PORT of its /metrics
    prometheus: Prometheus


def has_prometheus() -> bool:
    return shutil.which("prometheus") is not None


@contextmanager
def rehearsal(folder: Path, models: Sequence[str] = ()) -> Iterator[Rehearsal]:
    """A server that has loaded the shipped models (those named; else all), and a Prometheus that reads it.

    `folder` is for their files.

    Raises:
        RuntimeError: a process ended before it was ready; the message has its log.
    """
    with ExitStack() as stack:
        port, metrics_port = stack.enter_context(_server(models, folder / "cache"))
        metrics = f"127.0.0.1:{metrics_port}"
        prometheus = stack.enter_context(_prometheus(folder, metrics))
        _wait_healthy(f"http://{metrics}/healthz")
        yield Rehearsal(f"127.0.0.1:{port}", metrics, prometheus)


@contextmanager
def load(address: str) -> Iterator[None]:
    """Calls of every kind to the server, until this ends. See traffic.py."""
    with _process([sys.executable, "-m", "deploy.rehearsal.traffic", address], r"(calling)"):
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
    """The shipped configuration, with another targets/lockstep.yml: the file that users change too.

    Long windows are evaluated as often as short ones: else the first values come after two minutes.
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
        RuntimeError: it was not, for two minutes.
    """
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except urllib.error.HTTPError as error:  # 503: models are loading
            error.close()
            time.sleep(0.2)
    raise RuntimeError(f"{url} was not healthy for {_PATIENCE_S:g} s")


@contextmanager
def _process(command: list[str], ready: str) -> Iterator[tuple[str, ...]]:
    """A process, once its log matches `ready`; the groups of the match. It is terminated at the end.

    Raises:
        RuntimeError: it ended before that.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    log = _Log(process, ready)
    try:
        yield log.wait()
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command[:3])} ended before its time:\n{log.last_lines()}")
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


class _Log:
    """A process' log, read as it comes, so that the process never waits for its reader."""

    def __init__(self, process: subprocess.Popen[str], ready: str) -> None:
        self._process, self._ready = process, re.compile(ready)
        self._lines: list[str] = []
        self._found: tuple[str, ...] | None = None
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait(self) -> tuple[str, ...]:
        """
        Raises:
            RuntimeError: the process ended, or said nothing that matches for two minutes.
        """
        self._news.wait(_PATIENCE_S)
        if self._found is None:
            raise RuntimeError(f"it did not get ready:\n{self.last_lines()}")
        return self._found

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
            if self._found is None and (match := self._ready.search(line)):
                self._found = match.groups()
                self._news.set()
        self._news.set()
