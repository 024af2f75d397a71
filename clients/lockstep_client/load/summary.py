"""What a run came to, in a terminal: a headline, tables, and every reason to doubt it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lockstep_client.tables import table

if TYPE_CHECKING:
    from lockstep_client.load.document import Document

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
        table(("length", "answers", *PERCENTILES), [_length(one) for one in document["by_length"]])
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
        f"{document['target']['model']} ({document['load']['call']}), {pace(document['load'])},"
        f" {document['measured_s']:g} s: {rates['ok']:,.1f} answers/s,"
        f" {rates['elements']:,.0f} elements/s{made}"
    )


def pace(load: dict[str, Any]) -> str:
    """How it was asked."""
    if load["loop"] == "open":
        return f"open loop of {load['rate']:g}/s ({load['arrivals']})"
    if load["loop"] == "closed":
        return f"closed loop of {load['concurrency']}"
    return f"offline, {load['samples']:,} samples, {load['concurrency']} in flight"


def outcomes(document: Document) -> str:
    """Counts by outcome, with what the server said of those that are not ok."""
    told = " · ".join(f"{count:,} {name}" for name, count in document["outcomes"].items())
    why = [f'  {name}: "{said}"' for name, said in document["examples"].items()]
    return "\n".join([told, *why])


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


def _length(one: dict[str, Any]) -> tuple[str, ...]:
    span = f"{one['from']:,} to {one['to']:,}" if one["from"] < one["to"] else f"{one['to']:,}"
    return (span, f"{one['count']:,}", *times(one))


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"each of {count} processes"
