"""Renders a document as one self-contained HTML file with tables, plots and warnings.

Document → `ReportSection`s → templates/report.html. The page has no scripts, fonts or external links.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockstep_load import charts, contrast_report, summary
from lockstep_load.report_model import ReportSection, ReportTable
from lockstep_load.results import (
    PERCENTILES,
    ContrastDocument,
    Document,
    RunDocument,
    ScenarioDocument,
    SearchDocument,
    SweepDocument,
    iter_runs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


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
        started_at=document.started_at,
        partial=document.partial,
        sections=list(sections(document)),
    )


def sections(document: Document) -> Iterator[ReportSection]:
    """The sections in order. The individual runs of a search or contrast are in the JSON only."""
    styles = charts.SeriesStyles()
    if isinstance(document, ContrastDocument):
        return contrast_report.sections(styles, document)
    for name in ("p50", "p90", "p99", "latency", "answered", "in flight"):
        styles(name)  # the same colours in every report
    return _sections(styles, document)


def _sections(styles: charts.SeriesStyles, document: Document) -> Iterator[ReportSection]:
    if isinstance(document, RunDocument):
        yield run_section(styles, document)
    elif isinstance(document, SearchDocument):
        yield _search_section(styles, document)
    elif isinstance(document, SweepDocument):
        yield _sweep_section(styles, document)
        yield from _nested_sections(styles, document)
    elif isinstance(document, ScenarioDocument):
        yield _scenario_section(document)
        yield from _nested_sections(styles, document)


def _nested_sections(
    styles: charts.SeriesStyles, document: SweepDocument | ScenarioDocument
) -> Iterator[ReportSection]:
    for number, one in enumerate(document.runs, start=1):
        if isinstance(one, RunDocument):
            yield run_section(styles, one, title=f"{number}. {one.name}", folded=True)
        else:
            yield from _sections(styles, one)


def run_section(
    styles: charts.SeriesStyles, run: RunDocument, title: str = "", *, folded: bool = False
) -> ReportSection:
    """All results of one run."""
    return ReportSection(
        title or "Run",
        [summary.headline(run), summary.outcomes(run), *_result(run), summary.generator(run)],
        run.reasons,
        run.notes,
        list(_plots(styles, run)),
        list(_tables(run)),
        folded,
    )


def runs_table(runs: Sequence[RunDocument]) -> ReportTable:
    """One row per run."""
    header = (
        "run",
        "load",
        "answers/s",
        "tokens/s",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "failed",
        "valid",
    )
    return ReportTable(header, [_row(one) for one in runs])


def _row(run: RunDocument) -> tuple[str, ...]:
    times = summary.times(run.latency_ms) if run.latency_ms else ("",) * 5
    return (
        run.name or run.target.model,
        summary.load_description(run.load),
        f"{run.rates.ok:,.1f}",
        f"{run.rates.tokens:,.0f}",
        *times,
        f"{run.lost:,}",
        "yes" if run.valid else "NO",
    )


def _plots(styles: charts.SeriesStyles, run: RunDocument) -> Iterator[str]:
    if not run.latency_ms:
        return
    yield charts.by_percentile(styles, [("latency", run)])
    yield charts.latency_over_time(styles, run)
    yield charts.answers_over_time(styles, run)
    if len(run.by_length) > 1:
        yield charts.by_length(styles, run)
    if run.first_token_ms:
        yield charts.streams(styles, run)
    if run.server_metrics and run.server_metrics.seconds:
        yield charts.batching(styles, run.server_metrics.seconds)


def _tables(run: RunDocument) -> Iterator[ReportTable]:
    if rows := summary.time_rows(run):
        yield ReportTable(("milliseconds", *PERCENTILES), rows)
    if run.by_length:
        yield ReportTable(("length", "answers", *PERCENTILES), summary.length_rows(run))
    if run.server_metrics:
        yield ReportTable(("server metrics", ""), summary.server_rows(run.server_metrics))
    settings = [(key, str(value)) for key, value in run.load.settings().items() if value is not None]
    yield ReportTable(("load settings", ""), settings)


def _result(run: RunDocument) -> list[str]:
    lines = [summary.result_line(run.result)] if run.result else []
    return [*lines, *(summary.drift_lines(run.drift) if run.drift else [])]


def _search_section(styles: charts.SeriesStyles, document: SearchDocument) -> ReportSection:
    runs = [one for one in document.runs if one.probe]
    plots = [charts.throughput_latency(styles, runs, document.search.bound_ms)] if runs else []
    name, lead = document.name or "Search", [summary.search_sentence(document.search)]
    return ReportSection(name, lead, plots=plots, tables=[runs_table(runs)])


def _sweep_section(styles: charts.SeriesStyles, document: SweepDocument) -> ReportSection:
    runs = document.runs
    named = [(one.name, one) for one in runs[:6]]
    plots = [charts.throughput_latency(styles, runs), charts.by_percentile(styles, named)]
    return ReportSection(document.name or "Sweep", plots=plots, tables=[runs_table(runs)])


def _scenario_section(document: ScenarioDocument) -> ReportSection:
    return ReportSection("Runs", [document.about], tables=[runs_table(list(iter_runs(document)))])


def _title(document: Document) -> str:
    if isinstance(document, ContrastDocument):
        return "Contrast"
    if isinstance(document, ScenarioDocument):
        return f"{document.name}: {document.target.model}"
    kinds = {RunDocument: "Load", SweepDocument: "Sweep", SearchDocument: "Search"}
    return f"{kinds[type(document)]}: {document.target.model}"
