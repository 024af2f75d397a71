"""The dashboards follow Grafana conventions, and every expression reads exported metrics."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from contract.deployed import (
    DASHBOARDS,
    DEPLOY,
    PROMETHEUS_OWN,
    RECORDED,
    TARGET_LABELS,
    exported,
    panels,
    selectors,
    targets,
)
from contract.test_deploy_rules import needs_promtool, promtool

from deploy.__main__ import generated
from deploy.grafana.dashboard import COLUMNS, SCHEMA_VERSION
from deploy.rehearsal.grafana import filled_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXPORTED = exported()
TYPES = {"timeseries", "stat", "heatmap", "table", "barchart", "state-timeline"}
UNITS = {"s", "reqps", "ops", "short", "percentunit", "bytes"}
MAX_FILE_BYTES = 100_000
RUNBOOK = DEPLOY.parent / "docs" / "observability.md"
PAGE = DEPLOY.parent / "clients" / "lockstep_ui" / "static" / "index.html"
STATS = [(uid, panel) for uid, panel in panels() if panel["type"] == "stat"]

each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
each_panel = pytest.mark.parametrize(
    "panel", [panel for _, panel in panels()], ids=[f"{uid}-{panel['id']}" for uid, panel in panels()]
)
each_stat = pytest.mark.parametrize("panel", [p for _, p in STATS], ids=[p["title"] for _, p in STATS])
each_target = pytest.mark.parametrize(
    "target", [t for _, t in targets()], ids=[location for location, _ in targets()]
)


@pytest.mark.parametrize("file", generated(), ids=lambda file: file.name)
def test_committed_files_are_up_to_date(file: Any) -> None:
    assert file.read_text(encoding="utf-8") == generated()[file], "run `make dashboards`"


def test_there_is_no_stale_dashboard() -> None:
    assert set((DEPLOY / "grafana" / "dashboards").iterdir()) <= set(generated())


@each_dashboard
def test_each_dashboard_has_its_metadata(dashboard: dict[str, Any]) -> None:
    assert re.fullmatch(r"lockstep-\w+", dashboard["uid"])
    assert dashboard["title"].startswith("Lockstep / ")
    assert dashboard["description"].endswith("?")
    assert dashboard["schemaVersion"] == SCHEMA_VERSION
    assert "id" not in dashboard, "Grafana assigns it"
    assert dashboard["editable"] is False, "a change in the browser would be lost"
    assert dashboard["refresh"]


def test_dashboard_titles_are_unique() -> None:
    assert len({board["title"] for board in DASHBOARDS.values()}) == len(DASHBOARDS) == 4


@each_dashboard
def test_dashboards_link_to_each_other_and_keep_the_variables(dashboard: dict[str, Any]) -> None:
    [link] = dashboard["links"]
    assert link["type"] == "dashboards"
    assert set(link["tags"]) <= set(dashboard["tags"])
    assert link["includeVars"]
    assert link["keepTime"]


@each_dashboard
def test_variables_select_datasource_job_instance_and_model(dashboard: dict[str, Any]) -> None:
    source, *labels, docs, page = dashboard["templating"]["list"]
    assert [(one["name"], one["type"], one["hide"]) for one in (docs, page)] == [
        ("docs", "textbox", 2),
        ("page", "textbox", 2),
    ]
    assert (source["type"], source["query"], source["name"]) == ("datasource", "prometheus", "datasource")
    assert [one["name"] for one in labels] == ["job", "instance", "model"]
    for one in labels:
        assert one["multi"]
        assert one["includeAll"]
        assert one["allValue"] == ".*"
        assert one["refresh"] == 2, "reload on time range changes"
        assert one["datasource"]["uid"] == "${datasource}"
        metric = re.match(r"label_values\((\w+)", one["definition"])
        assert metric
        assert metric[1] in EXPORTED


def test_each_panel_links_to_its_section_of_the_runbook_and_times_to_the_flight_recorder() -> None:
    pages = "index.html", *(re.findall(r'href="(#\w+)"', PAGE.read_text(encoding="utf-8")))
    headings = re.findall(r"^## (.*)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    for uid, panel in panels():
        runbook, *recorder = [link["url"] for link in panel["links"]]
        assert runbook.startswith("${docs:raw}/observability.html#")
        assert runbook.partition("#")[2] in anchors, panel["title"]
        title = DASHBOARDS[uid]["title"].removeprefix("Lockstep / ")
        assert runbook.endswith(f"#{title.lower().replace(' ', '-')}")
        assert bool(recorder) is (panel["fieldConfig"]["defaults"]["unit"] == "s")
        if recorder:
            assert recorder[0].partition("#")[2] in anchors
            assert recorder[1].removeprefix("${page:raw}/") in pages


@each_dashboard
def test_grafana_s_own_schema_knows_every_field(dashboard: dict[str, Any]) -> None:
    """What Grafana's SDK reads and writes again is what it knows."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
    # Fields of Grafana's editor of variables, and of Prometheus's annotations, are in no schema.
    unknown = {path.rpartition(".")[2] for path in _lost(dashboard, written)}
    assert unknown == {"definition", "step", "titleFormat"}


def _lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """The paths of what is not in `kept` as it was given."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from _lost(value, kept[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for index, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{path}[{index}]")
    elif given != kept:
        yield path


@each_dashboard
def test_panels_do_not_overlap_and_leave_no_empty_lines(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    depth = max(y for _, y in taken) + 1
    assert {y for _, y in taken} == set(range(depth)), "empty grid lines"


@each_dashboard
def test_panel_ids_are_unique_and_files_are_small(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert (DEPLOY / "grafana" / "dashboards" / f"{dashboard['uid']}.json").stat().st_size < MAX_FILE_BYTES


def test_panel_titles_are_unique() -> None:
    titles = [panel["title"] for _, panel in panels()]
    assert len(set(titles)) == len(titles)


@each_panel
def test_each_panel_has_title_description_unit_type_and_queries(panel: dict[str, Any]) -> None:
    assert panel["type"] in TYPES
    assert panel["title"][0].isupper()
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@each_panel
def test_thresholds_ascend_from_a_base_colour(panel: dict[str, Any]) -> None:
    first, *rest = [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
    assert first is None
    assert rest == sorted(rest)


@each_panel
def test_legends_distinguish_the_series_of_a_query(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        grouped = _grouped_by(target["expr"])
        if panel["type"] in ("timeseries", "state-timeline"):
            assert named == grouped, target["expr"]
        elif panel["type"] in ("table", "barchart"):
            assert target["legendFormat"], "the column title"


@each_panel
def test_queries_use_the_format_of_the_panel_type(panel: dict[str, Any]) -> None:
    expected = {"heatmap": "heatmap", "table": "table", "barchart": "table"}.get(panel["type"], "time_series")
    for target in panel["targets"]:
        assert target["format"] == expected
        assert target["instant"] is (expected == "table")
        if expected == "heatmap":
            assert target["legendFormat"] == "{{le}}"


@each_target
def test_each_query_filters_by_the_selected_datasource_job_instance_and_model(target: dict[str, Any]) -> None:
    assert target["datasource"]["uid"] == "${datasource}"
    for metric, matchers in selectors(target["expr"]):
        if metric == "ALERTS":
            continue
        assert matchers.get("job") == "=~$job", metric
        if metric not in RECORDED:
            assert matchers.get("instance") == "=~$instance", metric
        if metric in RECORDED or "model" in EXPORTED.get(metric, ()):
            assert matchers.get("model", "").startswith("=~$model"), metric


@each_target
def test_each_query_reads_exported_metrics_and_labels(target: dict[str, Any]) -> None:
    found = selectors(target["expr"])
    assert found
    for metric, matchers in found:
        assert metric in EXPORTED or metric in RECORDED or metric in PROMETHEUS_OWN
        if metric in EXPORTED:
            assert set(matchers) - TARGET_LABELS <= EXPORTED[metric], metric
            assert _grouped_by(target["expr"]) <= set().union(
                *(EXPORTED.get(one.metric, set()) for one in found), TARGET_LABELS, {"version"}
            )


@each_target
def test_counters_are_read_as_rates_over_grafana_intervals(target: dict[str, Any]) -> None:
    expression = target["expr"]
    for metric, _ in selectors(expression):
        if metric.endswith(("_total", "_bucket", "_sum", "_count")):
            assert re.search(rf"(rate|increase)\({metric}\{{[^}}]*\}}\[", expression), metric
    assert set(re.findall(r"\[([^\]]*)\]", expression)) <= {"$__rate_interval", "$__range"}
    assert "irate(" not in expression


@each_stat
def test_each_stat_shows_its_last_value_or_a_text_for_nan(panel: dict[str, Any]) -> None:
    """With `lastNotNull`, or without NaN at the end, Grafana would keep showing an old value."""
    assert panel["options"]["reduceOptions"]["calcs"] == ["last"]
    [target] = panel["targets"]
    assert target["expr"].endswith(" or vector(0 / 0)")
    defaults = panel["fieldConfig"]["defaults"]
    [mapping] = defaults["mappings"]
    assert (mapping["type"], mapping["options"]["match"]) == ("special", "null+nan")
    assert mapping["options"]["result"]["text"] in ("no traffic", "no data")
    assert mapping["options"]["result"]["color"] == "text", "neither good nor bad"
    assert defaults["noValue"] == "no data"


@needs_promtool
def test_stats_have_one_value_without_any_server(tmp_path: Path) -> None:
    expressions = [filled_in(DASHBOARDS[uid], stat["targets"][0]["expr"], 15, 1800) for uid, stat in STATS]
    once = {"eval_time": "1h", "exp_samples": [{"labels": "{}", "value": 1}]}
    file = tmp_path / "stats.yml"
    tests = [
        {
            "input_series": [],
            "promql_expr_test": [{"expr": f"count({expression})", **once} for expression in expressions],
        }
    ]
    file.write_text(yaml.safe_dump({"tests": tests}))
    promtool("test", "rules", str(file))


def _grouped_by(expression: str) -> set[str]:
    """The labels of the result, which are those of the outermost aggregation."""
    groups = re.findall(r"\b(?:sum|max|count|min|avg) by \(([^)]*)\)", expression)
    return {label.strip() for group in groups[:1] for label in group.split(",")} - {"le"}
