"""The bundled scenarios of `lockstep load`, played by the command itself, as ratios of two of their runs."""

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

    Number = Callable[[dict[str, Any]], float]

_COMMAND = "from lockstep_client.cli import main; main()"


def played(
    name: str, what: str, unit: str, served: tuple[str, Number], against: tuple[str, Number]
) -> Callable[[Path, int], Iterator[Result]]:
    """A number of one run of a scenario against one of another run, both by their names in its file."""

    def run(models: Path, rounds: int) -> Iterator[Result]:
        values, baselines = [], []
        for _ in range(rounds):
            runs = _runs(models, name)
            values.append(_number(runs, *served))
            baselines.append(_number(runs, *against))
        yield Result(what, statistics.median(values), unit, statistics.median(baselines), None)

    return run


def _runs(models: Path, name: str) -> dict[str, dict[str, Any]]:
    """The scenario on a server of its own; its runs by their names."""
    with processes.server(models) as address, TemporaryDirectory() as folder:
        file = Path(folder) / "made.json"
        asked = ["load", "scenario", name, "--address", address, "--json", str(file), "--quiet"]
        subprocess.run([sys.executable, "-c", _COMMAND, *asked], check=False, stdout=subprocess.DEVNULL)
        return {one["name"]: one for one in json.loads(file.read_text())["runs"]}


def _number(runs: dict[str, dict[str, Any]], name: str, number: Number) -> float:
    """Of the run of this name; RuntimeError where it is invalid."""
    one = runs[name]
    if not one.get("valid", True):
        raise RuntimeError(f"{name} is invalid: {one['reasons'][0]}")
    return number(one)


def _most(run: dict[str, Any]) -> float:
    """What a search found."""
    rate = run["search"]["rate"]
    if rate is None:
        raise RuntimeError(f"{run['name']}: no rate was found that keeps the bound")
    return float(rate)


def _result(run: dict[str, Any]) -> float:
    return float(run["result"]["value"])


def _tokens(run: dict[str, Any]) -> float:
    return float(run["rates"]["tokens"])


SCENARIOS: dict[str, Callable[[Path, int], Iterator[Result]]] = {
    "load-sentiment": played(
        "sentiment",
        "sentiment-lstm, Poisson arrivals with a p99 of 50 ms, against offline",
        "/s",
        ("the most in 50 ms", _most),
        ("all at once", _result),
    ),
    "load-follow": played(
        "follow",
        "16 Follow streams against a call a step",
        "elements/s",
        ("Follow", _tokens),
        ("ModelInfer, a call a step", _tokens),
    ),
    "load-generate": played(
        "generate",
        "shakespeare-char-lstm, 64 callers against one",
        "tokens/s",
        ("64 streams", _tokens),
        ("1 stream", _tokens),
    ),
}
