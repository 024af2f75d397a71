"""The parts that all plots share: figures, axes, series styles, legends. matplotlib is the extra `plot`.

Plots are readable on light and dark pages: text and lines are mid-grey on a transparent background, and the
colours of the series have about equal brightness. matplotlib is imported on first use.
"""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK = "#808080"
"""Colour of text and lines."""

COLOURS = ("#1f9e89", "#d95f02", "#7570b3", "#d6418b", "#66a61e", "#b8860b")
MARKERS = "os^Dv"
"""Markers help colour-blind readers. One fewer than the colours, so that two series rarely share both."""

_LEGEND: dict[str, Any] = {"fontsize": 9, "labelcolor": INK, "facecolor": "none", "edgecolor": "none"}


def series_styles() -> Iterator[tuple[str, str]]:
    """The colour and marker of each series, without end."""
    return zip(cycle(COLOURS), cycle(MARKERS), strict=False)


def new_figure(width: float, height: float) -> Figure:
    """An empty, transparent figure; `width` and `height` are in inches."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained", facecolor="none")


def new_axes(
    figure: Figure,
    rows: int = 1,
    columns: int = 1,
    at: int = 1,
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
) -> Axes:
    """Axes at place `at` (from 1) of a grid of `rows` x `columns`."""
    axes: Axes = figure.add_subplot(rows, columns, at, facecolor="none")
    axes.set_title(title, color=INK, fontsize=11)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.tick_params(colors=INK, which="both")
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(INK)
    for side in axes.spines.values():
        side.set_color(INK)
    return axes


def draw_grid(axes: Axes, **options: Any) -> None:
    """Draw faint lines at the major ticks."""
    axes.grid(which="major", color=INK, alpha=0.25, **options)


def log_ticks(axis: Axis, steps: Sequence[float] = (1, 2, 5)) -> None:
    """Ticks of a logarithmic axis at `steps` times powers of ten, written as plain numbers."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter("{x:,g}")
    axis.minorticks_off()


def log_x_at(axes: Axes, values: Sequence[float], labels: Sequence[str] | None = None) -> None:
    """A logarithmic x axis with ticks at `values` only, written as plain numbers or as `labels`."""
    axes.set_xscale("log")
    axes.set_xticks(values, labels)
    if labels is None:
        axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.minorticks_off()


def draw_colour_bar(axes: Axes, image: Any, label: str, **options: Any) -> None:
    """Draw the scale of a heat map next to `axes`."""
    bar = axes.figure.colorbar(image, ax=axes, **options)
    bar.set_label(label, color=INK)
    bar.ax.tick_params(colors=INK)


def draw_legend(axes: Axes) -> None:
    """Draw the legend of the labelled series; none if there are none."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(**_LEGEND)


def draw_legend_below(figure: Figure, columns: int) -> None:
    """Draw one legend for all axes; a label that several axes share appears once."""
    shown: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    if shown:
        columns = min(len(shown), columns)
        figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=columns, **_LEGEND)


def svg_settings(salt: str) -> AbstractContextManager[None]:
    """Within the block, SVG files have text as text and ids that depend on `salt` and the plot alone."""
    from matplotlib import rc_context

    return rc_context({"svg.fonttype": "none", "svg.hashsalt": salt})
