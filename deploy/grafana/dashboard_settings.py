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
