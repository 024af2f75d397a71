"""Every shipped expression returns data from a real Prometheus, without errors.

Differences to the shipped configuration: the target (targets/lockstep.yml, which users edit), and scrape and
evaluation intervals of one second, for long windows too.
"""

from __future__ import annotations

import re
import statistics
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from contract.containers import KUBERNETES, read_yaml
from contract.deployed import RULES
from patience import limit_s, wait_until

from deploy.rehearsal import grafana
from deploy.rehearsal.processes import SCRAPE_S
from deploy.rehearsal.traffic import MODELS

if TYPE_CHECKING:
    from observability.conftest import Run

    from deploy.rehearsal.prometheus import Curve

pytestmark = [pytest.mark.observability, pytest.mark.timeout(limit_s(240))]

DASHBOARDS = {board["title"]: board for board in grafana.dashboards()}

_COMPARISON = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*-?[\d.]+")
"""A comparison with a number. Label matchers compare with a string."""


@pytest.mark.parametrize("title", DASHBOARDS)
def test_every_panel_has_data(run: Run, title: str) -> None:
    """The load goes on meanwhile: what it has not shown yet on a busy machine, it shows later."""

    def empty() -> list[str]:
        queries = list(grafana.queries(DASHBOARDS[title], SCRAPE_S, run.seconds))
        assert queries
        lacking = [query for query in queries if not results(run, query) and not needs_gpu(run, query)]
        return [f"{query}: {query.expression}" for query in lacking]

    with suppress(AssertionError):
        wait_until(lambda: not empty(), title)
    assert empty() == []


@pytest.mark.parametrize("title", DASHBOARDS)
def test_every_variable_has_values(run: Run, title: str) -> None:
    for _, label, selector in grafana.variables(DASHBOARDS[title]):
        assert run.prometheus.label_values(label, selector)


@pytest.mark.parametrize("title", DASHBOARDS)
def test_every_annotation_is_valid(run: Run, title: str) -> None:
    """No engine has restarted, so only the expression before the comparison must have data."""
    for annotation in DASHBOARDS[title]["annotations"]["list"]:
        expression = grafana.filled_in(DASHBOARDS[title], annotation["expr"], SCRAPE_S, run.seconds)
        run.prometheus.over(expression, run.since)
        assert run.prometheus.over(without_comparisons(expression), run.since)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_rule_has_data(run: Run, rule: dict[str, Any]) -> None:
    """An alert that does not fire returns nothing, so the compared expression must have data."""
    run.prometheus.now(rule["expr"])
    if "record" in rule:
        assert run.prometheus.now(rule["record"])
    else:
        assert run.prometheus.now(without_comparisons(rule["expr"]))


def test_every_rule_is_evaluated_without_an_error(run: Run) -> None:
    rules = run.prometheus.rules()
    assert len(rules) == len(RULES)
    assert [rule for rule in rules if rule.get("lastError")] == []


def test_autoscaling_triggers_have_one_value(run: Run) -> None:
    file = KUBERNETES / "components/keda/scaledobject.yaml"
    for trigger in read_yaml(file)["spec"]["triggers"]:
        assert len(run.prometheus.now(trigger["metadata"]["query"])) == 1, trigger["name"]


def test_queries_with_exemplars_return_exemplars(run: Run) -> None:
    queries = [
        query
        for dashboard in DASHBOARDS.values()
        for query in grafana.queries(dashboard, SCRAPE_S, run.seconds)
        if query.target["exemplar"]
    ]
    assert queries
    for query in queries:
        found = run.prometheus.exemplars(query.expression, run.since)
        traces = [exemplar["labels"].get("trace_id") for series in found for exemplar in series["exemplars"]]
        assert any(traces), str(query)


def test_accepted_requests_have_ended_or_are_in_flight(run: Run) -> None:
    """Lost requests would add up. One scrape may be off, because it can read in the middle of a burst."""
    lost = run.prometheus.over(
        "sum by (model) (lockstep_accepted_total) - sum by (model) (lockstep_requests_total)"
        " - sum by (model) (lockstep_queue_depth)",
        run.since,
    )
    assert {curve.labels["model"] for curve in lost} >= set(MODELS)
    for curve in lost:
        assert abs(statistics.median(curve.values)) < 10, curve.labels


def test_without_comparisons_keeps_label_matchers() -> None:
    assert without_comparisons('up{job!="a", x=~"1"} == 0') == 'up{job!="a", x=~"1"}'
    assert without_comparisons("a > 14.4\n  and b * 3600 >= 5") == "a\n  and b * 3600"


def results(run: Run, query: grafana.PanelQuery) -> list[Curve]:
    """Run an instant or a range query, as Grafana does."""
    if query.target["instant"]:
        return run.prometheus.now(query.expression)
    return run.prometheus.over(query.expression, run.since)


def needs_gpu(run: Run, query: grafana.PanelQuery) -> bool:
    """Whether the query reads GPU metrics on a server without a GPU."""
    return "lockstep_gpu_" in query.expression and "lockstep_gpu_" not in run.metrics


def without_comparisons(expression: str) -> str:
    return _COMPARISON.sub("", expression)
