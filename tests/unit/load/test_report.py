"""The HTML page of every kind of document is complete and self-contained."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

import pytest
from msgspec import structs
from patience import PATIENCE_S
from unit.load import sample_runs

from deploy.rehearsal import page as driver
from lockstep_load import charts, report, runner
from lockstep_load.contrast import FUSED, STEPWISE
from lockstep_load.results import (
    ContrastDocument,
    Document,
    Probe,
    ReadingMode,
    RunDocument,
    ScenarioDocument,
    SearchDocument,
    SearchResult,
    SweepDocument,
)

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


def named(name: str, latency_ms: float, **more: Any) -> RunDocument:
    return structs.replace(sample_runs.steady(6, latency_ms), name=name, **more)


def experiment_document(kind: type, runs: list[Any], **more: Any) -> Any:
    head = {key: getattr(runs[0], key) for key in ("format", "started_at", "target", "partial")}
    return kind(**head, runs=runs, **more)


def search_document(runs: list[RunDocument]) -> SearchDocument:
    found = SearchResult(
        rate=10.0, percentile=99.0, bound_ms=50.0, confirmed=True, confirmations=2, within=0.05, probes=3,
        limit="the bound",
    )  # fmt: skip
    made: SearchDocument = experiment_document(SearchDocument, runs, name="the search", search=found)
    return made


SWEEP = experiment_document(SweepDocument, [named("10/s", 5.0), named("20/s", 9.0)], name="the sweep")
SEARCH = search_document([named("10/s", 5.0, probe=Probe(10.0, True, False))])
SCENARIO = experiment_document(
    ScenarioDocument, [named("one", 5.0), SWEEP, SEARCH], name="the scenario", about="all kinds"
)
LONE: dict[str, Any] = {"mode": "lone", "length": 8}
CONTRAST = experiment_document(
    ContrastDocument,
    [named("a", 5.0, way=STEPWISE, **LONE), named("b", 7.0, way=FUSED, **LONE)],
    ways=[ReadingMode(STEPWISE, "m", "follow"), ReadingMode(FUSED, "m", "classify")],
    finding=["It was so."],
    concurrency=16,
    rate_length=32,
    rounds=1,
)


@pytest.mark.parametrize(
    ("document", "plots", "text"),
    [
        (named("one", 5.0), 3, "answers/s"),
        (SWEEP, 2 + 2 * 3, "Throughput against latency"),
        (SEARCH, 1, "10.0 requests/s is the highest rate that meets"),
        (SCENARIO, 3 + 8 + 1, "all kinds"),
        (CONTRAST, 4, "It was so."),
    ],
    ids=["run", "sweep", "search", "scenario", "contrast"],
)
def test_every_document_has_a_page_and_a_summary(
    document: Document, plots: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = report.page(document)
    assert page.count("<svg") == plots
    assert text in page
    assert "currentColor" in page
    assert "<script" not in page
    runner.show(document)
    assert capsys.readouterr().out


def test_a_series_has_one_colour_and_marker_in_all_plots_of_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, set[tuple[str, str]]] = {}

    def note(figure: Figure) -> str:
        for axes in figure.axes:
            assert axes.get_title()
            assert axes.get_xlabel()
            assert axes.get_ylabel()
            for line in axes.lines:
                drawn.setdefault(str(line.get_label()), set()).add(
                    (str(line.get_color()), str(line.get_marker()))
                )
        return "<svg>"

    monkeypatch.setattr(charts, "_svg", note)
    for document in (SCENARIO, CONTRAST):
        drawn.clear()
        report.page(document)
        assert {len(styles) for styles in drawn.values()} == {1}
        assert len({next(iter(styles)) for styles in drawn.values()}) == len(drawn)


def test_the_axis_of_times_has_at_least_two_labels() -> None:
    """Also if 1, 2 and 5 times a power of ten are none of them."""
    for ms in (5.2, 30.0):
        (plot, *_) = report.run_section(charts.SeriesStyles(), named("one", ms)).plots
        labels = re.findall(r">([\d.,]+)</text>", plot[plot.index('id="matplotlib.axis_2"') :])
        assert len(labels) >= 2, labels


@pytest.mark.skipif(driver.CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_fits_a_phone_and_leaves_no_place_of_a_row_empty(tmp_path: Path) -> None:
    report.write(tmp_path / "report.html", SCENARIO)
    with driver.browser(PATIENCE_S) as browser:
        shown: list[tuple[int, Literal["light", "dark"]]] = [(360, "light"), (768, "dark"), (1400, "light")]
        for width, scheme in shown:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.goto((tmp_path / "report.html").as_uri())
            page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            assert page.evaluate("document.documentElement.scrollWidth") == width
            ink, paper = page.evaluate(_COLOURS)
            assert (ink < paper) is (scheme == "light")
            for section in page.evaluate(_PLOTS):
                room, rows = section["room"], section["rows"]
                assert all(abs(sum(row) - room) < 30 * len(row) for row in rows), (width, section)


_COLOURS = """() => ["color", "background-color"].map((name) => {
  const text = document.querySelector(".plots svg");
  const of = name === "color" ? text : document.body;
  return getComputedStyle(of).getPropertyValue(name).match(/[0-9]+/g).slice(0, 3).reduce((a, b) => a + +b, 0);
})"""
_PLOTS = """() => [...document.querySelectorAll(".plots")].map((plots) => {
  const rows = new Map();
  for (const one of plots.children) {
    const { top, width } = one.getBoundingClientRect();
    rows.set(top, [...(rows.get(top) ?? []), width]);
  }
  return { room: plots.clientWidth, rows: [...rows.values()] };
})"""


def test_the_page_of_a_run_without_answers_gives_the_reason() -> None:
    nothing = structs.replace(sample_runs.run([], 2.0), name="nothing")
    page = report.page(nothing)
    assert "no request in the measured part was answered" in page
    assert runner.exit_code(nothing) == 1


def test_server_messages_are_escaped() -> None:
    run = named("one", 5.0, examples={"failed": "<b>boom</b>"})
    assert "<b>boom</b>" not in report.page(run)


def test_exit_codes_depend_on_validity_and_interruption() -> None:
    run = named("one", 5.0)
    assert runner.exit_code(run) == 0
    assert runner.exit_code(structs.replace(run, valid=False)) == 3
    assert runner.exit_code(structs.replace(run, partial=True)) == 130
    # A search goes to the limit, so its invalid probes do not count.
    assert runner.exit_code(search_document([structs.replace(run, valid=False)])) == 0
