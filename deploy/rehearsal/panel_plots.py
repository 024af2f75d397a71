"""Draws each panel type on matplotlib axes: panel and query results -> plot."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from . import grafana
    from .prometheus import Curve

    QueryResults = Sequence[tuple[grafana.PanelQuery, Sequence[Curve]]]
    Plot = Callable[[Axes, dict[str, Any], QueryResults], None]

TEXT, LINE = "#24292e", "#d5d8dc"

_MAX_LEGEND_ENTRIES = 10
"""Number of legend entries: the curves with the largest values."""

_HEADROOM = 1.3
"""Factor by which the y axis exceeds the largest value, to leave space for the legend."""

_COLOURS = {"green": "#3d9c4a", "yellow": "#d1a000", "red": "#d4323c", "blue": "#2f6fd6"}


def _plot_curves(axes: Axes, panel: dict[str, Any], results: QueryResults) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    start = min(curve.times[0] for _, curves in results for curve in curves)
    named = [(_legend_text(query, curve), curve) for query, curves in results for curve in curves]
    named.sort(key=lambda pair: -max(pair[1].values))
    if defaults["custom"]["stacking"]["mode"] == "normal":
        _plot_stack(axes, named, start)
    else:
        for name, curve in named:
            axes.plot(_minutes(curve, start), curve.values, linewidth=1.1, label=name)
    if defaults["custom"]["thresholdsStyle"]["mode"] != "off":
        for step in defaults["thresholds"]["steps"][1:]:
            axes.axhline(step["value"], color=_COLOURS[step["color"]], linewidth=0.9, linestyle="--")
    axes.set_ylim(0, axes.get_ylim()[1] * _HEADROOM)
    _style_axes(axes, defaults["unit"])
    _legend(axes)


def _plot_stack(axes: Axes, named: list[tuple[str, Curve]], start: float) -> None:
    times = sorted({at for _, curve in named for at in curve.times})
    rows = [dict(zip(curve.times, curve.values, strict=True)) for _, curve in named]
    heights = [[row.get(at, 0.0) for at in times] for row in rows]
    minutes = [(at - start) / 60 for at in times]
    axes.stackplot(minutes, heights, labels=[name for name, _ in named], alpha=0.6)


def _legend(axes: Axes) -> None:
    entries = (entries[:_MAX_LEGEND_ENTRIES] for entries in axes.get_legend_handles_labels())
    axes.legend(
        *entries, fontsize=6.5, loc="upper left", ncols=2, framealpha=0.75, edgecolor=LINE, borderpad=0.3,
        labelspacing=0.2, handlelength=1.2, columnspacing=1.0,
    )  # fmt: skip


def _plot_stat(axes: Axes, panel: dict[str, Any], results: QueryResults) -> None:
    [(_, [curve, *_])] = results
    defaults = panel["fieldConfig"]["defaults"]
    value = curve.values[-1]
    steps = [
        step for step in defaults["thresholds"]["steps"] if step["value"] is None or value >= step["value"]
    ]
    colour = _COLOURS[steps[-1]["color"]]
    axes.fill_between(_minutes(curve, curve.times[0]), curve.values, color=colour, alpha=0.15, linewidth=0)
    axes.set_ylim(bottom=0)
    draw_text(axes, formatted(value, defaults["unit"]), size=19, color=colour)


def _plot_heatmap(axes: Axes, panel: dict[str, Any], results: QueryResults) -> None:
    [(_, curves)] = results
    buckets = sorted(curves, key=lambda curve: float(curve.labels["le"]))
    times = sorted({at for curve in buckets for at in curve.times})
    cumulative = [[dict(zip(c.times, c.values, strict=True)).get(at, 0.0) for at in times] for c in buckets]
    counts = [
        [max(here - under, 0.0) for here, under in zip(row, before, strict=True)]
        for row, before in zip(cumulative, [[0.0] * len(times), *cumulative], strict=False)
    ]
    shown = [[math.sqrt(value) if value > 0 else math.nan for value in row] for row in counts]
    minutes = [(at - times[0]) / 60 for at in times]
    axes.pcolormesh(minutes, range(len(buckets)), shown, cmap="turbo", shading="nearest")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    marks = range(0, len(buckets), 2)
    axes.set_yticks(list(marks), [formatted(float(buckets[mark].labels["le"]), unit) for mark in marks])
    _style_axes(axes, "")


def _plot_bars(axes: Axes, panel: dict[str, Any], results: QueryResults) -> None:
    groups = sorted({_label_text(curve) for _, curves in results for curve in curves})
    width = 0.8 / len(results)
    for index, (query, curves) in enumerate(results):
        heights = {_label_text(curve): curve.values[0] for curve in curves}
        positions = [at + (index - (len(results) - 1) / 2) * width for at in range(len(groups))]
        axes.bar(
            positions, [heights.get(group, 0) for group in groups], width, label=query.target["legendFormat"]
        )
    axes.set_xticks(range(len(groups)), groups, fontsize=6.5)
    axes.legend(fontsize=6.5, framealpha=0.75, edgecolor=LINE)
    _style_axes(axes, panel["fieldConfig"]["defaults"]["unit"], x=False)


def _plot_states(axes: Axes, _: dict[str, Any], results: QueryResults) -> None:
    [(query, curves)] = results
    start = min(curve.times[0] for curve in curves)
    for row, curve in enumerate(curves):
        minutes = _minutes(curve, start)
        widths = [later - at for at, later in itertools.pairwise(minutes)]
        colours = [_COLOURS["green" if value else "red"] for value in curve.values]
        axes.broken_barh(list(zip(minutes, widths, strict=False)), (row - 0.4, 0.8), facecolors=colours)
        axes.text(minutes[0], row, f" {_legend_text(query, curve)}", color="white", va="center", fontsize=7)
    axes.set_yticks([])
    _style_axes(axes, "")


def _plot_table(axes: Axes, panel: dict[str, Any], results: QueryResults) -> None:
    rows: dict[tuple[tuple[str, str], ...], dict[str, float]] = defaultdict(dict)
    for query, curves in results:
        for curve in curves:
            rows[tuple(sorted(curve.labels.items()))][query.target["legendFormat"]] = curve.values[0]
    labels = sorted({name for row in rows for name, _ in row})
    columns = [query.target["legendFormat"] for query, _ in results]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    cells = [
        [dict(row).get(name, "") for name in labels] + [_cell(values.get(column), unit) for column in columns]
        for row, values in sorted(rows.items(), key=lambda item: _sort_key(item[0]))
    ]
    axes.axis("off")
    drawn = axes.table(
        cells, colLabels=[*labels, *columns], loc="upper left", cellLoc="left", edges="horizontal"
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(6.5)
    drawn.auto_set_column_width(list(range(len(labels) + len(columns))))
    drawn.scale(1, min(1.0, 15.5 * panel["gridPos"]["h"] / 10 / (len(cells) + 1)))
    for cell in drawn.get_celld().values():
        cell.set_edgecolor(LINE)


PLOTS: dict[str, Plot] = {
    "timeseries": _plot_curves,
    "stat": _plot_stat,
    "heatmap": _plot_heatmap,
    "barchart": _plot_bars,
    "state-timeline": _plot_states,
    "table": _plot_table,
}


def _legend_text(query: grafana.PanelQuery, curve: Curve) -> str:
    return re.sub(
        r"\{\{(\w+)\}\}", lambda match: curve.labels.get(match[1], ""), query.target["legendFormat"]
    )


def _label_text(curve: Curve) -> str:
    return " ".join(curve.labels.values())


def _sort_key(row: tuple[tuple[str, str], ...]) -> list[tuple[int, str]]:
    """Sort integers by value and other labels by text."""
    return [(int(value), "") if value.isdigit() else (0, value) for _, value in row]


def _minutes(curve: Curve, start: float) -> list[float]:
    return [(at - start) / 60 for at in curve.times]


def draw_text(axes: Axes, text: str, size: float = 9, color: str = TEXT) -> None:
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=size, color=color, transform=axes.transAxes)


def _style_axes(axes: Axes, unit: str, *, x: bool = True) -> None:
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


def formatted(value: float, unit: str) -> str:
    """Format a value roughly as Grafana does. An infinite histogram bound is "more"."""
    if math.isinf(value):
        return "more"
    if unit == "percentunit":
        return f"{value * 100:.4g} %"
    if unit == "s" and value < 60:
        for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
            if value * factor >= 1 or name == "µs":
                return f"{value * factor:.3g} {name}"
    if unit == "s":
        return f"{value / 60:.3g} min"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    shown = f"{value / 1000:.3g}k" if value >= 10_000 else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return shown + {"reqps": " req/s", "ops": "/s"}.get(unit, "")
