"""Functions that create a panel of each type the dashboards use, with its drawing options."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .dashboard import Panel, Query
from .promql import or_nan

if TYPE_CHECKING:
    from .dashboard_settings import Json

_LEGEND: Json = {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["mean", "max"]}
_TOOLTIP: Json = {"mode": "multi", "sort": "desc"}

_NO_DATA = "no data"


def time_series(
    title: str,
    unit: str,
    description: str,
    *queries: Query,
    stacked: bool = False,
    threshold_style: str = "",
    **more: Any,
) -> Panel:
    """Values over time. `threshold_style` draws the thresholds as "line" or "dashed"."""
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
            "thresholdsStyle": {"mode": threshold_style or "off"},
        },
        field_options={"min": 0, **more.pop("field_options", {})},
        **more,
    )


def stat(
    title: str, unit: str, description: str, query: Query, *, nan_text: str = _NO_DATA, **more: Any
) -> Panel:
    """The last value of a query without labels, coloured by threshold, with its history as background.

    Args:
        nan_text: shown if the value is NaN (no requests) or missing (no server). The query returns NaN
            instead of nothing, because Grafana would otherwise keep showing the last good value.
    """
    return Panel(
        "stat",
        title,
        description,
        unit,
        (replace(query, expr=or_nan(query.expr)),),
        width=more.pop("width", 4),
        height=4,
        options={
            # Not "lastNotNull": it would skip NaN and show the last good value.
            "reduceOptions": {"calcs": ["last"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "textMode": "value",
            "wideLayout": True,
        },
        field_options={
            "noValue": _NO_DATA,
            "mappings": [_nan_mapping(nan_text)],
            **more.pop("field_options", {}),
        },
        **more,
    )


def heatmap(title: str, unit: str, description: str, query: Query, **more: Any) -> Panel:
    """Histogram bucket counts over time."""
    return Panel(
        "heatmap",
        title,
        description,
        unit,
        (query,),
        format="heatmap",
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
    title: str,
    unit: str,
    description: str,
    *columns: Query,
    numeric_labels: tuple[str, ...] = (),
    **more: Any,
) -> Panel:
    """A row per combination of labels, and a column per query, named by its legend.

    Args:
        numeric_labels: labels with integer values. Rows are sorted by them.
    """
    return Panel(
        "table",
        title,
        description,
        unit,
        columns,
        format="table",
        instant=True,
        options={
            "cellHeight": "sm",
            "showHeader": True,
            "footer": {"show": False},
            "sortBy": [
                {"displayName": one, "desc": False}
                for one in (("model", *numeric_labels) if numeric_labels else ())
            ],
        },
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True},
        transformations=(*_joined(columns), *map(_as_number, numeric_labels)),
        overrides=tuple(map(_without_unit, numeric_labels)),
        **more,
    )


def bar_chart(title: str, unit: str, description: str, *columns: Query, group: str, **more: Any) -> Panel:
    """A group of bars per value of the label `group`, with one bar per query."""
    return Panel(
        "barchart",
        title,
        description,
        unit,
        columns,
        format="table",
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


def state_timeline(title: str, description: str, query: Query, *, off: str, on: str, **more: Any) -> Panel:
    """A 0/1 value over time, shown as the texts `off` and `on`."""
    texts = {
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
        field_options={"mappings": [{"type": "value", "options": texts}]},
        **more,
    )


def _nan_mapping(text: str) -> Json:
    # In the text colour rather than a threshold colour: no value is neither good nor bad.
    result = {"text": text, "color": "text", "index": 0}
    return {"type": "special", "options": {"match": "null+nan", "result": result}}


def _joined(columns: tuple[Query, ...]) -> tuple[Json, ...]:
    """Join the results of all queries into one table, merging rows with the same labels."""
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
