"""The usual rules for dashboards, and that every expression reads what the server tells."""

from __future__ import annotations

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
    panels,
    selectors,
    served,
    targets,
)
from contract.test_deploy_rules import needs_promtool, promtool

from deploy.__main__ import generated
from deploy.grafana.parts import COLUMNS, SCHEMA_VERSION
from deploy.rehearsal.grafana import filled_in

if TYPE_CHECKING:
    from pathlib import Path

SERVED = served()
KINDS = {"timeseries", "stat", "heatmap", "table", "barchart", "state-timeline"}
UNITS = {"s", "reqps", "ops", "short", "percentunit", "bytes"}
LARGEST_FILE = 100_000
TILES = [(uid, panel) for uid, panel in panels() if panel["type"] == "stat"]

each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
each_panel = pytest.mark.parametrize(
    "panel", [panel for _, panel in panels()], ids=[f"{uid}-{panel['id']}" for uid, panel in panels()]
)
each_tile = pytest.mark.parametrize("panel", [t for _, t in TILES], ids=[t["title"] for _, t in TILES])
each_target = pytest.mark.parametrize(
    "target", [t for _, t in targets()], ids=[where for where, _ in targets()]
)


@pytest.mark.parametrize("file", generated(), ids=lambda file: file.name)
def test_what_is_committed_is_what_is_built(file: Any) -> None:
    assert file.read_text(encoding="utf-8") == generated()[file], "run `make dashboards`"


def test_no_built_file_is_left_over() -> None:
    assert set((DEPLOY / "grafana" / "dashboards").iterdir()) <= set(generated())


@each_dashboard
def test_a_dashboard_says_who_it_is(dashboard: dict[str, Any]) -> None:
    assert re.fullmatch(r"lockstep-\w+", dashboard["uid"])
    assert dashboard["title"].startswith("Lockstep / ")
    assert dashboard["description"].endswith("?")
    assert dashboard["schemaVersion"] == SCHEMA_VERSION
    assert "id" not in dashboard, "Grafana gives it"
    assert dashboard["editable"] is False, "a change in the browser would be lost"
    assert dashboard["refresh"]


def test_dashboards_differ_in_uid_and_title() -> None:
    assert len({one["title"] for one in DASHBOARDS.values()}) == len(DASHBOARDS) == 4


@each_dashboard
def test_dashboards_link_to_one_another_and_take_the_variables_along(dashboard: dict[str, Any]) -> None:
    [link] = dashboard["links"]
    assert link["type"] == "dashboards"
    assert set(link["tags"]) <= set(dashboard["tags"])
    assert link["includeVars"]
    assert link["keepTime"]


@each_dashboard
def test_variables_choose_datasource_job_instance_and_model(dashboard: dict[str, Any]) -> None:
    source, *labels = dashboard["templating"]["list"]
    assert (source["type"], source["query"], source["name"]) == ("datasource", "prometheus", "datasource")
    assert [one["name"] for one in labels] == ["job", "instance", "model"]
    for one in labels:
        assert one["multi"]
        assert one["includeAll"]
        assert one["allValue"] == ".*"
        assert one["refresh"] == 2, "with the time range too"
        assert one["datasource"]["uid"] == "${datasource}"
        metric = re.match(r"label_values\((\w+)", one["definition"])
        assert metric
        assert metric[1] in SERVED


@each_dashboard
def test_the_grid_has_no_overlap_and_no_gap_to_the_side(dashboard: dict[str, Any]) -> None:
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
    assert {y for _, y in taken} == set(range(depth)), "rows of nothing"


@each_dashboard
def test_ids_are_unique_and_small_files_are_kept(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert (DEPLOY / "grafana" / "dashboards" / f"{dashboard['uid']}.json").stat().st_size < LARGEST_FILE


def test_a_title_names_one_panel() -> None:
    titles = [panel["title"] for _, panel in panels()]
    assert len(set(titles)) == len(titles)


@each_panel
def test_a_panel_has_title_description_unit_kind_and_queries(panel: dict[str, Any]) -> None:
    assert panel["type"] in KINDS
    assert panel["title"][0].isupper()
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@each_panel
def test_thresholds_rise_from_a_colour_for_all(panel: dict[str, Any]) -> None:
    first, *rest = [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
    assert first is None
    assert rest == sorted(rest)


@each_panel
def test_curves_of_several_series_have_legends_that_tell_them_apart(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        grouped = _grouped_by(target["expr"])
        if panel["type"] in ("timeseries", "state-timeline"):
            assert named == grouped, target["expr"]
        elif panel["type"] in ("table", "barchart"):
            assert target["legendFormat"], "a column's title"


@each_panel
def test_kinds_ask_in_their_form(panel: dict[str, Any]) -> None:
    wanted = {"heatmap": "heatmap", "table": "table", "barchart": "table"}.get(panel["type"], "time_series")
    for target in panel["targets"]:
        assert target["format"] == wanted
        assert target["instant"] is (wanted == "table")
        if wanted == "heatmap":
            assert target["legendFormat"] == "{{le}}"


@each_target
def test_a_query_asks_the_chosen_datasource_job_instance_and_model(target: dict[str, Any]) -> None:
    assert target["datasource"]["uid"] == "${datasource}"
    for metric, matchers in selectors(target["expr"]):
        if metric == "ALERTS":
            continue
        assert matchers.get("job") == "=~$job", metric
        if metric not in RECORDED:
            assert matchers.get("instance") == "=~$instance", metric
        if metric in RECORDED or "model" in SERVED.get(metric, ()):
            assert matchers.get("model", "").startswith("=~$model"), metric


@each_target
def test_a_query_reads_what_the_server_tells_by_labels_that_it_has(target: dict[str, Any]) -> None:
    found = selectors(target["expr"])
    assert found
    for metric, matchers in found:
        assert metric in SERVED or metric in RECORDED or metric in PROMETHEUS_OWN
        if metric in SERVED:
            assert set(matchers) - TARGET_LABELS <= SERVED[metric], metric
            assert _grouped_by(target["expr"]) <= set().union(
                *(SERVED.get(one.metric, set()) for one in found), TARGET_LABELS, {"version"}
            )


@each_target
def test_counters_are_read_as_rates_over_grafanas_interval(target: dict[str, Any]) -> None:
    expression = target["expr"]
    for metric, _ in selectors(expression):
        if metric.endswith(("_total", "_bucket", "_sum", "_count")):
            assert re.search(rf"(rate|increase)\({metric}\{{[^}}]*\}}\[", expression), metric
    assert set(re.findall(r"\[([^\]]*)\]", expression)) <= {"$__rate_interval", "$__range"}
    assert "irate(" not in expression


@each_tile
def test_a_tile_shows_its_last_value_and_tells_where_that_is_no_number(panel: dict[str, Any]) -> None:
    """`lastNotNull` would pass over it, to a number of back then; so would a curve that just ends."""
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
def test_tiles_have_one_value_though_no_server_is_read(tmp_path: Path) -> None:
    asked = [filled_in(DASHBOARDS[uid], tile["targets"][0]["expr"], 15, 1800) for uid, tile in TILES]
    once = {"eval_time": "1h", "exp_samples": [{"labels": "{}", "value": 1}]}
    file = tmp_path / "tiles.yml"
    tests = [{"input_series": [], "promql_expr_test": [{"expr": f"count({one})", **once} for one in asked]}]
    file.write_text(yaml.safe_dump({"tests": tests}))
    promtool("test", "rules", str(file))


def _grouped_by(expression: str) -> set[str]:
    """Labels of the answer: those of the outermost aggregation."""
    groups = re.findall(r"\b(?:sum|max|count|min|avg) by \(([^)]*)\)", expression)
    return {label.strip() for group in groups[:1] for label in group.split(",")} - {"le"}
