"""One run of everything, for all tests here: a server under load, read by a Prometheus as it is shipped."""

from __future__ import annotations

import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from deploy.rehearsal import stage, traffic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.rehearsal.prometheus import Prometheus

_LEAST_S = 15.0
"""Long enough for every kind of call, and for a rate over four scrapes."""

_LONGEST_S = 75.0


@dataclass(frozen=True)
class Run:
    """A load that has run, and who saw it."""

    prometheus: Prometheus
    page: str  # of the server's /metrics
    since: float

    @property
    def seconds(self) -> float:
        return time.time() - self.since


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    if not stage.has_prometheus():
        pytest.skip("there is no prometheus on the PATH: apt install prometheus")
    with stage.rehearsal(tmp_path_factory.mktemp("prometheus"), traffic.MODELS) as staged:
        since = time.time()
        with stage.load(staged.address):
            _wait(staged.prometheus, since)
            page = urllib.request.urlopen(f"http://{staged.metrics}/metrics", timeout=30).read().decode()
            yield Run(staged.prometheus, page, since)


def _wait(prometheus: Prometheus, since: float) -> None:
    """Until every recording rule has been evaluated under load: they are, every 15 seconds."""
    while time.time() < since + _LONGEST_S:
        recorded = [rule for rule in prometheus.rules() if rule["type"] == "recording"]
        if time.time() > since + _LEAST_S and all(prometheus.now(rule["name"]) for rule in recorded):
            return
        time.sleep(0.5)
    empty = [rule["name"] for rule in recorded if not prometheus.now(rule["name"])]
    raise AssertionError(f"after {_LONGEST_S:.0f} s of load these rules had recorded nothing: {empty}")
