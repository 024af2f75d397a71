"""Summarises a run for the terminal: a headline, tables, notes and the reasons why it is invalid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockstep_client.tables import counted, table, text
from lockstep_load.results import PERCENTILES, LatencySummary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_load.results import (
        Drift,
        LengthSummary,
        LoadSettings,
        MetricComparison,
        RunDocument,
        ScenarioResult,
        SearchResult,
        ServerMetrics,
    )


def show(run: RunDocument) -> None:
    """Print all results of one run."""
    text(headline(run))
    text(outcomes(run))
    print()
    table(("milliseconds", *PERCENTILES), time_rows(run))
    if len(run.by_length) > 1:
        print()
        table(("length", "answers", *PERCENTILES), length_rows(run))
    if run.server_metrics:
        print()
        table(("server metrics", ""), server_rows(run.server_metrics))
    print()
    text(generator(run))
    for note in run.notes:
        text(f"note: {note}")
    for reason in run.reasons:
        text(f"INVALID: {reason}")


def headline(run: RunDocument) -> str:
    """Model, load and rates in one sentence."""
    made = f", {run.rates.tokens:,.0f} tokens/s" if run.rates.tokens else ""
    return (
        f"{run.target.model} ({run.load.call}), {load_description(run.load)}, {run.measured_s:g} s:"
        f" {run.rates.ok:,.1f} answers/s, {run.rates.elements:,.0f} elements/s{made}"
    )


def load_description(load: LoadSettings) -> str:
    """The load in words."""
    if load.loop == "open":
        return f"open loop of {load.rate:g}/s ({load.arrivals})"
    if load.loop == "closed":
        return f"closed loop of {load.concurrency}"
    return f"offline, {counted(load.samples or 0, 'sample')}, {load.concurrency} in flight"


def outcomes(run: RunDocument) -> str:
    """Counts by outcome, with an example of the server's message for each failure."""
    lines = " · ".join(f"{count:,} {name}" for name, count in run.outcomes.items())
    examples = [f'  {name}: "{message}"' for name, message in run.examples.items()]
    return "\n".join([lines, *examples])


def generator(run: RunDocument) -> str:
    """CPU use of the generator in one sentence."""
    own = run.generator
    shares = ", ".join(f"{share:.0%}" for share in own.cpu_share_of_a_core) or "nothing"
    return (
        f"Generator CPU: {shares} of a core in {_processes(own.processes)},"
        f" {own.parent_cpu_share_of_a_core:.0%} for aggregation and display;"
        f" {own.cpu_share_of_the_machine:.0%} of this machine in total."
    )


def time_rows(run: RunDocument) -> list[tuple[str, ...]]:
    """Latency and, for streams, token times; for an open loop also the send lag."""
    lag = run.generator.lag_ms
    named = [*run.times, *([("send lag", lag)] if lag else [])]
    return [(name, *times(summary)) for name, summary in named]


def times(summary: LatencySummary) -> tuple[str, ...]:
    """The percentiles of a summary."""
    return tuple(ms(one) for one in summary.percentiles)


def ms(value: float) -> str:
    """Format milliseconds with about three significant digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def length_rows(run: RunDocument) -> list[tuple[str, ...]]:
    """Latency by length, one row per power of two."""
    return [_length(one) for one in run.by_length]


def server_rows(server: ServerMetrics) -> list[tuple[str, str]]:
    """The server's metrics of a run, as table rows."""
    if server.note:
        return [("note", server.note)]
    rows = []
    for mode, one in server.faces.items():
        rows.append((f"{mode} runs", f"{one.runs:,.0f}"))
        rows.append((f"rows per {mode} run", f"{one.rows_per_run:.2f}"))
    for name, value in (("queue", server.queue_ms), ("compute", server.compute_ms)):
        if isinstance(value, float | int):
            rows.append((f"mean {name} time, ms", f"{value:.2f}"))
    if isinstance(server.padding, float | int):
        rows.append(("padding", f"{server.padding:.0%}"))
    return [*rows, ("rejected on arrival", f"{server.refused or 0.0:,.0f}")]


def result_line(found: ScenarioResult) -> str:
    """The result metric of a scenario entry."""
    return f"{found.scenario}: {found.what} {found.value:,.2f} {found.unit}"


def drift_lines(drift: Drift) -> list[str]:
    """The comparison of a soak's last third with its first, one line per metric."""
    span = f"last {drift.seconds} s against the first {drift.seconds} s"
    lines = [f"{span}: {one.name} x {one.ratio:.2f} ({one.verdict})" for one in drift.metrics]
    first, last = drift.in_flight
    return [*lines, f"{span}: in flight {last:,} against {first:,}"]


def show_comparison(rows: Sequence[MetricComparison]) -> None:
    """Print the comparison of two runs."""
    shown = [
        (
            one.name,
            f"{one.first:,.2f}",
            f"{one.second:,.2f}",
            one.unit,
            f"{one.ratio:.3f}",
            "" if one.low is None else f"{one.low:.3f} to {one.high:.3f}",
            one.verdict,
        )
        for one in rows
    ]
    table(("metric", "first", "second", "", "ratio", "95% interval", "second is"), shown)


def search_sentence(found: SearchResult) -> str:
    """The result of a search in one sentence."""
    bound = f"p{found.percentile:g} within {found.bound_ms:g} ms"
    if found.rate is None:
        return f"No rate meets {bound} ({counted(found.probes, 'probe')})."
    limit = f" Limited by {found.limit}." if found.limit else ""
    return (
        f"{found.rate:,.1f} requests/s is the highest rate that meets {bound}, to within"
        f" {found.within:.0%}; confirmed by {found.confirmations} of {found.confirmations} repeat"
        f" runs, {counted(found.probes, 'probe')} in total.{limit}"
    )


def _length(one: LengthSummary) -> tuple[str, ...]:
    span = f"{one.least:,} to {one.most:,}" if one.least < one.most else f"{one.most:,}"
    return (span, f"{one.count:,}", *times(one))


def _processes(count: int) -> str:
    return "one worker process" if count == 1 else f"{count} worker processes"
