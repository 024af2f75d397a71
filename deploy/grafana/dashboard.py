"""Dashboards as plain data, and their conversion to the JSON of Grafana's file provisioning.

Query -> Panel -> DashboardRow -> Dashboard -> to_json(), which places the panels of a row from left to right
on Grafana's 24 columns and numbers them in reading order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .dashboard_settings import DATASOURCE, ENGINE_RESTARTS, LINKS, TAG, VARIABLES, Json, panel_links

COLUMNS = 24
SCHEMA_VERSION = 42
"""Schema of Grafana 12.2. Older versions can open it; newer versions migrate it."""

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"

Threshold = tuple[float, str]
"""(value, colour): the colour applies from this value on."""


@dataclass(frozen=True)
class Query:
    """One PromQL expression. `legend` may contain labels, such as `{{model}}`."""

    expr: str
    legend: str = ""
    exemplars: bool = False  # show exemplars, which link to traces

    def to_json(self, ref: str, format_: str, instant: bool) -> Json:
        return {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "exemplar": self.exemplars,
            "expr": self.expr,
            "format": format_,
            "instant": instant,
            "legendFormat": self.legend,
            "range": not instant,
            "refId": ref,
        }


@dataclass(frozen=True)
class Panel:
    """One panel. `description` explains what it shows; docs/observability.md explains what to do."""

    type: str  # Grafana's panel type
    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    thresholds: tuple[Threshold, ...] = ()
    base_colour: str = GREEN  # below the first threshold
    format: str = "time_series"
    instant: bool = False
    options: Json = field(default_factory=dict)
    custom: Json = field(default_factory=dict)  # drawing options of the fields
    field_options: Json = field(default_factory=dict)  # min, max, mappings, ...
    transformations: tuple[Json, ...] = ()
    overrides: tuple[Json, ...] = ()  # options of single fields

    def to_json(self, number: int, x: int, y: int, section: str) -> Json:
        """`section` is the anchor in docs/observability.md. Panels of times link to the recorder."""
        steps: list[Json] = [{"color": self.base_colour, "value": None}]
        steps += [{"color": colour, "value": value} for value, colour in self.thresholds]
        defaults = {
            "unit": self.unit,
            "color": {"mode": "thresholds" if self.type == "stat" else "palette-classic"},
            "thresholds": {"mode": "absolute", "steps": steps},
            "custom": self.custom,
            **self.field_options,
        }
        return {
            "id": number,
            "type": self.type,
            "title": self.title,
            "description": self.description,
            "links": panel_links(section, recorder=self.unit == "s"),
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "fieldConfig": {"defaults": defaults, "overrides": list(self.overrides)},
            "options": self.options,
            "targets": [
                query.to_json(chr(ord("A") + index), self.format, self.instant)
                for index, query in enumerate(self.queries)
            ],
            "transformations": list(self.transformations),
        }


@dataclass(frozen=True)
class DashboardRow:
    """A titled row of panels."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One dashboard. `description` is the question it answers."""

    uid: str
    title: str
    description: str
    rows: tuple[DashboardRow, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)

    def to_json(self) -> Json:
        return {
            "uid": self.uid,
            "title": f"Lockstep / {self.title}",
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "editable": False,
            "graphTooltip": 1,  # shared crosshair
            "refresh": "15s",
            "time": {"from": "now-30m", "to": "now"},
            "timezone": "browser",
            "links": [LINKS],
            "annotations": {"list": [ENGINE_RESTARTS]},
            "templating": {"list": VARIABLES},
            "panels": _lay_out(self.rows, self.title.lower().replace(" ", "-")),
        }


def _lay_out(rows: tuple[DashboardRow, ...], section: str) -> list[Json]:
    """Place rows below one another, with panels from left to right, wrapped at the last column."""
    placed: list[Json] = []
    y = 0
    for row in rows:
        placed.append(_row(row.title, len(placed) + 1, y))
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            placed.append(panel.to_json(len(placed) + 1, x, y, section))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return placed


def _row(title: str, number: int, y: int) -> Json:
    place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
