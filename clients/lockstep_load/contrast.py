"""One command for the project's question: which way of reading a text wins where.

The same recurrent weights step by step (Follow) and in one fused run (Classify), and a Transformer in one
run, through lengths and rates: a lone caller, as many as the server can use, and an open loop. A lone caller
also follows one element at a time, each answered before the next is sent: that is what one more element
takes. Runs of the three take turns, so that what slows the machine for a while slows all. Documents →
`Point`s → `finding`, which is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, get_args

from lockstep_load.documents import FORMAT, Document
from lockstep_load.lengths import parse
from lockstep_load.plan import CallKind, ClosedLoop, LoadProfile, OpenLoop, Target, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lockstep_load.plan import LoadPattern

ContrastMode = Literal["lone", "next", "full", "rate"]
"""`next` is a lone caller who has each element answered before it sends the next: of streams only."""

CONTRAST_MODES: tuple[ContrastMode, ...] = get_args(ContrastMode)
STEPWISE, FUSED, ONE_SHOT = "step-wise RNN", "fused RNN", "one-shot Transformer"
TIE_RATIO = 1.05
"""Up to this ratio two numbers are told as equal."""

LATE_MS = 50.0
"""A p99 above it is told as too late."""


@dataclass(frozen=True)
class ReadingMode:
    """One way to have a text read."""

    name: str
    model: str
    kind: CallKind


@dataclass(frozen=True)
class Contrast:
    """What is run: every way at every length, alone and at full load, and at one length at every rate."""

    ways: tuple[ReadingMode, ...]
    lengths: tuple[int, ...]
    rates: tuple[float, ...]
    rate_length: int
    concurrency: int
    ids: tuple[int, int] | None
    rounds: int = 1
    """All of it so often; the medians count."""

    def run(
        self, run: Callable[[str, Target, Workload, LoadProfile], Document], target: Target, load: LoadProfile
    ) -> Document:
        """All of it. A run that is interrupted is the last one."""
        runs: list[Document] = []
        for mode, pattern, length in list(self._plan()) * self.rounds:
            for way in self.ways:
                if mode == "next" and way.kind != "follow":
                    continue
                made = run(
                    f"{way.name}, {length} elements, {_load_name(mode, pattern)}",
                    replace(target, model=way.model),
                    replace(self.workload(way, length), one_by_one=mode == "next"),
                    replace(load, pattern=pattern),
                )
                runs.append({**made, "way": way.name, "mode": mode, "length": length})
                if made["partial"]:
                    return self._document(runs)
        return self._document(runs)

    def _plan(self) -> Iterator[tuple[ContrastMode, LoadPattern, int]]:
        for length in self.lengths:
            yield "lone", ClosedLoop(1), length
            if length > 1 and self.ids:
                yield "next", ClosedLoop(1), length
            yield "full", ClosedLoop(self.concurrency), length
        for rate in self.rates:
            yield "rate", OpenLoop(rate), self.rate_length

    def workload(self, way: ReadingMode, length: int) -> Workload:
        """What a way is asked: so many elements."""
        lengths = parse(str(length))
        assert lengths is not None
        return Workload(way.kind, lengths, self.ids)

    def _document(self, runs: list[Document]) -> Document:
        return {
            "format": FORMAT,
            "kind": "contrast",
            "started_at": runs[0]["started_at"],
            "target": runs[0]["target"],
            "partial": any(one["partial"] for one in runs),
            "ways": [vars(way) for way in self.ways],
            "concurrency": self.concurrency,
            "rate_length": self.rate_length,
            "rounds": self.rounds,
            "finding": findings(points(runs), self.concurrency),
            "runs": runs,
        }


def _load_name(mode: ContrastMode, pattern: LoadPattern) -> str:
    if mode == "next":
        return "one by one"
    return f"{pattern.rate:g}/s" if isinstance(pattern, OpenLoop) else f"{pattern.concurrency} at a time"


@dataclass(frozen=True)
class ContrastPoint:
    """A way at one length and load, in the numbers that are contrasted."""

    way: str
    mode: ContrastMode
    length: int
    rate: float
    """Asked; 0 in a closed loop."""
    first_ms: float
    """Median to the first prediction; of a way that gives one, to that one."""
    last_ms: float
    """Median to the answer for the whole text."""
    next_ms: float
    """Median to have a prediction after one more element: a round trip for it, or the whole text once more.
    Infinite where that was not asked: of a stream it takes a lone caller, one by one."""
    p99_ms: float
    sequences: float
    """Answered a second."""
    lost: int
    """Requests that were not answered."""


def point(run: Document) -> ContrastPoint:
    """Of one run; infinite times where nothing was answered."""
    latency: dict[str, Any] = run["latency_ms"] or {}
    never = float("inf")
    return ContrastPoint(
        run["way"],
        run["mode"],
        run["length"],
        run["load"].get("rate", 0.0),
        (run["first_token_ms"] or latency).get("p50", never),
        latency.get("p50", never),
        _next_element_times(run).get("p50", never),
        latency.get("p99", never),
        run["rates"]["ok"],
        sum(run["outcomes"].values()) - run["outcomes"]["ok"],
    )


def _next_element_times(run: Document) -> dict[str, Any]:
    """Times to a prediction after one more element; empty where the run does not tell."""
    if not run["first_token_ms"]:
        return run["latency_ms"] or {}
    return (run["gap_ms"] or {}) if run["mode"] == "next" else {}


def points(runs: Sequence[Document]) -> list[ContrastPoint]:
    """The medians of the rounds, by what was asked. What an invalid run says is left out.

    What was asked one by one is told as the `next_ms` of the lone caller.
    """
    rounds: dict[tuple[str, ContrastMode, int, float], list[ContrastPoint]] = {}
    for one in (point(run) for run in runs if run["valid"]):
        rounds.setdefault((one.way, one.mode, one.length, one.rate), []).append(one)
    ways = list(dict.fromkeys(run["way"] for run in runs))
    made = [
        ContrastPoint(
            *asked,
            first_ms=median(one.first_ms for one in some),
            last_ms=median(one.last_ms for one in some),
            next_ms=median(one.next_ms for one in some),
            p99_ms=median(one.p99_ms for one in some),
            sequences=median(one.sequences for one in some),
            lost=math.ceil(median(one.lost for one in some)),
        )
        for asked, some in rounds.items()
    ]
    return sorted(
        _with_next_times(made),
        key=lambda one: (CONTRAST_MODES.index(one.mode), one.rate, one.length, ways.index(one.way)),
    )


def _with_next_times(made: Sequence[ContrastPoint]) -> Iterator[ContrastPoint]:
    """The lone callers with what they met one by one, and all others."""
    next_times = {(one.way, one.length): one.next_ms for one in made if one.mode == "next"}
    for one in made:
        if one.mode == "lone":
            yield replace(one, next_ms=next_times.get((one.way, one.length), one.next_ms))
        elif one.mode != "next":
            yield one


def is_complete(runs: Sequence[Document]) -> bool:
    """Whether at least one round of everything that was asked is valid."""
    asked = [(run["way"], run["mode"], run["length"], run["load"].get("rate", 0.0)) for run in runs]
    return set(asked) == {one for one, run in zip(asked, runs, strict=True) if run["valid"]}


def findings(points: Sequence[ContrastPoint], concurrency: int) -> list[str]:
    """What the numbers show, in sentences; only what was measured is told."""
    lone = [one for one in points if one.mode == "lone"]
    full = [one for one in points if one.mode == "full"]
    unmeasured = {one.length for one in lone if math.isinf(one.next_ms)}
    return [
        *_by_length(
            "A lone caller has the answer for the whole text first", lone, "last_ms", "ms", least=True
        ),
        *_by_length("It has a first prediction first", lone, "first_ms", "ms", least=True),
        *_by_length(
            "It has a prediction after one more element first (that one sent and answered, or the whole text"
            " once more)",
            [one for one in lone if one.length not in unmeasured],
            "next_ms",
            "ms",
            least=True,
        ),
        *_by_length(f"With {concurrency} callers most texts a second", full, "sequences", "/s", least=False),
        *_rates([one for one in points if one.mode == "rate"]),
    ]


def _by_length(
    claim: str, points: Sequence[ContrastPoint], metric: str, unit: str, *, least: bool
) -> Iterator[str]:
    """Who wins at each length; neighbouring lengths with one winner are told as one."""
    told: list[tuple[str, list[int], str]] = []
    for length in sorted({one.length for one in points}):
        here = [one for one in points if one.length == length]
        winner, values = _winner(here, metric, least=least), _values(here, metric, unit)
        if told and told[-1][0] == winner:
            told[-1] = (winner, [*told[-1][1], length], values)
        else:
            told.append((winner, [length], values))
    if told:
        parts = [
            f"{_span(lengths)}: {winner} (at {lengths[-1]:,}: {values})" for winner, lengths, values in told
        ]
        yield f"{claim}, by elements: {'; '.join(parts)}."


def _winner(points: Sequence[ContrastPoint], metric: str, *, least: bool) -> str:
    ordered = sorted(points, key=lambda one: float(getattr(one, metric)), reverse=not least)
    best = float(getattr(ordered[0], metric))
    near = [
        one.way
        for one in ordered
        if (a := float(getattr(one, metric))) == best or max(a, best) <= TIE_RATIO * min(a, best)
    ]
    return near[0] if len(near) == 1 else " and ".join(sorted(near)) + " alike"


def _values(points: Sequence[ContrastPoint], metric: str, unit: str) -> str:
    return ", ".join(
        f"{one.way} {_format_number(getattr(one, metric))} {unit}".replace(" /s", "/s") for one in points
    )


def _rates(points: Sequence[ContrastPoint]) -> Iterator[str]:
    """The highest rate up to which every one that was tried was kept."""
    kept: dict[str, float] = {}
    late: set[str] = set()
    for one in sorted(points, key=lambda one: one.rate):
        if one.p99_ms > LATE_MS or one.lost:
            late.add(one.way)
        kept[one.way] = kept.get(one.way, 0.0) if one.way in late else one.rate
    if not kept:
        return
    most = max(one.rate for one in points)
    told = ", ".join(
        f"{way} {'none' if not rate else f'{rate:g}/s'}{' (the most tried)' if rate == most else ''}"
        for way, rate in kept.items()
    )
    length = points[0].length
    yield f"Of the rates tried at {length:,} elements, the highest with a p99 within {LATE_MS:g} ms: {told}."


def _span(lengths: Sequence[int]) -> str:
    return f"{lengths[0]:,}" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,}"


def _format_number(value: float) -> str:
    return "never" if value == float("inf") else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
