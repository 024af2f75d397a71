"""Dashboards as plain data, and the JSON that Grafana's file provisioning takes.

queries -> panels -> rows -> a dashboard -> `to_json`: panels are laid out from left to right on
Grafana's 24 columns, and get their ids in reading order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .around import DATASOURCE, LINKS, RESTARTS, TAG, VARIABLES, Json

COLUMNS = 24
SCHEMA_VERSION = 42
"""Of Grafana 12.2 and later; older ones open it, newer ones migrate it."""

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"

Threshold = tuple[float, str]
"""From this value on, this colour."""


@dataclass(frozen=True)
class Query:
    """One expression. `legend` may hold labels as `{{model}}`."""

    expr: str
    legend: str = ""
    exemplars: bool = False  # offer traces beside the curve

    def to_json(self, ref: str, form: str, instant: bool) -> Json:
        return {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "exemplar": self.exemplars,
            "expr": self.expr,
            "format": form,
            "instant": instant,
            "legendFormat": self.legend,
            "range": not instant,
            "refId": ref,
        }


@dataclass(frozen=True)
class Panel:
    """What is drawn. `description` tells what the panel answers; docs/observability.md what to do."""

    kind: str  # Grafana's type of panel
    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    thresholds: tuple[Threshold, ...] = ()
    base: str = GREEN  # the colour below the first threshold
    form: str = "time_series"
    instant: bool = False
    options: Json = field(default_factory=dict)
    custom: Json = field(default_factory=dict)  # how the fields are drawn
    field_options: Json = field(default_factory=dict)  # min, max, mappings, ...
    transformations: tuple[Json, ...] = ()
    overrides: tuple[Json, ...] = ()  # of single fields

    def to_json(self, number: int, x: int, y: int) -> Json:
        steps: list[Json] = [{"color": self.base, "value": None}]
        steps += [{"color": colour, "value": value} for value, colour in self.thresholds]
        defaults = {
            "unit": self.unit,
            "color": {"mode": "thresholds" if self.kind == "stat" else "palette-classic"},
            "thresholds": {"mode": "absolute", "steps": steps},
            "custom": self.custom,
            **self.field_options,
        }
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "fieldConfig": {"defaults": defaults, "overrides": list(self.overrides)},
            "options": self.options,
            "targets": [
                query.to_json(chr(ord("A") + index), self.form, self.instant)
                for index, query in enumerate(self.queries)
            ],
            "transformations": list(self.transformations),
        }


@dataclass(frozen=True)
class DashboardRow:
    """Panels under a title."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One page."""

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
            "graphTooltip": 1,  # one crosshair for all panels
            "refresh": "15s",
            "time": {"from": "now-30m", "to": "now"},
            "timezone": "browser",
            "links": [LINKS],
            "annotations": {"list": [RESTARTS]},
            "templating": {"list": VARIABLES},
            "panels": _lay_out(self.rows),
        }


def _lay_out(rows: tuple[DashboardRow, ...]) -> list[Json]:
    """Rows below one another, each row's panels from left to right, wrapped at the last column."""
    made: list[Json] = []
    y = 0
    for row in rows:
        made.append(_row(row.title, len(made) + 1, y))
        x, y, tallest = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            made.append(panel.to_json(len(made) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return made


def _row(title: str, number: int, y: int) -> Json:
    place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
