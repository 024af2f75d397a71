"""Scenario files: what to run, written down in TOML.

    about = "what it is for"
    [defaults]                  # of every run
    model = "sentiment-lstm"
    [[run]]
    scenario = "single-stream"  # or multi-stream, server, offline, closed, open, sweep, soak
    seconds = 5

text → `parsed` → `Scenario` of `Entry`s, checked: an error names file, run, key and remedy. The first four
are MLPerf's: one query after another (p90 of the latency), the same with 8 samples a query (p99), Poisson
arrivals (the highest rate that keeps a bound at a percentile), all samples known at the start (throughput).
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
        """What is measured, roughly: searches take as many probes as they need."""
        return sum(
            one.load.seconds * (len(one.rates) or (12 if one.search else 1)) + one.load.warmup_s
            for one in self.entries
            if not isinstance(one.load.pattern, Offline)
        )


def bundled() -> dict[str, str]:
    """The files that ship, by name, as text."""
    folder = files("lockstep_load").joinpath("scenarios")
    return {
        one.name.removesuffix(".toml"): one.read_text("utf-8")
        for one in sorted(folder.iterdir(), key=lambda one: one.name)
        if one.name.endswith(".toml")
    }


def read(given: str, server: Target, seconds: float | None = None) -> Scenario:
    """A bundled scenario, or a file. ValueError says what is wrong; `seconds` overrides the file's."""
    shipped = bundled()
    if given in shipped:
        return parse(given, shipped[given], server, seconds)
    if not Path(given).is_file():
        raise ValueError(f"scenario {given!r} is neither a file nor one of {', '.join(shipped)}")
    try:
        return parse(given, Path(given).read_text("utf-8"), server, seconds)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"scenario {given}: cannot be read: {error}") from None


def parse(name: str, text: str, server: Target, seconds: float | None = None) -> Scenario:
    """What a file says."""
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
        raise ValueError(f"scenario {name}: it has no [[run]]")
    entries = []
    for number, one in enumerate(runs, start=1):
        merged = {**table.get("defaults", {}), **one, **({"seconds": seconds} if seconds else {})}
        entries.append(scenario_entry(f"scenario {name}, run {number}", merged, set(one), server))
    return Scenario(name, str(table.get("about", "")), tuple(entries))
