"""Each kind of panel, drawn on its axes from what its queries were answered."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FuncFormatter

from .units import formatted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from . import grafana
    from .prometheus import Curve

    Answers = Sequence[tuple[grafana.PanelQuery, Sequence[Curve]]]
    Draw = Callable[[Axes, dict[str, Any], Answers], None]

TEXT, LINE = "#24292e", "#d5d8dc"

_LEGEND = 10
"""Entries of a legend, at most: those with the largest values."""

_HEADROOM = 1.3
"""Above the curves, for the legend."""

_STATES = {"green": "#3d9c4a", "yellow": "#d1a000", "red": "#d4323c", "blue": "#2f6fd6"}


def _curves(axes: Axes, panel: dict[str, Any], answers: Answers) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    begun = min(curve.times[0] for _, found in answers for curve in found)
    named = [(_name(one, curve), curve) for one, found in answers for curve in found]
    named.sort(key=lambda one: -max(one[1].values))
    if defaults["custom"]["stacking"]["mode"] == "normal":
        _stack(axes, named, begun)
    else:
        for name, curve in named:
            axes.plot(_minutes(curve, begun), curve.values, linewidth=1.1, label=name)
    if defaults["custom"]["thresholdsStyle"]["mode"] != "off":
        for step in defaults["thresholds"]["steps"][1:]:
            axes.axhline(step["value"], color=_STATES[step["color"]], linewidth=0.9, linestyle="--")
    axes.set_ylim(0, axes.get_ylim()[1] * _HEADROOM)
    _dress(axes, defaults["unit"])
    _legend(axes)


def _stack(axes: Axes, named: list[tuple[str, Curve]], begun: float) -> None:
    times = sorted({at for _, curve in named for at in curve.times})
    rows = [dict(zip(curve.times, curve.values, strict=True)) for _, curve in named]
    heights = [[row.get(at, 0.0) for at in times] for row in rows]
    minutes = [(at - begun) / 60 for at in times]
    axes.stackplot(minutes, heights, labels=[name for name, _ in named], alpha=0.6)


def _legend(axes: Axes) -> None:
    entries = (entries[:_LEGEND] for entries in axes.get_legend_handles_labels())
    axes.legend(
        *entries, fontsize=6.5, loc="upper left", ncols=2, framealpha=0.75, edgecolor=LINE, borderpad=0.3,
        labelspacing=0.2, handlelength=1.2, columnspacing=1.0,
    )  # fmt: skip


def _number(axes: Axes, panel: dict[str, Any], answers: Answers) -> None:
    [(_, [curve, *_])] = answers
    defaults = panel["fieldConfig"]["defaults"]
    value = curve.values[-1]
    reached = [
        step for step in defaults["thresholds"]["steps"] if step["value"] is None or value >= step["value"]
    ]
    colour = _STATES[reached[-1]["color"]]
    axes.fill_between(_minutes(curve, curve.times[0]), curve.values, color=colour, alpha=0.15, linewidth=0)
    axes.set_ylim(bottom=0)
    words(axes, formatted(value, defaults["unit"]), size=19, color=colour)


def _heat_map(axes: Axes, panel: dict[str, Any], answers: Answers) -> None:
    [(_, found)] = answers
    rising = sorted(found, key=lambda curve: float(curve.labels["le"]))
    times = sorted({at for curve in rising for at in curve.times})
    below = [[dict(zip(c.times, c.values, strict=True)).get(at, 0.0) for at in times] for c in rising]
    between = [
        [max(here - under, 0.0) for here, under in zip(row, before, strict=True)]
        for row, before in zip(below, [[0.0] * len(times), *below], strict=False)
    ]
    shown = [[math.sqrt(value) if value > 0 else math.nan for value in row] for row in between]
    minutes = [(at - times[0]) / 60 for at in times]
    axes.pcolormesh(minutes, range(len(rising)), shown, cmap="turbo", shading="nearest")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    marks = range(0, len(rising), 2)
    axes.set_yticks(list(marks), [formatted(float(rising[mark].labels["le"]), unit) for mark in marks])
    _dress(axes, "")


def _bars(axes: Axes, panel: dict[str, Any], answers: Answers) -> None:
    groups = sorted({_subject(curve) for _, found in answers for curve in found})
    width = 0.8 / len(answers)
    for index, (one, found) in enumerate(answers):
        heights = {_subject(curve): curve.values[0] for curve in found}
        places = [at + (index - (len(answers) - 1) / 2) * width for at in range(len(groups))]
        axes.bar(places, [heights.get(group, 0) for group in groups], width, label=one.target["legendFormat"])
    axes.set_xticks(range(len(groups)), groups, fontsize=6.5)
    axes.legend(fontsize=6.5, framealpha=0.75, edgecolor=LINE)
    _dress(axes, panel["fieldConfig"]["defaults"]["unit"], x=False)


def _states(axes: Axes, _: dict[str, Any], answers: Answers) -> None:
    [(one, found)] = answers
    begun = min(curve.times[0] for curve in found)
    for row, curve in enumerate(found):
        minutes = _minutes(curve, begun)
        widths = [later - at for at, later in itertools.pairwise(minutes)]
        colours = [_STATES["green" if value else "red"] for value in curve.values]
        axes.broken_barh(list(zip(minutes, widths, strict=False)), (row - 0.4, 0.8), facecolors=colours)
        axes.text(minutes[0], row, f" {_name(one, curve)}", color="white", va="center", fontsize=7)
    axes.set_yticks([])
    _dress(axes, "")


def _table(axes: Axes, panel: dict[str, Any], answers: Answers) -> None:
    lines: dict[tuple[tuple[str, str], ...], dict[str, float]] = defaultdict(dict)
    for one, found in answers:
        for curve in found:
            lines[tuple(sorted(curve.labels.items()))][one.target["legendFormat"]] = curve.values[0]
    labels = sorted({name for line in lines for name, _ in line})
    columns = [one.target["legendFormat"] for one, _ in answers]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    cells = [
        [dict(line).get(name, "") for name in labels]
        + [_cell(values.get(column), unit) for column in columns]
        for line, values in sorted(lines.items(), key=lambda item: _natural(item[0]))
    ]
    axes.axis("off")
    made = axes.table(
        cells, colLabels=[*labels, *columns], loc="upper left", cellLoc="left", edges="horizontal"
    )
    made.auto_set_font_size(False)
    made.set_fontsize(6.5)
    made.auto_set_column_width(list(range(len(labels) + len(columns))))
    made.scale(1, min(1.0, 15.5 * panel["gridPos"]["h"] / 10 / (len(cells) + 1)))
    for cell in made.get_celld().values():
        cell.set_edgecolor(LINE)


KINDS: dict[str, Draw] = {
    "timeseries": _curves,
    "stat": _number,
    "heatmap": _heat_map,
    "barchart": _bars,
    "state-timeline": _states,
    "table": _table,
}


def _name(one: grafana.PanelQuery, curve: Curve) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: curve.labels.get(found[1], ""), one.target["legendFormat"])


def _subject(curve: Curve) -> str:
    return " ".join(curve.labels.values())


def _natural(line: tuple[tuple[str, str], ...]) -> list[tuple[int, str]]:
    """Numbers by their value, words by their letters."""
    return [(int(value), "") if value.isdigit() else (0, value) for _, value in line]


def _minutes(curve: Curve, begun: float) -> list[float]:
    return [(at - begun) / 60 for at in curve.times]


def words(axes: Axes, words: str, size: float = 9, color: str = TEXT) -> None:
    axes.axis("off")
    axes.text(0.5, 0.5, words, ha="center", va="center", fontsize=size, color=color, transform=axes.transAxes)


def _dress(axes: Axes, unit: str, *, x: bool = True) -> None:
    axes.tick_params(length=0, labelsize=6.5, labelcolor=TEXT)
    axes.grid(color=LINE, linewidth=0.4, axis="both" if x else "y")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if x:
        axes.margins(x=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda minutes, _: f"{minutes:g} min"))
    if unit:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value, unit)))


def _cell(value: float | None, unit: str) -> str:
    return "" if value is None else formatted(value, unit)
