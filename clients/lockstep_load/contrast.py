"""Measures which way of reading a text is fastest at which length and rate, and what writing costs as the
context grows.

Three of the ways of `lockstep race` are compared (lockstep_client/reading.py): recurrent weights step by step
(Follow), the same weights in one fused run (Classify), and a Transformer in one run. Each is measured with
one caller, with many callers, and in an open loop. One caller also sends single elements, each after the
reply to the one before: this measures the cost of one more element. The three take turns, so that a temporary
slowdown of the machine affects all of them.

Two generative models write after contexts of several lengths: one with a state of constant size, one with
caches. They are measured with one caller and with many.

Run documents → `ContrastPoint`s → `findings`, sentences computed from the numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, get_args

from msgspec import structs

from lockstep_client import reading
from lockstep_client.writing import TOKENS
from lockstep_load.lengths import parse
from lockstep_load.plan import ClosedLoop, LoadProfile, OpenLoop, Target, Workload
from lockstep_load.results import FORMAT, ContrastDocument, ContrastMode, ReadingMode, RunDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lockstep_load.plan import LoadPattern
    from lockstep_load.results import LatencySummary

CONTRAST_MODES: tuple[ContrastMode, ...] = get_args(ContrastMode)
STEPWISE, FUSED = f"{reading.STEPWISE} RNN", f"{reading.FUSED} RNN"
ONE_SHOT = f"{reading.ONE_SHOT} Transformer"
TIE_RATIO = 1.05
"""Numbers up to this ratio apart are reported as equal."""

CONTEXT = "tokens of context"

LATE_MS = 50.0
"""A rate whose p99 is higher is reported as not sustained."""


@dataclass(frozen=True)
class Contrast:
    """The runs: every way at every length with one caller and at full load, and one length at every rate."""

    ways: tuple[ReadingMode, ...]
    lengths: tuple[int, ...]
    rates: tuple[float, ...]
    rate_length: int
    concurrency: int
    ids: tuple[int, int] | None
    rounds: int = 1
    """Repetitions of all runs; medians are reported."""
    writers: tuple[ReadingMode, ...] = ()
    contexts: tuple[int, ...] = ()
    """Ids that a writer reads before it writes `writing.TOKENS` tokens."""
    context_ids: tuple[int, int] | None = None

    def run(
        self,
        run: Callable[[str, Target, Workload, LoadProfile], RunDocument],
        target: Target,
        load: LoadProfile,
    ) -> ContrastDocument:
        """Make all runs, stopping after an interrupted one."""
        runs: list[RunDocument] = []
        for order in reading.turns(list(self._plan()), self.rounds):
            for mode, pattern, length, way in order:
                made = run(
                    f"{way.name}, {length} elements, {_load_name(mode, pattern)}",
                    replace(target, model=way.model),
                    replace(self.workload(way, length), one_by_one=mode == "next"),
                    replace(load, pattern=pattern),
                )
                runs.append(structs.replace(made, way=way.name, mode=mode, length=length))
                if made.partial:
                    return self._document(runs)
        return self._document(runs)

    def _plan(self) -> Iterator[tuple[ContrastMode, LoadPattern, int, ReadingMode]]:
        for mode, pattern, length in self._loads():
            for way in self.ways:
                if mode != "next" or way.kind == "follow":
                    yield mode, pattern, length, way
        for context in self.contexts if self.writers else ():
            for way in self.writers:
                yield "lone", ClosedLoop(1), context, way
            for way in self.writers:
                yield "full", ClosedLoop(self.concurrency), context, way

    def _loads(self) -> Iterator[tuple[ContrastMode, LoadPattern, int]]:
        for length in self.lengths:
            yield "lone", ClosedLoop(1), length
            if length > 1 and self.ids:
                yield "next", ClosedLoop(1), length
            yield "full", ClosedLoop(self.concurrency), length
        for rate in self.rates:
            yield "rate", OpenLoop(rate), self.rate_length

    def workload(self, way: ReadingMode, length: int) -> Workload:
        """Requests of `length` elements for one way."""
        lengths = parse(str(length))
        assert lengths is not None
        if way.kind == "generate":
            return Workload(way.kind, lengths, self.context_ids, tokens=parse(str(TOKENS)))
        return Workload(way.kind, lengths, self.ids)

    def _document(self, runs: list[RunDocument]) -> ContrastDocument:
        return ContrastDocument(
            format=FORMAT,
            started_at=runs[0].started_at,
            target=runs[0].target,
            partial=any(one.partial for one in runs),
            ways=[*self.ways, *self.writers],
            concurrency=self.concurrency,
            rate_length=self.rate_length,
            rounds=self.rounds,
            finding=findings(points(runs), self.concurrency),
            runs=runs,
        )


def reading_modes(stepwise: str, fused: str, one_shot: str) -> tuple[ReadingMode, ...]:
    """The three ways with the given models."""
    ways = ((STEPWISE, reading.STEPWISE, stepwise), (FUSED, reading.FUSED, fused),
            (ONE_SHOT, reading.ONE_SHOT, one_shot))  # fmt: skip
    return tuple(ReadingMode(name, model, reading.Contender(way, model).call) for name, way, model in ways)


def writing_modes(names: str) -> tuple[ReadingMode, ...]:
    """The writers of these names, separated by commas."""
    return tuple(
        ReadingMode(name.strip(), name.strip(), "generate") for name in names.split(",") if name.strip()
    )


def _load_name(mode: ContrastMode, pattern: LoadPattern) -> str:
    if mode == "next":
        return "one by one"
    return f"{pattern.rate:g}/s" if isinstance(pattern, OpenLoop) else f"{pattern.concurrency} in flight"


@dataclass(frozen=True)
class ContrastPoint:
    """The metrics of one way at one length and load."""

    way: str
    mode: ContrastMode
    length: int
    rate: float
    """Requested, per second; 0 in a closed loop."""
    first_ms: float
    """Median time to the first prediction; for a way with a single prediction, to that one."""
    last_ms: float
    """Median time to the prediction for the whole text."""
    next_ms: float
    """Median time to a prediction after one more element: one round trip for a stream, otherwise the whole
    text again; of a writer, to one more token. Infinite if not measured; for a stream this takes a `next`
    run."""
    p99_ms: float
    sequences: float
    """Answers per second."""
    lost: int
    """Requests that were not answered."""
    tokens: float = 0.0
    """Tokens per second, of a writer."""
    writes: bool = False
    """Whether it writes: `length` is its context then."""


def point(run: RunDocument) -> ContrastPoint:
    """The metrics of one run; times are infinite if nothing was answered."""
    assert run.mode is not None
    latency, never = run.latency_ms, math.inf
    first = run.first_token_ms or latency
    one_more = _next_element_times(run)
    return ContrastPoint(
        run.way,
        run.mode,
        run.length,
        run.load.rate or 0.0,
        first.p50 if first else never,
        latency.p50 if latency else never,
        one_more.p50 if one_more else never,
        latency.p99 if latency else never,
        run.rates.ok,
        run.lost,
        run.rates.tokens,
        run.load.call == "generate",
    )


def _next_element_times(run: RunDocument) -> LatencySummary | None:
    """Times to a prediction after one more element; None if this run does not measure them."""
    if run.load.call == "generate":
        return run.per_token_ms
    if not run.first_token_ms:
        return run.latency_ms
    return run.gap_ms if run.mode == "next" else None


def points(runs: Sequence[RunDocument]) -> list[ContrastPoint]:
    """Medians over the rounds for each way, mode, length and rate. Invalid runs are excluded.

    The times of `next` runs are reported as `next_ms` of the `lone` points.
    """
    rounds: dict[tuple[str, ContrastMode, int, float], list[ContrastPoint]] = {}
    for one in (point(run) for run in runs if run.valid):
        rounds.setdefault((one.way, one.mode, one.length, one.rate), []).append(one)
    ways = list(dict.fromkeys(run.way for run in runs))
    made = [
        replace(
            reading.medians(some, "first_ms", "last_ms", "next_ms", "p99_ms", "sequences", "tokens"),
            lost=math.ceil(median(one.lost for one in some)),
        )
        for some in rounds.values()
    ]
    return sorted(
        _with_next_times(made),
        key=lambda one: (
            one.writes,
            CONTRAST_MODES.index(one.mode),
            one.rate,
            one.length,
            ways.index(one.way),
        ),
    )


def _with_next_times(made: Sequence[ContrastPoint]) -> Iterator[ContrastPoint]:
    """Copy `next_ms` from the `next` points to the `lone` points, and drop the `next` points."""
    next_times = {(one.way, one.length): one.next_ms for one in made if one.mode == "next"}
    for one in made:
        if one.mode == "lone":
            yield replace(one, next_ms=next_times.get((one.way, one.length), one.next_ms))
        elif one.mode != "next":
            yield one


def is_complete(runs: Sequence[RunDocument]) -> bool:
    """Whether every combination has at least one valid round."""
    planned = [(run.way, run.mode, run.length, run.load.rate or 0.0) for run in runs]
    return set(planned) == {one for one, run in zip(planned, runs, strict=True) if run.valid}


def findings(points: Sequence[ContrastPoint], concurrency: int) -> list[str]:
    """Sentences that summarise the points. Combinations that were not measured are omitted."""
    lone, full = readings(points, "lone"), readings(points, "full")
    wrote, wrote_full = writings(points, "lone"), writings(points, "full")
    unmeasured = {one.length for one in lone if math.isinf(one.next_ms)}
    return [
        *_by_length("One caller, fastest for the whole text", lone, "last_ms", "ms", least=True),
        *_by_length("One caller, fastest first prediction", lone, "first_ms", "ms", least=True),
        *_by_length(
            "One caller, fastest prediction after one more element (one step, or the whole text again)",
            [one for one in lone if one.length not in unmeasured],
            "next_ms",
            "ms",
            least=True,
        ),
        *_by_length(f"{concurrency} callers, most texts per second", full, "sequences", "/s", least=False),
        *_rates([one for one in points if one.mode == "rate"]),
        *_by_length("One caller, fastest next token", wrote, "next_ms", "ms", by=CONTEXT, least=True),
        *_by_length("One caller, fastest first token", wrote, "first_ms", "ms", by=CONTEXT, least=True),
        *_by_length(
            f"{concurrency} callers, most tokens per second",
            wrote_full,
            "tokens",
            "/s",
            by=CONTEXT,
            least=False,
        ),
    ]


def readings(points: Sequence[ContrastPoint], mode: ContrastMode) -> list[ContrastPoint]:
    """The points of the ways to read, in one mode."""
    return [one for one in points if one.mode == mode and not one.writes]


def writings(points: Sequence[ContrastPoint], mode: ContrastMode) -> list[ContrastPoint]:
    """The points of the writers, in one mode."""
    return [one for one in points if one.mode == mode and one.writes]


def _by_length(
    claim: str,
    points: Sequence[ContrastPoint],
    metric: str,
    unit: str,
    *,
    least: bool,
    by: str = "number of elements",
) -> Iterator[str]:
    """The winner at each length. Neighbouring lengths with the same winner are merged."""
    spans: list[tuple[str, list[int], str]] = []
    for length in sorted({one.length for one in points}):
        here = [one for one in points if one.length == length]
        winner, values = _winner(here, metric, least=least), _values(here, metric, unit)
        if spans and spans[-1][0] == winner:
            spans[-1] = (winner, [*spans[-1][1], length], values)
        else:
            spans.append((winner, [length], values))
    if spans:
        parts = [
            f"{_span(lengths)}: {winner} (at {lengths[-1]:,}: {values})" for winner, lengths, values in spans
        ]
        yield f"{claim}, by {by}: {'; '.join(parts)}."


def _winner(points: Sequence[ContrastPoint], metric: str, *, least: bool) -> str:
    ordered = sorted(points, key=lambda one: float(getattr(one, metric)), reverse=not least)
    best = float(getattr(ordered[0], metric))
    near = [
        one.way
        for one in ordered
        if (a := float(getattr(one, metric))) == best or max(a, best) <= TIE_RATIO * min(a, best)
    ]
    return near[0] if len(near) == 1 else " and ".join(sorted(near)) + " equal"


def _values(points: Sequence[ContrastPoint], metric: str, unit: str) -> str:
    return ", ".join(
        f"{one.way} {_format_number(getattr(one, metric))} {unit}".replace(" /s", "/s") for one in points
    )


def _rates(points: Sequence[ContrastPoint]) -> Iterator[str]:
    """The highest rate of each way that it sustained together with all lower rates."""
    kept: dict[str, float] = {}
    late: set[str] = set()
    for one in sorted(points, key=lambda one: one.rate):
        if one.p99_ms > LATE_MS or one.lost:
            late.add(one.way)
        kept[one.way] = kept.get(one.way, 0.0) if one.way in late else one.rate
    if not kept:
        return
    most = max(one.rate for one in points)
    sustained = ", ".join(
        f"{way} {'none' if not rate else f'{rate:g}/s'}{' (the highest measured)' if rate == most else ''}"
        for way, rate in kept.items()
    )
    length = points[0].length
    yield f"Highest rate at {length:,} elements with a p99 of at most {LATE_MS:g} ms: {sustained}."


def _span(lengths: Sequence[int]) -> str:
    return f"{lengths[0]:,}" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,}"


def _format_number(value: float) -> str:
    return "no answer" if value == float("inf") else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
