"""A dashboard as a picture: the same panels, places, queries and units as in Grafana, drawn by matplotlib.

panel + what Prometheus answered -> the kind's own function -> axes on the dashboard's grid -> a PNG.
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
from .drawings import KINDS, LINE, TEXT, words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .drawings import Answers
    from .prometheus import Curve, Prometheus

_WIDTH_IN, _UNIT_IN, _DPI = 17.0, 0.34, 80
_COLUMNS = 24
_COLOURS = 128
_PAGE, _PANEL = "#f0f1f3", "#ffffff"


def draw(
    dashboard: dict[str, Any], prometheus: Prometheus, since: float, scrape_s: float, file: Path
) -> None:
    """Ask every panel's queries and write the picture of all of them."""
    depth = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    height_in = (depth + 2) * _UNIT_IN
    with mpl.rc_context({"font.size": 8, "text.color": TEXT, "axes.edgecolor": LINE}):
        figure = Figure((_WIDTH_IN, height_in), dpi=_DPI, facecolor=_PAGE)
        figure.text(0.012, 1 - 1.2 / (depth + 2), dashboard["title"], fontsize=15, weight="bold")
        answers: dict[int, list[Any]] = defaultdict(list)
        for one in grafana.asked(dashboard, scrape_s, time.time() - since):
            found = prometheus.now if one.target["instant"] else _over(prometheus, since)
            answers[one.panel["id"]].append((one, found(one.expression)))
        for panel in dashboard["panels"]:
            _place(figure, panel, depth + 2, answers[panel["id"]])
        _write(figure, file)


def _over(prometheus: Prometheus, since: float) -> Callable[[str], list[Curve]]:
    step_s = max((time.time() - since) / 300, 1.0)
    return lambda expression: prometheus.over(expression, since, step_s)


def _place(figure: Figure, panel: dict[str, Any], depth: int, answers: Answers) -> None:
    """The panel's card on the page, and its drawing in it."""
    place = panel["gridPos"]
    left, width = place["x"] / _COLUMNS, place["w"] / _COLUMNS
    bottom, height = 1 - (place["y"] + 2 + place["h"]) / depth, place["h"] / depth
    if panel["type"] == "row":
        figure.text(0.012, bottom + height * 0.3, panel["title"], fontsize=10, weight="bold", alpha=0.8)
        return
    gap_x, gap_y = 0.003, 0.08 / depth
    left, width, bottom, height = left + gap_x, width - 2 * gap_x, bottom + gap_y, height - 2 * gap_y
    card = figure.add_axes((left, bottom, width, height), facecolor=_PANEL, xticks=[], yticks=[])
    top = 1 - 0.35 / place["h"]
    card.text(0.1 / place["w"], top, panel["title"], va="top", weight="bold", transform=card.transAxes)
    inner = figure.add_axes((left + 0.028, bottom + 0.85 / depth, width - 0.036, height - 1.95 / depth))
    inner.set_facecolor(_PANEL)
    if any(found for _, found in answers):
        KINDS[panel["type"]](inner, panel, answers)
    else:
        words(inner, "no data on this machine")


def _write(figure: Figure, file: Path) -> None:
    """As a PNG of few colours: small enough for the repository."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", facecolor=_PAGE)
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(_COLOURS).save(file, optimize=True)
