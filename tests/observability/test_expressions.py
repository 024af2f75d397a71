"""Every expression that is shipped, asked of a real Prometheus: no error, and no empty answer.

Only the target is another one than is shipped (targets/lockstep.yml, the file that users change), it is
scraped every second, and long windows are evaluated as often as short ones.
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from deploy.rehearsal import grafana
from deploy.rehearsal.stage import SCRAPE_S
from deploy.rehearsal.traffic import MODELS

if TYPE_CHECKING:
    from observability.conftest import Run

    from deploy.rehearsal.prometheus import Curve

pytestmark = [pytest.mark.observability, pytest.mark.timeout(240)]

DASHBOARDS = {one["title"]: one for one in grafana.dashboards()}
RULES = [
    rule
    for file in sorted((Path(__file__).parents[2] / "deploy/prometheus/rules").glob("*.yml"))
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]

_COMPARISON = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*-?[\d.]+")
"""With a number. Those of matchers are with a string."""


@pytest.mark.parametrize("title", DASHBOARDS)
def test_every_panel_has_data(run: Run, title: str) -> None:
    asked = list(grafana.asked(DASHBOARDS[title], SCRAPE_S, run.seconds))
    assert asked
    empty = [one for one in asked if not answers(run, one) and not is_excused(run, one)]
    assert [f"{one}: {one.expression}" for one in empty] == []


@pytest.mark.parametrize("title", DASHBOARDS)
def test_every_variable_has_values_to_choose_from(run: Run, title: str) -> None:
    for _, label, selector in grafana.variables(DASHBOARDS[title]):
        assert run.prometheus.label_values(label, selector)


@pytest.mark.parametrize("title", DASHBOARDS)
def test_every_annotation_can_be_asked(run: Run, title: str) -> None:
    """Nothing has restarted: it is the number before the comparison that must be there."""
    for one in DASHBOARDS[title]["annotations"]["list"]:
        expression = grafana.filled_in(DASHBOARDS[title], one["expr"], SCRAPE_S, run.seconds)
        run.prometheus.over(expression, run.since)
        assert run.prometheus.over(without_comparisons(expression), run.since)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_rule_has_data(run: Run, rule: dict[str, Any]) -> None:
    """An alert that does not fire is empty: it is what it compares that must be there."""
    run.prometheus.now(rule["expr"])
    if "record" in rule:
        assert run.prometheus.now(rule["record"])
    else:
        assert run.prometheus.now(without_comparisons(rule["expr"]))


def test_every_rule_is_evaluated_without_an_error(run: Run) -> None:
    found = run.prometheus.rules()
    assert len(found) == len(RULES)
    assert [rule for rule in found if rule.get("lastError")] == []


def test_panels_that_offer_traces_have_exemplars(run: Run) -> None:
    offered = [
        one
        for dashboard in DASHBOARDS.values()
        for one in grafana.asked(dashboard, SCRAPE_S, run.seconds)
        if one.target["exemplar"]
    ]
    assert offered
    for one in offered:
        found = run.prometheus.exemplars(one.expression, run.since)
        traces = [trace["labels"].get("trace_id") for series in found for trace in series["exemplars"]]
        assert any(traces), str(one)


def test_what_was_accepted_has_ended_or_is_in_flight(run: Run) -> None:
    """What is not would add up. A scrape may meet a burst half counted: it reads on another thread."""
    lost = run.prometheus.over(
        "sum by (model) (lockstep_accepted_total) - sum by (model) (lockstep_requests_total)"
        " - sum by (model) (lockstep_queue_depth)",
        run.since,
    )
    assert {curve.labels["model"] for curve in lost} >= set(MODELS)
    for curve in lost:
        assert abs(statistics.median(curve.values)) < 10, curve.labels


def test_comparisons_are_taken_off_and_matchers_are_not() -> None:
    """What the tests of alerts rest on."""
    assert without_comparisons('up{job!="a", x=~"1"} == 0') == 'up{job!="a", x=~"1"}'
    assert without_comparisons("a > 14.4\n  and b * 3600 >= 5") == "a\n  and b * 3600"


def answers(run: Run, one: grafana.PanelQuery) -> list[Curve]:
    """As Grafana asks: now, or over the time shown."""
    if one.target["instant"]:
        return run.prometheus.now(one.expression)
    return run.prometheus.over(one.expression, run.since)


def is_excused(run: Run, one: grafana.PanelQuery) -> bool:
    """Panels of a GPU, where the server sees none."""
    return "lockstep_gpu_" in one.expression and "lockstep_gpu_" not in run.page


def without_comparisons(expression: str) -> str:
    return _COMPARISON.sub("", expression)
