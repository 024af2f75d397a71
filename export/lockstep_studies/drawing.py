"""Draws panels into an SVG file with matplotlib (the extra `plot`), readable on light and dark pages.

Text stays text, axes and labels are mid-grey, and the background is transparent. The same panels give the
same bytes, so a file changes only when a number does.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep_export.errors import ExportError
from lockstep_studies.study import Grid, LineSeries, StudyPanel

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#808080"
COLOURS = ("#1f9e89", "#d95f02", "#7570b3", "#d6418b", "#66a61e", "#b8860b")
MARKS = "os^Dv"  # a cycle of another length than COLOURS, so that two lines rarely share both
WIDTH, HEIGHT = 5.4, 4.6  # inches, of one panel
LEAST_WIDTH = 7.0  # inches, of the whole figure
COLUMNS = 2  # of the legend, plus one for each panel
FEW, MOST_PLAIN = 30.0, 3e4  # ratios of an axis's upper to its lower limit
BRIGHT = 0.6  # shares above it are labelled in black, others in white
BAR, FRAME = 0.3, 1.2  # inches: height of one bar, and around all of them
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "lockstep", "font.size": 10}


def check_drawing() -> None:
    """Raises ExportError if matplotlib is not installed."""
    if not find_spec("matplotlib"):
        raise ExportError(
            "drawing a study needs matplotlib: install the extra with pip install '.[plot]'"
            " in a checkout of Lockstep"
        )


def draw(panels: Sequence[StudyPanel], path: Path) -> None:
    """Writes the panels side by side as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    height = max(HEIGHT, *(FRAME + BAR * len(panel.bars) for panel in panels))
    with mpl.rc_context(STYLE):
        figure = Figure(
            (max(LEAST_WIDTH, WIDTH * len(panels)), height), layout="constrained", facecolor="none"
        )
        for index, panel in enumerate(panels, 1):
            _chart(figure.add_subplot(1, len(panels), index, facecolor="none"), panel)
        _legend(figure, len(panels))
        figure.savefig(path, format="svg", metadata={"Date": None})


def _chart(axes: "Axes", panel: StudyPanel) -> None:
    axes.set_title(panel.title, color=INK, fontsize=11)
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.grid:
        _grid(axes, panel.grid)
    elif panel.bars:
        _bars(axes, panel)
    else:
        _lines(axes, panel)
    if panel.x_range:
        axes.set_xlim(*panel.x_range)
    _ink(axes)


def _lines(axes: "Axes", panel: StudyPanel) -> None:
    styles = zip(cycle(COLOURS), cycle(MARKS), strict=False)
    style_of = {line.label: style for line, style in zip(_originals(panel), styles, strict=False)}
    for line in panel.lines:
        colour, mark = style_of[line.variant_of or line.label]
        axes.plot(
            line.x, line.y, ls=":" if line.variant_of else "-", color=colour, label=line.label,
            marker=mark if panel.marks else "", markersize=5,
        )  # fmt: skip
    if panel.log_x:
        axes.set_xscale("log")
        axes.set_xticks(sorted({x for line in panel.lines for x in line.x}))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.minorticks_off()
    if panel.log_y:
        axes.set_yscale("log")
        _plain_numbers(axes)
    axes.grid(color=INK, alpha=0.25)


def _originals(panel: StudyPanel) -> list[LineSeries]:
    return [line for line in panel.lines if not line.variant_of]


def _plain_numbers(axes: "Axes") -> None:
    """Labels 1, 2, 5, 10, … on a log axis, or more if its range is small; powers of ten if it is large."""
    from matplotlib.ticker import LogLocator

    low, high = axes.get_ylim()
    if high / low < MOST_PLAIN:
        steps = (1, 2, 5) if high / low > FEW else (1, 1.5, 2, 3, 4, 5, 6, 8)
        axes.yaxis.set_major_locator(LogLocator(subs=steps))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.minorticks_off()


def _bars(axes: "Axes", panel: StudyPanel) -> None:
    names, values = [bar.label for bar in panel.bars], [bar.value for bar in panel.bars]
    errors = [bar.error for bar in panel.bars]
    bars = axes.barh(range(len(names)), values, xerr=errors, color=COLOURS[0], ecolor=INK, height=0.6)
    axes.bar_label(bars, fmt="{:.1f}", padding=3, color=INK, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="x", color=INK, alpha=0.25)


def _grid(axes: "Axes", grid: Grid) -> None:
    mesh = axes.pcolormesh(grid.shares, vmin=0, vmax=1, cmap="viridis", edgecolors=INK, linewidth=0.5)
    axes.set_xticks([column + 0.5 for column in range(len(grid.columns))], grid.columns)
    axes.set_yticks([row + 0.5 for row in range(len(grid.labels))], grid.labels)
    axes.invert_yaxis()
    for row, shares in enumerate(grid.shares):
        for column, share in enumerate(shares):
            ink = "black" if share > BRIGHT else "white"
            axes.text(column + 0.5, row + 0.5, f"{share:.0%}", ha="center", va="center", color=ink)
    bar = axes.figure.colorbar(mesh, ax=axes, format=lambda share, _: f"{share:.0%}")
    bar.set_label(grid.unit, color=INK)
    bar.ax.tick_params(colors=INK)


def _ink(axes: "Axes") -> None:
    axes.tick_params(colors=INK, which="both")
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(INK)
    for side in axes.spines.values():
        side.set_color(INK)


def _legend(figure: "Figure", panels: int) -> None:
    """One legend for all panels; a label that several panels share appears once."""
    shown: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    if shown:
        handles, labels = list(shown.values()), list(shown)
        columns = min(len(shown), COLUMNS + panels)
        figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, fontsize=9, labelcolor=INK,
            facecolor="none", edgecolor="none",
        )  # fmt: skip
