"""The committed dashboards and rules, and the metrics and labels that their expressions use."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from contract.containers import read_yaml
from prometheus_client import CollectorRegistry

from deploy.rehearsal.grafana import dashboards
from lockstep_server.metrics.families import Metrics
from lockstep_server.metrics.gpus import Gpus

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = {board["uid"]: board for board in dashboards()}
RULES = [
    rule
    for file in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
    for group in read_yaml(file)["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
PROMETHEUS_OWN = {"up", "scrape_duration_seconds", "ALERTS"}
TARGET_LABELS = {"job", "instance", "le"}

_KEYWORDS = {
    "and",
    "or",
    "unless",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "offset",
}


class Selector(NamedTuple):
    """A metric in an expression, with its label matchers."""

    metric: str
    matchers: dict[str, str]


def panels() -> list[tuple[str, dict[str, Any]]]:
    """(dashboard uid, panel) pairs, without row titles."""
    return [
        (uid, panel)
        for uid, dashboard in DASHBOARDS.items()
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    ]


def targets() -> list[tuple[str, dict[str, Any]]]:
    """(location, query) pairs of all panels."""
    return [(f"{uid}: {p['title']} {t['refId']}", t) for uid, p in panels() for t in p["targets"]]


def selectors(expression: str) -> list[Selector]:
    """Return all metrics that an expression reads, with their label matchers."""
    bare = re.sub(r"\b(by|on|ignoring|without|group_left)\s*\([^)]*\)", " ", expression)
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    found = re.findall(r"([a-zA-Z_][\w:]*)\s*(\{[^}]*\}|\()?", _without_strings(bare))
    named = [(name, block) for name, block in found if block != "(" and name not in _KEYWORDS]
    blocks = re.findall(r"\{([^}]*)\}", bare)
    assert len(blocks) == sum(block.startswith("{") for _, block in named), expression
    filled = iter(blocks)
    return [Selector(name, _matchers(next(filled)) if block else {}) for name, block in named]


def _without_strings(expression: str) -> str:
    return re.sub(r'"[^"]*"', '""', expression)


def _matchers(block: str) -> dict[str, str]:
    parts = re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', block)
    return {label: operator + value for label, operator, value in parts}


def exported() -> dict[str, set[str]]:
    """Return the labels of every sample of a server, by sample name, from a real registry."""
    registry = CollectorRegistry()
    Metrics(registry).watch_engine(os.getpid)
    registry.register(Gpus(_ONE_GPU))
    found: dict[str, set[str]] = {}
    for collector in list(registry._collector_to_names):
        for family in collector.collect():
            labels = set(getattr(collector, "_labels", ())) | {k for s in family.samples for k in s.labels}
            for name in _samples(family):
                found[name] = found.get(name, set()) | labels
    return found


_ONE_GPU = SimpleNamespace(
    NVMLError=RuntimeError,
    nvmlDeviceGetCount=lambda: 1,
    nvmlDeviceGetHandleByIndex=lambda index: index,
    nvmlDeviceGetName=lambda _: "a GPU",
    nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=50),
    nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=1, total=2),
)


def _samples(family: Any) -> list[str]:
    if family.type == "histogram":
        return [f"{family.name}_{part}" for part in ("bucket", "sum", "count")]
    if family.type == "counter":
        return [f"{family.name}_total"]
    return [family.name]
