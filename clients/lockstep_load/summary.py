"""Summarises a run for the terminal: a headline, tables, notes and the reasons why it is invalid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lockstep_client.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_load.compare import MetricComparison
    from lockstep_load.documents import Document

PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")
TIMES = {
    "latency_ms": "latency",
    "first_token_ms": "first token",
    "per_token_ms": "between tokens",
    "gap_ms": "between messages",
}


def show(document: Document) -> None:
    """Print all results of one run."""
    print(headline(document))
    print(outcomes(document))
    print()
    rows = [(name, *times(document[key])) for key, name in TIMES.items() if document.get(key)]
    if lag := document["generator"]["lag_ms"]:
        rows.append(("send lag", *times(lag)))
    table(("milliseconds", *PERCENTILES), rows)
    if len(document["by_length"]) > 1:
        print()
        table(("length", "answers", *PERCENTILES), length_rows(document))
    if server := document.get("server_metrics"):
        print()
        table(("server metrics", ""), server_rows(server))
    print()
    print(generator(document))
    for note in document["notes"]:
        print(f"note: {note}")
    for reason in document["reasons"]:
        print(f"INVALID: {reason}")


def headline(document: Document) -> str:
    """Model, load and rates in one sentence."""
    rates = document["rates"]
    made = f", {rates['tokens']:,.0f} tokens/s" if rates["tokens"] else ""
    return (
        f"{document['target']['model']} ({document['load']['call']}), {load_description(document['load'])},"
        f" {document['measured_s']:g} s: {rates['ok']:,.1f} answers/s,"
        f" {rates['elements']:,.0f} elements/s{made}"
    )


def load_description(load: dict[str, Any]) -> str:
    """The load in words."""
    if load["loop"] == "open":
        return f"open loop of {load['rate']:g}/s ({load['arrivals']})"
    if load["loop"] == "closed":
        return f"closed loop of {load['concurrency']}"
    return f"offline, {load['samples']:,} samples, {load['concurrency']} in flight"


def outcomes(document: Document) -> str:
    """Counts by outcome, with an example of the server's message for each failure."""
    lines = " · ".join(f"{count:,} {name}" for name, count in document["outcomes"].items())
    examples = [f'  {name}: "{message}"' for name, message in document["examples"].items()]
    return "\n".join([lines, *examples])


def generator(document: Document) -> str:
    """CPU use of the generator in one sentence."""
    own = document["generator"]
    shares = ", ".join(f"{share:.0%}" for share in own["cpu_share_of_a_core"]) or "nothing"
    return (
        f"Generator CPU: {shares} of a core in {_processes(own['processes'])},"
        f" {own['parent_cpu_share_of_a_core']:.0%} for aggregation and display;"
        f" {own['cpu_share_of_the_machine']:.0%} of this machine in total."
    )


def times(summary: dict[str, float]) -> tuple[str, ...]:
    """The percentiles of a summary."""
    return tuple(ms(summary[name]) for name in PERCENTILES)


def ms(value: float) -> str:
    """Format milliseconds with about three significant digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def length_rows(document: Document) -> list[tuple[str, ...]]:
    """Latency by length, one row per power of two."""
    return [_length(one) for one in document["by_length"]]


def server_rows(server: dict[str, Any]) -> list[tuple[str, str]]:
    """The server's metrics of a run, as table rows."""
    if "note" in server:
        return [("note", server["note"])]
    rows = []
    for mode, one in server["faces"].items():
        rows.append((f"{mode} runs", f"{one['runs']:,.0f}"))
        rows.append((f"rows per {mode} run", f"{one['rows_per_run']:.2f}"))
    for key, name in (("queue_ms", "mean queue time, ms"), ("compute_ms", "mean compute time, ms")):
        if server[key] is not None:
            rows.append((name, f"{server[key]:.2f}"))
    if server["padding"] is not None:
        rows.append(("padding", f"{server['padding']:.0%}"))
    return [*rows, ("rejected on arrival", f"{server['refused']:,.0f}")]


def result_line(found: dict[str, Any]) -> str:
    """The result metric of a scenario entry."""
    return f"{found['scenario']}: {found['what']} {found['value']:,.2f} {found['unit']}"


def drift_lines(drift: dict[str, Any]) -> list[str]:
    """The comparison of a soak's last third with its first, one line per metric."""
    span = f"last {drift['seconds']} s against the first {drift['seconds']} s"
    lines = [f"{span}: {one['name']} x {one['ratio']:.2f} ({one['verdict']})" for one in drift["metrics"]]
    first, last = drift["in_flight"]
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


def search_sentence(document: Document) -> str:
    """The result of a search in one sentence."""
    found = document["search"]
    bound = f"p{found['percentile']:g} within {found['bound_ms']:g} ms"
    if found["rate"] is None:
        return f"No rate meets {bound} ({found['probes']} probes)."
    limit = f" Limited by {found['limit']}." if found["limit"] else ""
    return (
        f"{found['rate']:,.1f} requests/s is the highest rate that meets {bound}, to within"
        f" {found['within']:.0%}; confirmed by {found['confirmations']} of {found['confirmations']} repeat"
        f" runs, {found['probes']} probes in total.{limit}"
    )


def _length(one: dict[str, Any]) -> tuple[str, ...]:
    span = f"{one['from']:,} to {one['to']:,}" if one["from"] < one["to"] else f"{one['to']:,}"
    return (span, f"{one['count']:,}", *times(one))


def _processes(count: int) -> str:
    return "one worker process" if count == 1 else f"{count} worker processes"
