"""The kinds of panels that the dashboards use, each with one way to be drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .parts import Panel, Query
from .promql import or_no_number

if TYPE_CHECKING:
    from .around import Json

_LEGEND: Json = {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["mean", "max"]}
_TOOLTIP: Json = {"mode": "multi", "sort": "desc"}

_NO_DATA = "no data"


def curves(
    title: str,
    unit: str,
    description: str,
    *queries: Query,
    stacked: bool = False,
    limit: str = "",
    **more: Any,
) -> Panel:
    """Values over time. `limit` draws the thresholds: as "line" or "dashed"."""
    return Panel(
        "timeseries",
        title,
        description,
        unit,
        queries,
        options={"legend": _LEGEND, "tooltip": _TOOLTIP},
        custom={
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if stacked else 8,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": limit or "off"},
        },
        field_options={"min": 0, **more.pop("field_options", {})},
        **more,
    )


def number(
    title: str, unit: str, description: str, query: Query, *, without: str = _NO_DATA, **more: Any
) -> Panel:
    """The last value of a query without labels, coloured by its thresholds, with its course behind.

    `without` is what it says where that is no number: a share of nothing, or a server that is gone.
    A curve that ends would leave its last number behind, so it is made to go on without one.
    """
    return Panel(
        "stat",
        title,
        description,
        unit,
        (replace(query, expr=or_no_number(query.expr)),),
        width=more.pop("width", 4),
        height=4,
        options={
            # Not "lastNotNull": it passes NaN over too, back to the last good value.
            "reduceOptions": {"calcs": ["last"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "textMode": "value",
            "wideLayout": True,
        },
        field_options={
            "noValue": _NO_DATA,
            "mappings": [_without_number(without)],
            **more.pop("field_options", {}),
        },
        **more,
    )


def heat_map(title: str, unit: str, description: str, query: Query, **more: Any) -> Panel:
    """How many observations fell between two bounds of a histogram, over time."""
    return Panel(
        "heatmap",
        title,
        description,
        unit,
        (query,),
        form="heatmap",
        options={
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Turbo", "steps": 64, "exponent": 0.5, "reverse": False},
            "exemplars": {"color": "rgba(255, 0, 255, 0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "showColorScale": True, "yHistogram": True},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
        },
        **more,
    )


def table(
    title: str, unit: str, description: str, *columns: Query, counted: tuple[str, ...] = (), **more: Any
) -> Panel:
    """A line for each combination of labels, a column for each query, named by its legend.

    `counted` are labels that are whole numbers: lines are sorted by their value.
    """
    return Panel(
        "table",
        title,
        description,
        unit,
        columns,
        form="table",
        instant=True,
        options={
            "cellHeight": "sm",
            "showHeader": True,
            "footer": {"show": False},
            "sortBy": [
                {"displayName": one, "desc": False} for one in (("model", *counted) if counted else ())
            ],
        },
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True},
        transformations=(*_joined(columns), *map(_as_number, counted)),
        overrides=tuple(map(_without_unit, counted)),
        **more,
    )


def bars(title: str, unit: str, description: str, *columns: Query, group: str, **more: Any) -> Panel:
    """Groups of bars side by side: a group for each value of the label `group`, a bar for each query."""
    return Panel(
        "barchart",
        title,
        description,
        unit,
        columns,
        form="table",
        instant=True,
        options={
            "xField": group,
            "orientation": "auto",
            "groupWidth": 0.8,
            "barWidth": 0.95,
            "showValue": "never",
            "stacking": "none",
            "legend": {**_LEGEND, "displayMode": "list", "calcs": []},
            "tooltip": _TOOLTIP,
        },
        custom={"fillOpacity": 80, "lineWidth": 1},
        field_options={"min": 0},
        transformations=_joined(columns),
        **more,
    )


def states(title: str, description: str, query: Query, *, off: str, on: str, **more: Any) -> Panel:
    """0 and 1 over time, in words."""
    words = {
        "0": {"text": off, "color": "red", "index": 0},
        "1": {"text": on, "color": "green", "index": 1},
    }
    return Panel(
        "state-timeline",
        title,
        description,
        "short",
        (query,),
        options={
            "mergeValues": True,
            "showValue": "never",
            "rowHeight": 0.8,
            "alignValue": "left",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "single"},
        },
        custom={"fillOpacity": 70, "lineWidth": 0},
        thresholds=((1, "green"),),
        field_options={"mappings": [{"type": "value", "options": words}]},
        **more,
    )


def _without_number(words: str) -> Json:
    """In no colour of the thresholds: it is neither good nor bad."""
    result = {"text": words, "color": "text", "index": 0}
    return {"type": "special", "options": {"match": "null+nan", "result": result}}


def _joined(columns: tuple[Query, ...]) -> tuple[Json, ...]:
    """The answers of all queries as one table: lines that have the same labels become one."""
    values = ["Value"] if len(columns) == 1 else [f"Value #{chr(ord('A') + i)}" for i in range(len(columns))]
    names = {value: column.legend for value, column in zip(values, columns, strict=True)}
    hide = {"Time": True}
    return (
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": hide, "indexByName": {}, "renameByName": names}},
    )


def _as_number(label: str) -> Json:
    conversion = {"targetField": label, "destinationType": "number"}
    return {"id": "convertFieldType", "options": {"conversions": [conversion], "fields": {}}}


def _without_unit(label: str) -> Json:
    matcher = {"id": "byName", "options": label}
    return {"matcher": matcher, "properties": [{"id": "unit", "value": "none"}]}
