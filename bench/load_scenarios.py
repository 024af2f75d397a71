"""Runs the bundled scenarios of `lockstep load` and reports the ratio of two of their runs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from . import processes
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Metric = Callable[[dict[str, Any]], float]

_COMMAND = "from lockstep_client.cli import main; main()"


def scenario_ratio(
    name: str, what: str, unit: str, served: tuple[str, Metric], against: tuple[str, Metric]
) -> Callable[[Path, int], Iterator[Result]]:
    """The ratio of a metric of one run to a metric of another; both are named as in the scenario file."""

    def run(models: Path, rounds: int) -> Iterator[Result]:
        values, baselines = [], []
        for _ in range(rounds):
            runs = _runs(models, name)
            values.append(_metric(runs, *served))
            baselines.append(_metric(runs, *against))
        yield Result(what, statistics.median(values), unit, statistics.median(baselines), None)

    return run


def _runs(models: Path, name: str) -> dict[str, dict[str, Any]]:
    """Run a scenario on a new server. Returns its runs by name."""
    with processes.server(models) as address, TemporaryDirectory() as folder:
        file = Path(folder) / "scenario.json"
        arguments = ["load", "scenario", name, "--address", address, "--json", str(file), "--quiet"]
        subprocess.run([sys.executable, "-c", _COMMAND, *arguments], check=False, stdout=subprocess.DEVNULL)
        return {one["name"]: one for one in json.loads(file.read_text())["runs"]}


def _metric(runs: dict[str, dict[str, Any]], name: str, metric: Metric) -> float:
    """A metric of the named run. Raises RuntimeError if the run is invalid."""
    one = runs[name]
    if not one.get("valid", True):
        raise RuntimeError(f"{name} is invalid: {one['reasons'][0]}")
    return metric(one)


def _search_rate(run: dict[str, Any]) -> float:
    """The rate that a search found. Raises RuntimeError if it found none."""
    rate = run["search"]["rate"]
    if rate is None:
        raise RuntimeError(f"{run['name']}: no rate meets the bound")
    return float(rate)


def _result(run: dict[str, Any]) -> float:
    return float(run["result"]["value"])


def _tokens(run: dict[str, Any]) -> float:
    return float(run["rates"]["tokens"])


SCENARIOS: dict[str, Callable[[Path, int], Iterator[Result]]] = {
    "load-sentiment": scenario_ratio(
        "sentiment",
        "sentiment-lstm, Poisson arrivals with a p99 of 50 ms, against offline",
        "/s",
        ("server, p99 of 50 ms", _search_rate),
        ("offline", _result),
    ),
    "load-follow": scenario_ratio(
        "follow",
        "16 Follow streams against one call per step",
        "elements/s",
        ("Follow", _tokens),
        ("ModelInfer, one call per step", _tokens),
    ),
    "load-generate": scenario_ratio(
        "generate",
        "shakespeare-char-lstm, 64 streams against 1",
        "tokens/s",
        ("64 streams", _tokens),
        ("1 stream", _tokens),
    ),
}
