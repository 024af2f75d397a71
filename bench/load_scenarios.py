"""Runs the bundled scenarios of `lockstep load` and reports the ratio of two of their runs.

The command writes a JSON document → typed results → one metric of each of two runs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lockstep_load import documents
from lockstep_load.results import RunDocument, ScenarioDocument, SearchDocument, SweepDocument

from . import processes
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Entry = RunDocument | SearchDocument | SweepDocument
    Metric = Callable[[Entry], float]

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


def _runs(models: Path, name: str) -> dict[str, Entry]:
    """Run a scenario on a new server. Returns its runs by name."""
    with processes.server(models) as address, TemporaryDirectory() as folder:
        file = Path(folder) / "scenario.json"
        arguments = ["load", "scenario", name, "--address", address, "--json", str(file), "--quiet"]
        subprocess.run([sys.executable, "-c", _COMMAND, *arguments], check=False, stdout=subprocess.DEVNULL)
        document = documents.read(file)
        assert isinstance(document, ScenarioDocument)
        return {one.name: one for one in document.runs}


def _metric(runs: dict[str, Entry], name: str, metric: Metric) -> float:
    """A metric of the named run. Raises RuntimeError if the run is invalid."""
    one = runs[name]
    if isinstance(one, RunDocument) and not one.valid:
        raise RuntimeError(f"{name} is invalid: {one.reasons[0]}")
    return metric(one)


def _search_rate(entry: Entry) -> float:
    """The rate that a search found. Raises RuntimeError if it found none."""
    assert isinstance(entry, SearchDocument)
    if entry.search.rate is None:
        raise RuntimeError(f"{entry.name}: no rate meets the bound")
    return entry.search.rate


def _result(entry: Entry) -> float:
    assert isinstance(entry, RunDocument)
    assert entry.result
    return entry.result.value


def _tokens(entry: Entry) -> float:
    assert isinstance(entry, RunDocument)
    return entry.rates.tokens


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
