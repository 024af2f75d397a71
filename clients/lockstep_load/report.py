"""Renders a document as one self-contained HTML file with tables, plots and warnings.

Document → `ReportSection`s → templates/report.html. The page has no scripts, fonts or external links.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockstep_load import charts, contrast_report, summary
from lockstep_load.report_model import ReportSection, ReportTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lockstep_load.documents import Document


def write(path: Path, document: Document) -> None:
    """Write the page to a file.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_text(page(document), "utf-8")


def page(document: Document) -> str:
    """Render the HTML page."""
    from jinja2 import Environment, PackageLoader

    templates = Environment(loader=PackageLoader("lockstep_load"), autoescape=True)
    return templates.get_template("report.html").render(
        title=_title(document),
        started_at=document["started_at"],
        partial=document["partial"],
        sections=list(sections(document)),
    )


def sections(document: Document) -> Iterator[ReportSection]:
    """The sections in order. The individual runs of a search or contrast are in the JSON only."""
    kind = document["kind"]
    if kind == "run":
        yield run_section(document)
    elif kind == "search":
        yield _search_section(document)
    elif kind == "contrast":
        yield from contrast_report.sections(document)
    else:
        yield _sweep_section(document) if kind == "sweep" else _scenario_section(document)
        yield from _nested_sections(document)


def _nested_sections(document: Document) -> Iterator[ReportSection]:
    for number, one in enumerate(document["runs"], start=1):
        if one["kind"] == "run":
            yield run_section(one, title=f"{number}. {one['name']}", folded=True)
        else:
            yield from sections(one)


def run_section(run: Document, title: str = "", *, folded: bool = False) -> ReportSection:
    """All results of one run."""
    return ReportSection(
        title or "Run",
        [summary.headline(run), summary.outcomes(run), *_result(run), summary.generator(run)],
        run["reasons"],
        run["notes"],
        list(_plots(run)),
        list(_tables(run)),
        folded,
    )


def runs_table(runs: Sequence[Document]) -> ReportTable:
    """One row per run."""
    header = (
        "run",
        "load",
        "answers/s",
        "tokens/s",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max ms",
        "failed",
        "valid",
    )
    return ReportTable(header, [_row(one) for one in runs])


def _row(run: Document) -> tuple[str, ...]:
    times = summary.times(run["latency_ms"]) if run["latency_ms"] else ("",) * 5
    lost = sum(run["outcomes"].values()) - run["outcomes"]["ok"]
    return (
        run.get("name", run["target"]["model"]),
        summary.load_description(run["load"]),
        f"{run['rates']['ok']:,.1f}",
        f"{run['rates']['tokens']:,.0f}",
        *times,
        f"{lost:,}",
        "yes" if run["valid"] else "NO",
    )


def _plots(run: Document) -> Iterator[str]:
    if not run["latency_ms"]:
        return
    yield charts.by_percentile([("latency", run)])
    yield charts.over_time(run)
    if len(run["by_length"]) > 1:
        yield charts.by_length(run)
    if run["first_token_ms"]:
        yield charts.streams(run)
    if run.get("server_metrics", {}).get("seconds"):
        yield charts.batching(run["server_metrics"])


def _tables(run: Document) -> Iterator[ReportTable]:
    rows = [(name, *summary.times(run[key])) for key, name in summary.TIMES.items() if run.get(key)]
    if lag := run["generator"]["lag_ms"]:
        rows.append(("send lag", *summary.times(lag)))
    if rows:
        yield ReportTable(("milliseconds", *summary.PERCENTILES), rows)
    if run["by_length"]:
        yield ReportTable(("length", "answers", *summary.PERCENTILES), summary.length_rows(run))
    if server := run.get("server_metrics"):
        yield ReportTable(("server metrics", ""), summary.server_rows(server))
    settings = [(key, str(value)) for key, value in run["load"].items() if value is not None]
    yield ReportTable(("load settings", ""), settings)


def _result(run: Document) -> list[str]:
    lines = [summary.result_line(run["result"])] if "result" in run else []
    return [*lines, *(summary.drift_lines(run["drift"]) if run.get("drift") else [])]


def _search_section(document: Document) -> ReportSection:
    runs = [one for one in document["runs"] if "probe" in one]
    plots = [charts.throughput_latency(runs, document["search"]["bound_ms"])] if runs else []
    name, table = document.get("name", "Search"), runs_table(runs)
    return ReportSection(name, [summary.search_sentence(document)], plots=plots, tables=[table])


def _sweep_section(document: Document) -> ReportSection:
    runs = document["runs"]
    plots = [charts.throughput_latency(runs), charts.by_percentile([(one["name"], one) for one in runs[:6]])]
    return ReportSection(document.get("name", "Sweep"), plots=plots, tables=[runs_table(runs)])


def _scenario_section(document: Document) -> ReportSection:
    return ReportSection("Runs", [document["about"]], tables=[runs_table(_all_runs(document))])


def _all_runs(document: Document) -> list[Document]:
    """All runs of a scenario, including those of its searches and sweeps."""
    return [leaf for one in document["runs"] for leaf in ([one] if one["kind"] == "run" else _all_runs(one))]


def _title(document: Document) -> str:
    what = {"run": "Load", "sweep": "Sweep", "search": "Search", "contrast": "Contrast"}
    name = what.get(document["kind"], document.get("name", "Scenario"))
    return f"{name}: {document['target']['model']}" if document["kind"] != "contrast" else "Contrast"
