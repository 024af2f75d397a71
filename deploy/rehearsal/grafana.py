"""The queries that Grafana would send for the committed dashboards, with all variables filled in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"


class PanelQuery(NamedTuple):
    """One query of a panel, with its variables filled in."""

    dashboard: str
    panel: dict[str, Any]
    target: dict[str, Any]
    expression: str

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel['title']} {self.target['refId']}"


def dashboards() -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.json"))]


def queries(dashboard: dict[str, Any], scrape_s: float, range_s: float) -> Iterator[PanelQuery]:
    """Yield every query of a dashboard, with all jobs, instances and models selected."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield PanelQuery(
                dashboard["title"], panel, target, filled_in(dashboard, target["expr"], scrape_s, range_s)
            )


def filled_in(dashboard: dict[str, Any], expression: str, scrape_s: float, range_s: float) -> str:
    """Replace variables as Grafana does: `$__rate_interval` is four scrapes, and "All" is the `allValue`."""
    values = {one["name"]: one.get("allValue", "") for one in dashboard["templating"]["list"]}
    values |= {"__rate_interval": f"{4 * scrape_s:g}s", "__range": f"{range_s:.0f}s"}
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], expression)


def variables(dashboard: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (name, label, selector) of each variable over label values."""
    for one in dashboard["templating"]["list"]:
        if one["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", one["definition"])
            assert match, one["definition"]
            yield one["name"], match[2], filled_in(dashboard, match[1], 1, 1)
