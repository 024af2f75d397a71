"""What the measurements say, as Markdown: medians, ratios with their spread, and the bars."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from .catalogue import LOCKSTEP, REFERENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Round = Mapping[str, float]

OWN_LOAD, PERF_ANALYZER = "own load", "perf_analyzer"
LOADED = (16, 64)
"""Calls in flight at which throughput and p99 are compared with every peer's."""

RATE_BAR, TAIL_BAR, ALONE_BAR, FEW_BAR = 1.3, 1.0, 1.2, 1.0
"""Against the 60 lines: the least rate, the largest p99, the largest median of a lone caller, and the least
rate of four."""


@dataclass(frozen=True, order=True)
class Cell:
    """What was measured: a model (or the mix) with so many calls in flight by one of two loads, quiet or
    beside a busy process."""

    busy: bool
    load: str
    model: str
    inflight: int


_ROUND_FROM = 100
"""From here on, numbers have no decimals."""

Measured = dict[Cell, dict[str, list[dict[str, float]]]]
"""Rounds of each server for each cell; the servers' n-th rounds followed each other."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians over the rounds, and the least and the largest ratio of one round."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Bar:
    """What must hold of a ratio in a cell. `against`: the server that it is compared with."""

    cell: Cell
    title: str
    against: str
    ratio: Ratio
    target: float
    at_most: bool

    @property
    def holds(self) -> bool:
        return self.ratio.value <= self.target if self.at_most else self.ratio.value >= self.target


def ratio(ours: Sequence[Round], theirs: Sequence[Round], name: str) -> Ratio:
    """The ratio of what the rounds of two servers measured under `name`."""
    a, b = [one[name] for one in ours], [one[name] for one in theirs]
    of_rounds = [x / y for x, y in zip(a, b, strict=True)]
    return Ratio(median(a) / median(b), min(of_rounds), max(of_rounds))


def bars(measured: Measured) -> Iterator[Bar]:
    """Every bar of every cell, against the best peer and against the 60 lines."""
    for cell, servers in measured.items():
        if LOCKSTEP not in servers:
            continue
        ours = servers[LOCKSTEP]
        peers = {name: rounds for name, rounds in servers.items() if name != LOCKSTEP}
        if cell.inflight in LOADED and peers:
            fastest = max(peers, key=lambda name: _median(peers[name], "rate"))
            least = min(peers, key=lambda name: _median(peers[name], "p99_ms"))
            yield Bar(
                cell, "rate, to the best peer's", fastest, ratio(ours, peers[fastest], "rate"), 1.0, False
            )
            yield Bar(cell, "p99, to the least peer's", least, ratio(ours, peers[least], "p99_ms"), 1.0, True)
        if REFERENCE not in peers:
            continue
        theirs = peers[REFERENCE]
        if cell.inflight in LOADED:
            yield Bar(cell, "rate, to the 60 lines'", REFERENCE, ratio(ours, theirs, "rate"), RATE_BAR, False)
            yield Bar(cell, "p99, to the 60 lines'", REFERENCE, ratio(ours, theirs, "p99_ms"), TAIL_BAR, True)
        elif cell.inflight == 1:
            found = ratio(ours, theirs, "p50_ms")
            yield Bar(cell, "median, to the 60 lines'", REFERENCE, found, ALONE_BAR, True)
        elif cell.inflight == 4:
            yield Bar(cell, "rate, to the 60 lines'", REFERENCE, ratio(ours, theirs, "rate"), FEW_BAR, False)


def _median(rounds: Sequence[Round], name: str) -> float:
    return median(one[name] for one in rounds)


def cells(document: Mapping[str, Any]) -> Measured:
    """The measurements of a results file."""
    found: Measured = defaultdict(dict)
    for one in document["measured"]:
        found[Cell(one["busy"], one["load"], one["model"], one["inflight"])][one["server"]] = one["rounds"]
    return dict(found)


def markdown(document: Mapping[str, Any]) -> str:
    """The page: machine and settings, bars, and a table for each model."""
    measured = cells(document)
    parts = [_machine(document), _settings(document), _bars(list(bars(measured)))]
    for busy, load in sorted({(cell.busy, cell.load) for cell in measured}):
        where = (
            "Beside a process that keeps one core busy" if busy else "With no process that keeps a core busy"
        )
        parts.append(f"## {where}, {load}")
        group = {cell: found for cell, found in measured.items() if (cell.busy, cell.load) == (busy, load)}
        models = dict.fromkeys(cell.model for cell in group)
        parts.extend(f"### {model}\n\n{_model_table(group, model)}" for model in models)
    return "\n\n".join(parts) + "\n"


def _machine(document: Mapping[str, Any]) -> str:
    lines = [f"- {name}: {value}" for name, value in document["run"].items()]
    return "\n".join(["## Machine and run", "", *lines])


def _settings(document: Mapping[str, Any]) -> str:
    rows = []
    for name, one in document["servers"].items():
        shown = ", ".join(f"{package} {version}" for package, version in one["versions"].items())
        rows.append((name, one["settings"], shown, f"{one['memory_mb']:,.0f}"))
    table = _table(("server", "settings", "versions", "memory, MB"), rows, numbers=1)
    missing = [f"- {name} could not be measured: {why}" for name, why in document["missing"].items()]
    return "\n".join(["## Servers", "", table, *([""] if missing else []), *missing])


def _bars(found: Sequence[Bar]) -> str:
    rows = [
        (
            "one core" if bar.cell.busy else "none", bar.cell.load, bar.cell.model, str(bar.cell.inflight),
            bar.title if bar.against == REFERENCE and "60" in bar.title else f"{bar.title} ({bar.against})",
            str(bar.ratio), f"{'≤' if bar.at_most else '≥'} {bar.target:g}",
            "held" if bar.holds else "**missed**",
        )
        for bar in found
    ]  # fmt: skip
    held = sum(bar.holds for bar in found)
    head = (
        "busy process",
        "load",
        "model",
        "in flight",
        "Lockstep's",
        "ratio (least to largest of a round)",
        "bar",
        "",
    )
    return f"## Bars\n\n{held} of {len(found)} hold.\n\n" + _table(head, rows)


def _model_table(measured: Measured, model: str) -> str:
    rows = []
    for cell, servers in measured.items():
        if cell.model != model:
            continue
        best: dict[str, Callable[..., str]] = {"rate": max, "p50_ms": min, "p99_ms": min}
        bests = {name: pick(servers, key=_by(servers, name)) for name, pick in best.items()}
        for server, rounds in servers.items():
            shown = {name: _median(rounds, name) for name in rounds[0]}
            failed = sum(one["failed"] for one in rounds)

            def mark(name: str, text: str, server: str = server, bests: dict[str, str] = bests) -> str:
                return f"**{text}**" if bests[name] == server else text

            rows.append(
                (
                    str(cell.inflight), server + (f" ({failed:.0f} calls failed)" if failed else ""),
                    mark("rate", f"{shown['rate']:,.0f}"), _spread(rounds, "rate"),
                    mark("p50_ms", _number(shown["p50_ms"])),
                    mark("p99_ms", _number(shown["p99_ms"])), _spread(rounds, "p99_ms"),
                    f"{shown['server_us']:,.0f}", f"{shown['load_us']:,.0f}",
                )
            )  # fmt: skip
    head = (
        "in flight", "server", "requests/s", "spread", "p50, ms", "p99, ms", "spread",
        "CPU of the server, µs a request", "of the load, µs",
    )  # fmt: skip
    return _table(head, rows, numbers=7)


def _by(servers: Mapping[str, Sequence[Round]], name: str) -> Callable[[str], float]:
    return lambda server: _median(servers[server], name)


def _spread(rounds: Sequence[Round], name: str) -> str:
    values = [one[name] for one in rounds]
    return f"{_number(min(values))} to {_number(max(values))}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= _ROUND_FROM else f"{value:.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """A Markdown table; the last `numbers` columns are aligned right."""
    ruler = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ruler, *rows))
