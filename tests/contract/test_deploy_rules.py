"""Recording rules and alerts are valid, have promtool tests for firing and silence, and runbook entries."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
from contract.containers import read_yaml
from contract.deployed import (
    ALERTS,
    DEPLOY,
    PROMETHEUS_OWN,
    RECORDED,
    RULES,
    TARGET_LABELS,
    exported,
    selectors,
)
from patience import PATIENCE_S

from deploy.prometheus import objectives
from deploy.prometheus.burn_rates import WINDOWS
from lockstep_server.errors import ErrorCode
from lockstep_server.metrics.families import Metrics

PROMETHEUS = DEPLOY / "prometheus"
EXPORTED = exported()
OUTCOMES = {code.value for code in ErrorCode} | {"ok"}
BURN_RATES = read_yaml(PROMETHEUS / "rules" / "objectives.yml")["groups"]
STALE_S = 300
"""Prometheus uses a recorded value for this long."""

TESTS = [test for file in sorted((PROMETHEUS / "tests").glob("*.yml")) for test in read_yaml(file)["tests"]]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (apt install prometheus)"
)
each_alert = pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS)


def promtool(*arguments: str) -> None:
    ended = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@needs_promtool
def test_the_configuration_and_its_rules_are_valid() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


@needs_promtool
@pytest.mark.parametrize("file", sorted((PROMETHEUS / "tests").glob("*.yml")), ids=lambda file: file.name)
def test_alerts_pass_their_promtool_tests(file: Any) -> None:
    promtool("test", "rules", str(file))


@each_alert
def test_each_alert_is_tested_firing_and_silent(alert: dict[str, Any]) -> None:
    fires = [
        bool(one.get("exp_alerts"))
        for test in TESTS
        for one in test.get("alert_rule_test", ())
        if one["alertname"] == alert["alert"]
    ]
    # An alert per model or instance may be silent for the other series of the same test.
    others = [
        test for test in TESTS if len({_subject(series["series"]) for series in test["input_series"]}) > 1
    ]
    assert any(fires)
    assert not all(fires) or any(
        one["alertname"] == alert["alert"] for test in others for one in test.get("alert_rule_test", ())
    )


@each_alert
def test_each_alert_has_a_severity_a_summary_and_a_runbook(alert: dict[str, Any]) -> None:
    assert alert["alert"].startswith("Lockstep")
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/observability.md#{alert['alert'].lower()}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_each_rule_reads_existing_metrics_and_labels(rule: dict[str, Any]) -> None:
    for metric, matchers in selectors(rule["expr"]):
        assert metric in EXPORTED or metric in RECORDED or metric in PROMETHEUS_OWN
        if metric in EXPORTED:
            assert set(matchers) - TARGET_LABELS <= EXPORTED[metric], metric


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_each_rule_matches_existing_outcomes(rule: dict[str, Any]) -> None:
    for _, matchers in selectors(rule["expr"]):
        assert _outcomes(matchers) <= OUTCOMES


@pytest.mark.parametrize("group", BURN_RATES, ids=lambda group: group["name"])
def test_long_windows_are_evaluated_less_often_but_never_stale(group: dict[str, Any]) -> None:
    read = {w for rule in group["rules"] for w in re.findall(r"\[(\w+)\]", rule["expr"])}
    if "interval" in group:
        assert min(WINDOWS[window] for window in read) >= WINDOWS["6h"]
        assert 15 < 60 * int(group["interval"].removesuffix("m")) <= STALE_S / 2
        assert not any("alert" in rule for rule in group["rules"]), "it would fire late"
    else:
        assert max(WINDOWS[window] for window in read) < WINDOWS["6h"]


def test_the_operator_object_has_the_same_rules() -> None:
    file = read_yaml(DEPLOY / "kubernetes/components/monitoring/prometheusrule.yaml")
    groups = file["spec"]["groups"]
    assert [rule for group in groups for rule in group["rules"]] == RULES
    assert [group for group in groups if "interval" in group] == [g for g in BURN_RATES if "interval" in g]


def test_rule_names_are_unique() -> None:
    assert len(RECORDED) + len(ALERTS) == len(RULES)


@pytest.mark.parametrize("objective", objectives.OBJECTIVES, ids=lambda objective: objective.name)
def test_each_objective_matches_existing_outcomes(objective: objectives.Objective) -> None:
    for term in (*objective.bad, *objective.total):
        [(_, matchers)] = selectors(f"{term.metric}{{{term.matchers}}}")
        assert _outcomes(matchers) <= OUTCOMES


def test_latency_objectives_use_histogram_bounds() -> None:
    terms = [term for objective in objectives.OBJECTIVES for term in objective.bad if term.above]
    assert len(terms) == 2
    for term in terms:
        assert float(term.above) in _bounds(term.metric)


def _bounds(metric: str) -> list[float]:
    """The bucket bounds of a histogram of the server."""
    family = getattr(Metrics(), metric.removeprefix("lockstep_"))
    return list(family.labels(*EXPORTED[f"{metric}_count"]).bounds)


def _outcomes(matchers: dict[str, str]) -> set[str]:
    """The outcomes and error codes that a selector names."""
    values = (matchers[label] for label in ("outcome", "code") if label in matchers)
    return {outcome for value in values for outcome in value.lstrip("!=~").split("|")}


def _subject(series: str) -> tuple[str, str]:
    [(_, matchers)] = selectors(series)
    return matchers.get("model", ""), matchers.get("instance", "")
