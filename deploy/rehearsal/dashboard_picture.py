"""Draws a dashboard with matplotlib: the same panels, positions, queries and units as in Grafana.

panel and query results -> the plot function of its panel type -> axes on the dashboard's grid -> PNG
"""

from __future__ import annotations

import io
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from . import grafana
from .panel_plots import LINE, PLOTS, TEXT, draw_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .panel_plots import QueryResults
    from .prometheus import Curve, Prometheus

_WIDTH_IN, _GRID_UNIT_IN, _DPI = 17.0, 0.34, 80
_COLUMNS = 24
_COLOURS = 128
_PAGE, _PANEL = "#f0f1f3", "#ffffff"
_NAMED = "a drawing: the panels' queries to a real Prometheus, plotted without Grafana"


def draw_dashboard(
    dashboard: dict[str, Any], prometheus: Prometheus, since: float, scrape_s: float, file: Path
) -> None:
    """Run the queries of all panels from `since` until now, and write the picture to `file`."""
    depth = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    height_in = (depth + 2) * _GRID_UNIT_IN
    with mpl.rc_context({"font.size": 8, "text.color": TEXT, "axes.edgecolor": LINE}):
        figure = Figure((_WIDTH_IN, height_in), dpi=_DPI, facecolor=_PAGE)
        figure.text(0.012, 1 - 1.2 / (depth + 2), dashboard["title"], fontsize=15, weight="bold")
        figure.text(0.988, 1 - 1.2 / (depth + 2), _NAMED, fontsize=9, alpha=0.8, horizontalalignment="right")
        results: dict[int, list[Any]] = defaultdict(list)
        for query in grafana.queries(dashboard, scrape_s, time.time() - since):
            run = prometheus.now if query.target["instant"] else _range_query(prometheus, since)
            results[query.panel["id"]].append((query, run(query.expression)))
        for panel in dashboard["panels"]:
            _draw_panel(figure, panel, depth + 2, results[panel["id"]])
        _write(figure, file)


def _range_query(prometheus: Prometheus, since: float) -> Callable[[str], list[Curve]]:
    step_s = max((time.time() - since) / 300, 1.0)
    return lambda expression: prometheus.over(expression, since, step_s)


def _draw_panel(figure: Figure, panel: dict[str, Any], depth: int, results: QueryResults) -> None:
    """Draw the frame, the title and the plot of a panel."""
    place = panel["gridPos"]
    left, width = place["x"] / _COLUMNS, place["w"] / _COLUMNS
    bottom, height = 1 - (place["y"] + 2 + place["h"]) / depth, place["h"] / depth
    if panel["type"] == "row":
        figure.text(0.012, bottom + height * 0.3, panel["title"], fontsize=10, weight="bold", alpha=0.8)
        return
    gap_x, gap_y = 0.003, 0.08 / depth
    left, width, bottom, height = left + gap_x, width - 2 * gap_x, bottom + gap_y, height - 2 * gap_y
    frame = figure.add_axes((left, bottom, width, height), facecolor=_PANEL, xticks=[], yticks=[])
    top = 1 - 0.35 / place["h"]
    frame.text(0.1 / place["w"], top, panel["title"], va="top", weight="bold", transform=frame.transAxes)
    inner = figure.add_axes((left + 0.028, bottom + 0.85 / depth, width - 0.036, height - 1.95 / depth))
    inner.set_facecolor(_PANEL)
    if any(curves for _, curves in results):
        PLOTS[panel["type"]](inner, panel, results)
    else:
        draw_text(inner, "no data on this machine")


def _write(figure: Figure, file: Path) -> None:
    # A palette of few colours keeps the file small enough for the repository.
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor=_PAGE)
    with Image.open(png) as picture:
        picture.convert("RGB").quantize(_COLOURS).save(file, optimize=True)
