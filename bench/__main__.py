"""`python -m bench [NAME …]`: runs benchmark scenarios, prints a table and writes results/latest.json."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from .graphs import make_repository
from .scenarios import SCENARIOS

if TYPE_CHECKING:
    from .result import Result

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Run benchmark scenarios; each reports ratios measured in one run.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"scenarios to run (all if not given): {', '.join(SCENARIOS)}",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of interleaved rounds; medians are reported"
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in SCENARIOS:
            parser.error(f"unknown scenario {name!r}; available: {', '.join(SCENARIOS)}")
    results = run(arguments.names or list(SCENARIOS), arguments.rounds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.json").write_text(json.dumps([one.to_dict() for one in results], indent=1) + "\n")
    show(results)


def run(names: list[str], rounds: int) -> list[Result]:
    """The results of the named scenarios, on a temporary model repository."""
    console = Console(stderr=True)
    results: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        models = make_repository(Path(folder) / "models")
        for name in names:
            with console.status(f"measuring {name}"):
                try:
                    results.extend(SCENARIOS[name](models, rounds))
                except RuntimeError as error:  # continue with the other scenarios
                    console.print(f"{name}: {error}")
    return results


def show(results: list[Result]) -> None:
    table = Table("benchmark", "value", "baseline", "ratio", "target", "met")
    for one in results:
        bound = f"{'≤' if one.at_most else '≥'} {one.target}" if one.target is not None else ""
        row = (f"{one.value:,.1f} {one.unit}", f"{one.baseline:,.1f}", _ratio(one), bound)
        table.add_row(one.name, *row, {True: "yes", False: "NO", None: ""}[one.holds])
    Console(width=120).print(table)


def _ratio(one: Result) -> str:
    if one.interval is None:
        return f"{one.ratio:.2f}"
    low, high = one.interval
    return f"{one.ratio:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
