"""Starts the processes of a rehearsal on free ports, which it reads from their logs, and stops them."""

from __future__ import annotations

import re
import secrets
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep_client.server_process import START_TIMEOUT_S, LoggedProcess, ServerProcess

from .prometheus import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "prometheus"
SCRAPE_S = 1
_STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Rehearsal:
    """A running server and the Prometheus that scrapes it."""

    address: str  # HOST:PORT of gRPC
    metrics: str  # HOST:PORT of /metrics
    prometheus: Prometheus


def has_prometheus() -> bool:
    return shutil.which("prometheus") is not None


@contextmanager
def rehearsal(
    folder: Path, models: Sequence[str] = (), start_timeout_s: float = START_TIMEOUT_S
) -> Iterator[Rehearsal]:
    """Run a server with the shipped models and a Prometheus that scrapes it. Yields once both are ready.

    Args:
        folder: where both write their files.
        models: names of the models to serve. Empty: all.
        start_timeout_s: how long the server may take to be ready.

    Raises:
        ProcessError: a process exited, or was not ready in time. The message contains its log.
    """
    with shipped_server(folder, models) as server:
        server.wait_listening(start_timeout_s)
        with _prometheus(folder, server.metrics_address) as prometheus:
            server.wait_ready(timeout_s=start_timeout_s)
            yield Rehearsal(server.address, server.metrics_address, prometheus)
        server.check_running()


def shipped_server(folder: Path, models: Sequence[str] = ()) -> ServerProcess:
    """A server with the shipped models, or those of these names, which writes its cache and key to `folder`.
    It counts moves of sequences, to and from a peer that is not there."""
    key = folder / "sequence-key"
    key.touch(0o600)
    key.write_text(secrets.token_hex(32))
    return ServerProcess(
        "--models", str(ROOT / "models"), "--only", ",".join(models), "--cache", str(folder / "cache"),
        "--peers", "127.0.0.1:1", "--sequence-key-file", str(key), stop_timeout_s=_STOP_TIMEOUT_S,
    )  # fmt: skip


@contextmanager
def load(address: str, pause_s: float = 0.0) -> Iterator[None]:
    """Send requests of every kind to the server until the context ends, less with a pause. See traffic.py."""
    command = [sys.executable, "-m", "deploy.rehearsal.traffic", address, str(pause_s)]
    with _process("load", command) as traffic:
        traffic.wait_for_log("sending")
        yield
        traffic.check_running()


@contextmanager
def _prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Run Prometheus with the shipped configuration, except for targets/lockstep.yml, which users edit.

    Rules, those of long windows too, are evaluated as often as metrics are scraped: they soon have values.
    """
    config = folder / "config"
    shutil.copytree(SHIPPED, config)
    rules = config / "rules" / "objectives.yml"
    rules.write_text(re.sub(r"\n    interval: .*", "", rules.read_text()))
    main = config / "prometheus.yml"
    main.write_text(main.read_text().replace("evaluation_interval: 15s", f"evaluation_interval: {SCRAPE_S}s"))
    labels = f'{{__scrape_interval__: "{SCRAPE_S}s", __scrape_timeout__: "{SCRAPE_S}s"}}'
    (config / "targets" / "lockstep.yml").write_text(f"- targets: [{target!r}]\n  labels: {labels}\n")
    command = [
        "prometheus", f"--config.file={config / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage",
    ]  # fmt: skip
    with _process("Prometheus", command) as prometheus:
        (port,) = prometheus.wait_for_log(r'msg="Listening on".* address=127.0.0.1:(\d+)\s')
        yield Prometheus(f"http://127.0.0.1:{port}")
        prometheus.check_running()


def _process(name: str, command: list[str]) -> LoggedProcess:
    return LoggedProcess(f"{name} process", command, folder=ROOT, stop_timeout_s=_STOP_TIMEOUT_S)
