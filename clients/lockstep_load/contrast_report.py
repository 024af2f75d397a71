"""Shows a contrast in HTML and in a terminal: the findings, the plots and a table of every point."""

from __future__ import annotations

from math import isinf
from operator import attrgetter
from typing import TYPE_CHECKING

from lockstep_client.tables import table, text
from lockstep_load import charts
from lockstep_load.contrast import CONTEXT, ContrastPoint, points, readings, writings
from lockstep_load.report_model import ReportSection, ReportTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lockstep_load.results import ContrastDocument

HEADER = (
    "model", "elements", "load", "answers/s", "tokens/s", "first ms", "next ms", "last ms", "p99 ms",
    "failed",
)  # fmt: skip

_LENGTH, _TIME = "length of the text (elements)", "time (ms)"


def sections(styles: charts.SeriesStyles, document: ContrastDocument) -> Iterator[ReportSection]:
    """The findings, then their data. Invalid runs are excluded and listed with their reasons."""
    found = points(document.runs)
    ways = [f"{way.name}: {way.kind} of {way.model}" for way in document.ways]
    invalid = [f"{run.name}: {reason}" for run in document.runs for reason in run.reasons]
    yield ReportSection(
        "Findings",
        [*document.finding, "\n".join(ways)],
        invalid,
        plots=list(_plots(styles, found, document.concurrency, document.rate_length)),
        tables=[ReportTable(HEADER, rows(found))],
    )


def show(document: ContrastDocument) -> None:
    """Print the same to stdout."""
    table(HEADER, rows(points(document.runs)))
    for sentence in document.finding:
        text(f"\n{sentence}")
    for run in document.runs:
        for reason in run.reasons:
            text(f"INVALID: {run.name}: {reason}")


def rows(found: Sequence[ContrastPoint]) -> list[tuple[str, ...]]:
    """One table row per point, in the given order."""
    return [
        (
            one.way,
            f"{one.length:,}",
            {"lone": "1 caller", "full": "full load"}.get(one.mode, f"{one.rate:g}/s"),
            f"{one.sequences:,.1f}",
            f"{one.tokens:,.0f}" if one.writes else "",
            f"{one.first_ms:,.2f}",
            "" if isinf(one.next_ms) else f"{one.next_ms:,.2f}",
            f"{one.last_ms:,.2f}",
            f"{one.p99_ms:,.2f}",
            f"{one.lost:,}",
        )
        for one in found
    ]


def _plots(
    styles: charts.SeriesStyles, found: Sequence[ContrastPoint], concurrency: int, rate_length: int
) -> Iterator[str]:
    lone, full = readings(found, "lone"), readings(found, "full")
    rated = [one for one in found if one.mode == "rate"]
    for title, number in (
        ("One caller: first prediction", "first_ms"),
        ("One caller: prediction after one more element", "next_ms"),
        ("One caller: whole text", "last_ms"),
    ):
        yield _lines(styles, f"{title} (median)", _LENGTH, _TIME, lone, attrgetter(number))
    title = f"{concurrency} callers: texts per second"
    yield _lines(styles, title, _LENGTH, "texts per second", full, attrgetter("sequences"))
    if rated:
        title = f"Open loop, {rate_length:,} elements: p99"
        latency, rate = attrgetter("p99_ms"), attrgetter("rate")
        yield _lines(styles, title, "requests per second", "p99 latency (ms)", rated, latency, rate)
    if wrote := writings(found, "lone"):
        title = "One caller: next token (median)"
        yield _lines(styles, title, CONTEXT, _TIME, wrote, attrgetter("next_ms"))
    if wrote_full := writings(found, "full"):
        title = f"{concurrency} callers: tokens per second"
        yield _lines(styles, title, CONTEXT, "tokens per second", wrote_full, attrgetter("tokens"))


def _lines(
    styles: charts.SeriesStyles,
    title: str,
    x_label: str,
    y_label: str,
    found: Sequence[ContrastPoint],
    value: Callable[[ContrastPoint], float],
    at: Callable[[ContrastPoint], float] = lambda one: one.length,
) -> str:
    series = []
    for way in dict.fromkeys(one.way for one in found):
        points_of_way = [one for one in found if one.way == way and 0 < value(one) < float("inf")]
        series.append((way, [at(one) for one in points_of_way], [value(one) for one in points_of_way]))
    return charts.lines(styles, title, x_label, y_label, series)
