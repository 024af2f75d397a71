"""One run for all tests here: a server under load, scraped by Prometheus with the shipped configuration."""

from __future__ import annotations

import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE_S, limit_s, wait_until

from deploy.rehearsal import processes, traffic
from lockstep_client.server_process import START_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.rehearsal.prometheus import Prometheus

_MIN_LOAD_S = 8.0
"""Long enough for every kind of request, and for a rate over four scrapes."""

_PAUSE_S = 0.5
"""Between the requests of a sender: every kind is needed, and the other tests need the cores."""


@dataclass(frozen=True)
class Run:
    """A server under load, as seen by Prometheus."""

    prometheus: Prometheus
    metrics: str  # the text of /metrics
    since: float

    @property
    def seconds(self) -> float:
        return time.time() - self.since


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    if not processes.has_prometheus():
        pytest.skip("prometheus not found on the PATH (apt install prometheus)")
    folder, patience_s = tmp_path_factory.mktemp("prometheus"), limit_s(START_TIMEOUT_S)
    with processes.rehearsal(folder, traffic.MODELS, patience_s) as running:
        since = time.time()
        with processes.load(running.address, _PAUSE_S):
            _wait_for_rules(running.prometheus, since)
            metrics = (
                urllib.request.urlopen(f"http://{running.metrics}/metrics", timeout=PATIENCE_S)
                .read()
                .decode()
            )
            yield Run(running.prometheus, metrics, since)


def _wait_for_rules(prometheus: Prometheus, since: float) -> None:
    """Wait until every recording rule has a value under load."""

    def empty() -> list[str]:
        recording = [rule["name"] for rule in prometheus.rules() if rule["type"] == "recording"]
        return [name for name in recording if not prometheus.now(name)]

    wait_until(lambda: time.time() > since + _MIN_LOAD_S and not empty(), "a value of each recording rule")
