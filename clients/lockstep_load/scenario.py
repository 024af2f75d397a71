"""Scenario files: TOML descriptions of one or more runs.

    about = "what it measures"
    [defaults]                  # for every run
    model = "sentiment-lstm"
    [[run]]
    scenario = "single-stream"  # or multi-stream, server, offline, closed, open, sweep, soak
    seconds = 5

Text → `parse` → `Scenario` with `ScenarioEntry`s. Errors name the file, run, key and remedy. The first four
scenarios are MLPerf's: one query after another (p90 latency), the same with 8 samples per query (p99),
Poisson arrivals (highest rate that meets a latency bound), all samples available at the start (throughput).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from lockstep_load.plan import Offline, Target
from lockstep_load.scenario_entry import ScenarioEntry, scenario_entry


@dataclass(frozen=True)
class Scenario:
    """A scenario file."""

    name: str
    about: str
    entries: tuple[ScenarioEntry, ...]

    @property
    def seconds(self) -> float:
        """Estimated duration. The number of probes of a search varies; 12 are assumed."""
        return sum(
            one.load.seconds * (len(one.rates) or (12 if one.search else 1)) + one.load.warmup_s
            for one in self.entries
            if not isinstance(one.load.pattern, Offline)
        )


def bundled() -> dict[str, str]:
    """The bundled files: name → text."""
    folder = files("lockstep_load").joinpath("scenarios")
    return {
        one.name.removesuffix(".toml"): one.read_text("utf-8")
        for one in sorted(folder.iterdir(), key=lambda one: one.name)
        if one.name.endswith(".toml")
    }


def read(given: str, server: Target, seconds: float | None = None) -> Scenario:
    """Read a bundled scenario or a file; `seconds` overrides the file. Raises ValueError if it is invalid."""
    shipped = bundled()
    if given in shipped:
        return parse(given, shipped[given], server, seconds)
    if not Path(given).is_file():
        raise ValueError(f"unknown scenario {given!r}: no such file; available: {', '.join(shipped)}")
    try:
        return parse(given, Path(given).read_text("utf-8"), server, seconds)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read scenario {given}: {error}") from None


def parse(name: str, text: str, server: Target, seconds: float | None = None) -> Scenario:
    """Parse the text of a scenario file. Raises ValueError if it is invalid."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"scenario {name}: not TOML: {error}") from None
    if unknown := set(table) - {"about", "defaults", "run"}:
        raise ValueError(
            f"scenario {name}: unknown key {sorted(unknown)[0]!r}: use about, defaults and [[run]]"
        )
    runs = table.get("run")
    if not isinstance(runs, list) or not runs:
        raise ValueError(f"scenario {name}: needs at least one [[run]]")
    entries = []
    for number, one in enumerate(runs, start=1):
        merged = {**table.get("defaults", {}), **one, **({"seconds": seconds} if seconds else {})}
        entries.append(scenario_entry(f"scenario {name}, run {number}", merged, set(one), server))
    return Scenario(name, str(table.get("about", "")), tuple(entries))
