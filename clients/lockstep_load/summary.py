"""What a run came to, in a terminal: a headline, tables, and every reason to doubt it."""

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
    """Everything of one run."""
    print(headline(document))
    print(outcomes(document))
    print()
    rows = [(name, *times(document[key])) for key, name in TIMES.items() if document.get(key)]
    if lag := document["generator"]["lag_ms"]:
        rows.append(("sent late by", *times(lag)))
    table(("milliseconds", *PERCENTILES), rows)
    if len(document["by_length"]) > 1:
        print()
        table(("length", "answers", *PERCENTILES), length_rows(document))
    if server := document.get("server_metrics"):
        print()
        table(("the server's own count", ""), server_rows(server))
    print()
    print(generator(document))
    for note in document["notes"]:
        print(f"note: {note}")
    for reason in document["reasons"]:
        print(f"INVALID: {reason}")


def headline(document: Document) -> str:
    """Who was asked what, and the rates that it came to."""
    rates = document["rates"]
    made = f", {rates['tokens']:,.0f} tokens/s" if rates["tokens"] else ""
    return (
        f"{document['target']['model']} ({document['load']['call']}), {load_description(document['load'])},"
        f" {document['measured_s']:g} s: {rates['ok']:,.1f} answers/s,"
        f" {rates['elements']:,.0f} elements/s{made}"
    )


def load_description(load: dict[str, Any]) -> str:
    """How it was asked."""
    if load["loop"] == "open":
        return f"open loop of {load['rate']:g}/s ({load['arrivals']})"
    if load["loop"] == "closed":
        return f"closed loop of {load['concurrency']}"
    return f"offline, {load['samples']:,} samples, {load['concurrency']} in flight"


def outcomes(document: Document) -> str:
    """Counts by outcome, with what the server said of those that are not ok."""
    lines = " · ".join(f"{count:,} {name}" for name, count in document["outcomes"].items())
    examples = [f'  {name}: "{said}"' for name, said in document["examples"].items()]
    return "\n".join([lines, *examples])


def generator(document: Document) -> str:
    """What the generator itself took."""
    own = document["generator"]
    shares = ", ".join(f"{share:.0%}" for share in own["cpu_share_of_a_core"]) or "nothing"
    return (
        f"The generator took {shares} of a core in {_processes(own['processes'])}, and"
        f" {own['parent_cpu_share_of_a_core']:.0%} to add up and show:"
        f" {own['cpu_share_of_the_machine']:.0%} of this machine."
    )


def times(summary: dict[str, float]) -> tuple[str, ...]:
    """The percentiles of a summary."""
    return tuple(ms(summary[name]) for name in PERCENTILES)


def ms(value: float) -> str:
    """Milliseconds to three digits or so."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def length_rows(document: Document) -> list[tuple[str, ...]]:
    """Latency by length, a row for each power of two."""
    return [_length(one) for one in document["by_length"]]


def server_rows(server: dict[str, Any]) -> list[tuple[str, str]]:
    """What the server's own metrics say of a run."""
    if "note" in server:
        return [("note", server["note"])]
    rows = []
    for face, one in server["faces"].items():
        rows.append((f"{face} runs", f"{one['runs']:,.0f}"))
        rows.append((f"rows a {face} run", f"{one['rows_per_run']:.2f}"))
    for key, name in (("queue_ms", "queue, mean ms"), ("compute_ms", "compute, mean ms")):
        if server[key] is not None:
            rows.append((name, f"{server[key]:.2f}"))
    if server["padding"] is not None:
        rows.append(("padding", f"{server['padding']:.0%}"))
    return [*rows, ("refused at the door", f"{server['refused']:,.0f}")]


def result_line(found: dict[str, Any]) -> str:
    """A scenario's one number."""
    return f"{found['scenario']}: {found['what']} {found['value']:,.2f} {found['unit']}"


def drift_lines(drift: dict[str, Any]) -> list[str]:
    """Whether a soak ended as it began."""
    span = f"the last {drift['seconds']} s against the first"
    lines = [f"{span}: {one['name']} x {one['ratio']:.2f} ({one['verdict']})" for one in drift["metrics"]]
    first, last = drift["in_flight"]
    return [*lines, f"{span}: in flight {first:,}, then {last:,}"]


def show_comparison(rows: Sequence[MetricComparison]) -> None:
    """Two runs side by side."""
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
    table(("number", "first", "second", "", "ratio", "95% interval", "the second is"), shown)


def search_sentence(document: Document) -> str:
    """What a search found, in a sentence."""
    found = document["search"]
    bound = f"p{found['percentile']:g} within {found['bound_ms']:g} ms"
    if found["rate"] is None:
        return f"No rate was found that keeps {bound}, in {found['probes']} probes."
    limit = f" Above it the limit is {found['limit']}." if found["limit"] else ""
    return (
        f"{found['rate']:,.1f} requests/s is the highest rate found that keeps {bound}, to within"
        f" {found['within']:.0%}. It held again in {found['confirmations']} of {found['confirmations']} runs;"
        f" {found['probes']} probes.{limit}"
    )


def _length(one: dict[str, Any]) -> tuple[str, ...]:
    span = f"{one['from']:,} to {one['to']:,}" if one["from"] < one["to"] else f"{one['to']:,}"
    return (span, f"{one['count']:,}", *times(one))


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"each of {count} processes"
