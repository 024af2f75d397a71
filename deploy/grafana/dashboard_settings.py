"""Settings that all dashboards share: variables, links and annotations."""

from __future__ import annotations

from typing import Any

from .promql import SERVER, select

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "lockstep"


def _label_variable(name: str, label: str, query: str) -> Json:
    """A multi-select variable over the values of a label, with all values selected by default."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "A"},
        "definition": query,
        "refresh": 2,  # reload when the time range changes, because the set of models may change
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _address(name: str, label: str, url: str) -> Json:
    """A hidden variable with the address of a site. `var-NAME=` in the dashboard's address changes it."""
    return {
        "name": name,
        "label": label,
        "type": "textbox",
        "query": url,
        "current": {"selected": True, "text": url, "value": url},
        "options": [],
        "hide": 2,
    }


VARIABLES: list[Json] = [
    {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "current": {},
    },
    _label_variable("job", "Job", "label_values(lockstep_queue_depth, job)"),
    _label_variable("instance", "Instance", 'label_values(lockstep_queue_depth{job=~"$job"}, instance)'),
    _label_variable(
        "model", "Model", 'label_values(lockstep_queue_depth{job=~"$job", instance=~"$instance"}, model)'
    ),
    _address("docs", "Documents", "http://localhost:8000"),  # make docs-serve
    _address("page", "Page", "http://localhost:8003"),  # lockstep ui
]


def panel_links(section: str, *, recorder: bool) -> list[Json]:
    """Links of a panel: to what to do when it looks wrong, and to the flight recorder."""
    runbook = ("When it looks wrong", f"${{docs:raw}}/observability.html#{section}")
    slow = ("Why was this slow", "${docs:raw}/observability.html#why-was-this-slow")
    runs = ("Latest runs", "${page:raw}/#lockstep")
    return [
        {"title": title, "type": "link", "url": url, "targetBlank": True}
        for title, url in (runbook, *((slow, runs) if recorder else ()))
    ]


LINKS: Json = {
    "title": "Lockstep",
    "type": "dashboards",
    "tags": [TAG],
    "asDropdown": False,
    "includeVars": True,
    "keepTime": True,
    "targetBlank": False,
}

ENGINE_RESTARTS: Json = {
    "name": "Engine restarts",
    "datasource": DATASOURCE,
    "enable": True,
    "hide": False,
    "iconColor": "red",
    "expr": f"increase({select('lockstep_engine_restarts_total', scope=SERVER)}[$__rate_interval]) > 0",
    "step": "15s",
    "titleFormat": "Engine process restarted",
}
