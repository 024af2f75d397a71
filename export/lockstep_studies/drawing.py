"""Draws panels into an SVG file with matplotlib (the extra `plot`), readable on light and dark pages.

Text stays text, axes and labels are mid-grey, and the background is transparent. The same panels give the
same bytes, so a file changes only when a number does.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep_client import extras
from lockstep_client.figures import (
    COLOURS,
    INK,
    draw_colour_bar,
    draw_grid,
    draw_legend_below,
    log_ticks,
    log_x_at,
    new_axes,
    new_figure,
    series_styles,
    svg_settings,
)
from lockstep_export.errors import ExportError
from lockstep_studies.study import Grid, StudyPanel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 5.4, 4.6  # inches, of one panel
LEAST_WIDTH = 7.0  # inches, of the whole figure
COLUMNS = 2  # of the legend, plus one for each panel
FEW, MOST_PLAIN = 30.0, 3e4  # ratios of an axis's upper to its lower limit
BRIGHT = 0.6  # shares above it are labelled in black, others in white
BAR, FRAME = 0.3, 1.2  # inches: height of one bar, and around all of them
SALT = "lockstep"


def check_drawing() -> None:
    """Raises ExportError if matplotlib is not installed."""
    if not find_spec("matplotlib"):
        raise ExportError(extras.missing("drawing a study", "matplotlib", "plot"))


def draw(panels: Sequence[StudyPanel], path: Path) -> None:
    """Writes the panels side by side as SVG."""
    height = max(HEIGHT, *(FRAME + BAR * len(panel.bars) for panel in panels))
    figure = new_figure(max(LEAST_WIDTH, WIDTH * len(panels)), height)
    for index, panel in enumerate(panels, 1):
        axes = new_axes(
            figure, 1, len(panels), index, title=panel.title, x_label=panel.x_label, y_label=panel.y_label
        )
        _chart(axes, panel)
    draw_legend_below(figure, COLUMNS + len(panels))
    with svg_settings(SALT):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _chart(axes: "Axes", panel: StudyPanel) -> None:
    if panel.grid:
        _grid(axes, panel.grid)
    elif panel.bars:
        _bars(axes, panel)
    else:
        _lines(axes, panel)
    if panel.x_range:
        axes.set_xlim(*panel.x_range)


def _lines(axes: "Axes", panel: StudyPanel) -> None:
    originals = [line.label for line in panel.lines if not line.variant_of]
    style_of = dict(zip(originals, series_styles(), strict=False))
    for line in panel.lines:
        colour, mark = style_of[line.variant_of or line.label]
        axes.plot(
            line.x, line.y, ls=":" if line.variant_of else "-", color=colour, label=line.label,
            marker=mark if panel.marks else "", markersize=5,
        )  # fmt: skip
    if panel.log_x:
        log_x_at(axes, sorted({x for line in panel.lines for x in line.x}))
    if panel.log_y:
        axes.set_yscale("log")
        _plain_numbers(axes)
    draw_grid(axes)


def _plain_numbers(axes: "Axes") -> None:
    """Labels 1, 2, 5, 10, … on a log axis, or more if its range is small; powers of ten if it is large."""
    low, high = axes.get_ylim()
    if high / low < MOST_PLAIN:
        steps = (1, 2, 5) if high / low > FEW else (1, 1.5, 2, 3, 4, 5, 6, 8)
        log_ticks(axes.yaxis, steps)


def _bars(axes: "Axes", panel: StudyPanel) -> None:
    names, values = [bar.label for bar in panel.bars], [bar.value for bar in panel.bars]
    errors = [bar.error for bar in panel.bars]
    bars = axes.barh(range(len(names)), values, xerr=errors, color=COLOURS[0], ecolor=INK, height=0.6)
    axes.bar_label(bars, fmt="{:.1f}", padding=3, color=INK, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    draw_grid(axes, axis="x")


def _grid(axes: "Axes", grid: Grid) -> None:
    mesh = axes.pcolormesh(grid.shares, vmin=0, vmax=1, cmap="viridis", edgecolors=INK, linewidth=0.5)
    axes.set_xticks([column + 0.5 for column in range(len(grid.columns))], grid.columns)
    axes.set_yticks([row + 0.5 for row in range(len(grid.labels))], grid.labels)
    axes.invert_yaxis()
    for row, shares in enumerate(grid.shares):
        for column, share in enumerate(shares):
            ink = "black" if share > BRIGHT else "white"
            axes.text(column + 0.5, row + 0.5, f"{share:.0%}", ha="center", va="center", color=ink)
    draw_colour_bar(axes, mesh, grid.unit, format=lambda share, _: f"{share:.0%}")
